// A Node.js server that is told of versions by HTTP: node server.mjs PORT
// POST /-/load {"path", "generation"} loads beside the old model and switches between two requests, so that none is lost;
// 500 and a sentence if it does not load. POST / answers by the model. GET /-/serving says which version and generation.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";

let model = null;

async function load({ path, version, generation }) {
  if (model?.generation === generation) return; // told again: nothing to do
  const weights = JSON.parse(await readFile(`${path}/model.json`, "utf8"));
  if (typeof weights.factor !== "number") throw new Error("the model has no factor");
  model = { run: (x) => x * weights.factor, version, generation };
}

const server = createServer(async (request, response) => {
  const answer = (status, document) => {
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(JSON.stringify(document));
  };
  try {
    let body = "";
    for await (const part of request) body += part;
    if (request.url === "/-/load" && request.method === "POST") {
      await load(JSON.parse(body));
      answer(200, { generation: model.generation });
    } else if (request.url === "/-/serving") {
      answer(200, { version: model?.version ?? null, generation: model?.generation ?? null });
    } else if (model === null) {
      answer(503, { error: "no model yet" });
    } else {
      const serving = model; // this request keeps it, whatever is loaded meanwhile
      await new Promise((done) => setTimeout(done, 10));
      answer(200, { y: serving.run(JSON.parse(body).x), version: serving.version });
    }
  } catch (error) {
    answer(500, { error: error.message });
  }
});
server.listen(Number(process.argv[2]), "127.0.0.1");
process.on("SIGTERM", () => server.close(() => process.exit(0))); // what is under way is answered first
