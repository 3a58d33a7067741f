// Listens for changes of the page that is open, and has htmx fetch it again when there is one.
"use strict";
let source = null;
const main = () => document.getElementById("main");
function listen() {
  if (source) source.close();
  source = new EventSource("/live?path=" + encodeURIComponent(main().dataset.live) + "&mark=" + main().dataset.mark);
  source.addEventListener("changed", (event) => {
    // Nothing moves under the hands of somebody who types, chooses, selects or is asked whether to go on.
    const active = document.activeElement;
    const busy = active && active.closest("form.filter");
    const reads = String(getSelection()) || document.querySelector("details.sure[open]");
    if (event.data !== main().dataset.mark && !busy && !reads) document.body.dispatchEvent(new Event("changed"));
    else if (busy || reads) setTimeout(listen, 3000);
  });
}
addEventListener("DOMContentLoaded", listen);
addEventListener("pagehide", () => source && source.close());
addEventListener("pageshow", (event) => { if (event.persisted) listen(); });
