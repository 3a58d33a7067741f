// Listens for changes of the page that is open, and has htmx fetch it again when there is one.
"use strict";
const page = () => location.pathname + location.search.replace(/[?&]said=[^&]*/, "");
let source = null;
function listen() {
  source = new EventSource("/live?path=" + encodeURIComponent(page()));
  source.addEventListener("changed", () => {
    // Nothing moves under the hands of somebody who types.
    const active = document.activeElement;
    if (!active || !active.closest("form.filter")) document.body.dispatchEvent(new Event("changed"));
  });
}
addEventListener("DOMContentLoaded", listen);
addEventListener("pagehide", () => source && source.close());
addEventListener("pageshow", (event) => { if (event.persisted) listen(); });
