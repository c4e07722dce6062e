// Files of weights for the browser (`scripts/weights.mjs` makes them) in; named arrays, graphs and numbers out.
import type { GraphData } from "./plan.js";

export interface Config {
  chunks: number[];
  z_channels: number;
  padding: string;
  halos: Record<string, number | null>;
  predicts: string;
  sigma_b_max: number;
  d_min: number;
  logsnr_min: number;
  logsnr_max: number;
  t0: number;
  times_power: number;
}

export interface NamedArray {
  shape: number[];
  values: Float32Array | Float64Array | Int32Array | Int16Array | Int8Array;
}

export interface WeightsFile {
  id: string; // 8 hexadecimal digits, as in the header of a file
  config: Config;
  graphs: Record<string, GraphData>;
  arrays: Map<string, NamedArray>;
}

export interface ModelEntry {
  name: string;
  preset: string;
  decode: { file: string; bytes: number };
  encode: { file: string; bytes: number };
}

interface Stored {
  kind: "i8" | "i16" | "i32" | "f16" | "f32" | "f64";
  shape: number[];
  at: number;
}

export async function readWeights(packed: Uint8Array): Promise<WeightsFile> {
  const stream = new Blob([packed as BlobPart]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(data.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(data.subarray(4, 4 + length)));
  const base = 4 + length + (-(4 + length) & 7);
  const arrays = new Map<string, NamedArray>();
  for (const [name, stored] of Object.entries(header.arrays as Record<string, Stored>)) {
    const count = stored.shape.reduce((a, b) => a * b, 1);
    arrays.set(name, { shape: stored.shape, values: values(data, base + stored.at, stored.kind, count) });
  }
  return { id: header.id, config: header.config, graphs: header.graphs, arrays };
}

function values(data: Uint8Array, at: number, kind: Stored["kind"], count: number): NamedArray["values"] {
  const view = new DataView(data.buffer);
  if (kind === "i8") return new Int8Array(data.buffer, at, count);
  if (kind === "i32") return new Int32Array(data.buffer, at, count);
  if (kind === "f32") return new Float32Array(data.buffer, at, count);
  if (kind === "f64")
    return Float64Array.from({ length: count }, (_, i) => view.getFloat64(at + 8 * i, true));
  const words = new Int16Array(count); // low bytes, then high bytes
  for (let i = 0; i < count; i++) words[i] = data[at + i]! | (data[at + count + i]! << 8);
  return kind === "i16" ? words : fromHalf(new Uint16Array(words.buffer));
}

let singles: Float32Array | null = null; // by the bits of a half

function fromHalf(halves: Uint16Array): Float32Array {
  singles ??= Float32Array.from({ length: 2 ** 16 }, (_, half) => {
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const magnitude = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    return half & 0x8000 ? -magnitude : magnitude;
  });
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) out[i] = singles[halves[i]!]!;
  return out;
}

/** The arrays under `prefix.`, by the rest of their names. */
export function part(arrays: Map<string, NamedArray>, prefix: string): Map<string, NamedArray> {
  const found = new Map<string, NamedArray>();
  for (const [name, array] of arrays) {
    if (name.startsWith(`${prefix}.`)) found.set(name.slice(prefix.length + 1), array);
  }
  return found;
}
