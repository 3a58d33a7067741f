// The task's only step: INPUT_… in, ##vso[…] out. No packages: an agent has Node, and modelsync does the rest.
"use strict";
const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] || "").trim();
const lines = (text) => text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
// As the agent reads them: azure-pipelines-agent, docs/preview/outputvariable.md and its own escaping of commands.
const data = (text) => text.replace(/%/g, "%AZP25").replace(/\r/g, "%0D").replace(/\n/g, "%0A");

function command(name, properties, message) {
  const said = Object.entries(properties).map(([key, value]) => `${key}=${data(value).replace(/]/g, "%5D").replace(/;/g, "%3B")}`);
  process.stdout.write(`##vso[${name} ${said.join(";")}]${data(String(message))}\n`);
}

function fail(sentence) {
  command("task.complete", { result: "Failed" }, sentence);
  process.exitCode = 1;
}

function unpacked(keys, work) {
  if (fs.statSync(keys).isDirectory()) return keys;
  const folder = path.join(work, "keys");
  fs.mkdirSync(folder, { mode: 0o700 });
  const done = spawnSync("tar", ["-C", folder, "-xf", keys], { encoding: "utf8" });
  if (done.error || done.status !== 0) throw new Error(`${keys} is no tar of a key folder.`);
  return folder;
}

function publish(work) {
  for (const name of ["store", "model", "source"]) {
    if (!input(name)) return fail(`the input ${name} is missing.`);
  }
  const more = lines(input("arguments"));
  if (input("probe")) more.push("--probe", input("probe"));
  if (input("keys")) more.push("--keys", unpacked(input("keys"), work));
  const words = ["publish", ...more, "--json", "--", input("store"), input("model"), input("source")];
  const done = spawnSync("modelsync", words, { encoding: "utf8", maxBuffer: 1 << 26 });
  if (done.error) return fail("modelsync is not installed: run python -m pip install modelsync-server in a step before.");
  process.stderr.write(done.stderr);
  if (done.status !== 0) return fail(lines(done.stderr).pop() || `modelsync ended with ${done.status}.`);
  const made = JSON.parse(done.stdout);
  const outputs = { version: made.version, manifest: made.manifest, installBytes: made.install_bytes };
  for (const [name, value] of Object.entries(outputs)) {
    command("task.setvariable", { variable: name, isOutput: "true" }, value);
  }
  process.stdout.write(`${made.name} version ${made.version}: first install ${made.install_bytes} bytes\n`);
  for (const update of made.updates) process.stdout.write(`  from version ${update.from}: ${update.bytes} bytes\n`);
  command("task.complete", { result: "Succeeded" }, "");
}

const work = fs.mkdtempSync(path.join(process.env.AGENT_TEMPDIRECTORY || os.tmpdir(), "modelsync-"));
try {
  publish(work);
} catch (error) {
  fail(error.message);
} finally {
  fs.rmSync(work, { recursive: true, force: true });
}
