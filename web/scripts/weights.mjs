// node scripts/weights.mjs FILE.safetensors ... OUTPUT: weights for the browser of the package's weights.
//
// Each model becomes two files, what decoding needs and what encoding needs on top, and `models.json` says which
// model id has which.  A file is a gzip of: the length of a JSON text (u32), the text, padding to 8 bytes, and the
// arrays.  16-bit arrays are stored as all low bytes, then all high bytes, which compress better.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { readGraph } from "./onnx.mjs";

const DECODE = /^(entropy|tables|gain|g_s|denoiser)\./;
const GRAPHS = { decode: ["g_s", "denoiser"], encode: ["g_a", "h_a"] };
const KINDS = {
  I8: ["i8", 1],
  I16: ["i16", 2],
  I32: ["i32", 4],
  I64: ["i64", 8],
  F16: ["f16", 2],
  F32: ["f32", 4],
};

function readSafetensors(file) {
  const data = readFileSync(file);
  const length = Number(data.readBigUInt64LE(0));
  const { __metadata__: metadata, ...entries } = JSON.parse(data.subarray(8, 8 + length).toString());
  const tensors = new Map();
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [from, to],
    },
  ] of Object.entries(entries)) {
    tensors.set(name, { dtype, shape, bytes: data.subarray(8 + length + from, 8 + length + to) });
  }
  return { metadata, tensors };
}

function stored({ dtype, bytes }) {
  const [kind, size] = KINDS[dtype] ?? [];
  if (!kind) throw new Error(`no form for tensors of ${dtype}`);
  if (kind === "i64") {
    const values = new BigInt64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    if (values.every((v) => v === BigInt.asIntN(32, v))) {
      return { kind: "i32", bytes: Buffer.from(Int32Array.from(values, Number).buffer) };
    }
    return { kind: "f64", bytes: Buffer.from(Float64Array.from(values, Number).buffer) }; // all below 2^53
  }
  if (size !== 2) return { kind, bytes };
  const planes = Buffer.alloc(bytes.length);
  const half = bytes.length / 2;
  for (let i = 0; i < half; i++) {
    planes[i] = bytes[2 * i];
    planes[half + i] = bytes[2 * i + 1];
  }
  return { kind, bytes: planes };
}

function pack(header, tensors) {
  const parts = [];
  let at = 0;
  const arrays = {};
  for (const [name, tensor] of tensors) {
    const { kind, bytes } = stored(tensor);
    arrays[name] = { kind, shape: tensor.shape, at };
    const padding = -bytes.length & 7;
    parts.push(bytes, Buffer.alloc(padding));
    at += bytes.length + padding;
  }
  const text = Buffer.from(JSON.stringify({ ...header, arrays }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  return gzipSync(Buffer.concat([length, text, Buffer.alloc(-(4 + text.length) & 7), ...parts]), {
    level: 9,
  });
}

export function convert(files, folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const models = {};
  for (const file of files) {
    const { metadata, tensors } = readSafetensors(file);
    const config = JSON.parse(metadata.config);
    const entry = { name: path.basename(file, ".safetensors"), preset: metadata.preset };
    for (const [part, names] of Object.entries(GRAPHS)) {
      const graphs = {};
      for (const name of names) {
        const graph = tensors.get(`graph.${name}`);
        if (graph) graphs[name] = readGraph(graph.bytes);
      }
      const wanted = [...tensors].filter(
        ([name]) => !name.startsWith("graph.") && DECODE.test(name) === (part === "decode"),
      );
      const bytes = pack({ id: metadata.model_id, config, graphs }, wanted);
      const check = createHash("sha256").update(bytes).digest("hex").slice(0, 8);
      const written = `${metadata.model_id}-${part}-${check}.bin`;
      writeFileSync(path.join(folder, written), bytes);
      entry[part] = { file: written, bytes: bytes.length };
    }
    models[metadata.model_id] = entry;
  }
  writeFileSync(path.join(folder, "models.json"), JSON.stringify(models, null, 1));
  return models;
}

if (import.meta.url === `file://${process.argv[1]}`) {
  const files = process.argv.slice(2, -1);
  console.log(JSON.stringify(convert(files, process.argv.at(-1)), null, 1));
}
