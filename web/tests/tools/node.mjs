// What was built, used in Node.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";

export const web = path.join(import.meta.dirname, "..", "..");
export const root = path.join(web, "..");
export const dist = path.join(web, "dist");
export const library = await import(path.join(dist, "index.js"));

/** The codec of a model in a folder that `scripts/weights.mjs` made. */
export async function open(folder = path.join(dist, "weights"), encoder = false) {
  const { Codec, Engine, readWeights } = library;
  const [entry] = Object.values(JSON.parse(readFileSync(path.join(folder, "models.json"))));
  const read = (part) => readWeights(readFileSync(path.join(folder, entry[part].file)));
  const engine = await Engine.start(readFileSync(path.join(dist, "kernels.wasm")));
  const codec = new Codec(engine, await read("decode"));
  if (encoder) codec.addEncoder(await read("encode"));
  return { codec, engine };
}

/** name -> CRC-32 of the latent, in hexadecimal, of the golden files. */
export function goldenChecks() {
  const lines = readFileSync(path.join(root, "tests", "golden", "results.txt"), "utf8")
    .trim()
    .split("\n");
  return Object.fromEntries(lines.map((line) => line.split(" ")).map(([name, , crc]) => [name, crc]));
}

/** What Python decodes a file to, if SFUMATO_REFERENCE names a folder with it: samples as rows; else null. */
export function reference(name) {
  const folder = process.env.SFUMATO_REFERENCE;
  const file = folder && path.join(folder, `${name}.raw`);
  return file && existsSync(file) ? readFileSync(file) : null;
}

/** The largest difference of two lists of samples. */
export function largestDifference(a, b) {
  if (a.length !== b.length) return Infinity;
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i] - b[i]));
  return most;
}
