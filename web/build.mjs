// node build.mjs: everything that is served, into dist/.
import { build, transformSync } from "esbuild";
import asc from "assemblyscript/asc";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { convert } from "./scripts/weights.mjs";

const here = import.meta.dirname;
const dist = path.join(here, "dist");
const source = path.join(here, "..", "sfumato");

async function kernels(out) {
  const { error, stderr } = await asc.main(
    [
      path.join(here, "assembly", "index.ts"),
      "--outFile",
      out,
      "--enable",
      "simd",
      "-O3",
      "--runtime",
      "stub",
      "--noAssert",
    ],
    {},
  );
  if (error) throw new Error(`${error.message}\n${stderr}`);
}

const options = { bundle: true, target: "es2022", minify: true, legalComments: "none" };
const script = (entry, out, more = {}) =>
  build({
    ...options,
    entryPoints: [path.join(here, "src", entry)],
    outfile: path.join(dist, out),
    format: "iife",
    ...more,
  });

// The comparison is the viewer of the Python package.
function viewer() {
  writeFileSync(path.join(dist, "viewer.css"), readFileSync(path.join(source, "viewer.css")));
  const { code } = transformSync(readFileSync(path.join(source, "viewer.js"), "utf8"), { minify: true });
  writeFileSync(path.join(dist, "viewer.js"), code);
}

// A file that the page can show at once: the example of the repository, encoded by what was just built.
async function sample() {
  const { Codec, Engine, readPng, readWeights } = await import(path.join(dist, "index.js"));
  const [entry] = Object.values(JSON.parse(readFileSync(path.join(dist, "weights", "models.json"))));
  const weights = (part) => readWeights(readFileSync(path.join(dist, "weights", entry[part].file)));
  const codec = new Codec(
    await Engine.start(readFileSync(path.join(dist, "kernels.wasm"))),
    await weights("decode"),
  );
  codec.addEncoder(await weights("encode"));
  const { width, height, pixels } = await readPng(
    readFileSync(path.join(here, "..", "examples", "chelsea.png")),
  );
  writeFileSync(path.join(dist, "sample.sfu"), codec.encode(codec.analyse(pixels, width, height), 100));
}

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist, { recursive: true });
await kernels(path.join(dist, "kernels.wasm"));
const weights = readdirSync(path.join(source, "weights"))
  .filter((name) => name.endsWith(".safetensors"))
  .sort();
convert(
  weights.map((name) => path.join(source, "weights", name)),
  path.join(dist, "weights"),
);
await script("index.ts", "index.js", { format: "esm" });
await script("worker.ts", "worker.js");
await script("polyfill.ts", "sfumato.js");
await script("page.ts", "page.js");
cpSync(path.join(here, "public"), dist, { recursive: true });
viewer();
await sample();

// what the page needs offline, and a version that changes with any of it
const files = readdirSync(dist, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && !["index.js", "sfumato.js"].includes(entry.name))
  .map((entry) => path.relative(dist, path.join(entry.parentPath, entry.name)).replaceAll(path.sep, "/"))
  .sort();
const digest = createHash("sha256");
for (const name of files) digest.update(name).update(readFileSync(path.join(dist, name)));
const shell = { version: digest.digest("hex").slice(0, 8), files: ["./", ...files] };
await script("service-worker.ts", "sfumato-sw.js", { define: { SHELL: JSON.stringify(shell) } });
