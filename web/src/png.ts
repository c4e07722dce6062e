// An image in, the bytes of a PNG out; and back.
import { concat, crc32 } from "./container.js";
import { FormatError } from "./errors.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const COLOUR_TYPES = { "1": 0, "3": 2, "1a": 4, "3a": 6 } as const;
const DPI_UNIT = 10_000; // of a pixel per inch, in a file
const INCH = 0.0254; // metres

export interface Pixels {
  width: number;
  height: number;
  channels: 1 | 3;
  pixels: Uint8Array;
  alpha: Uint8Array | null;
}

/** A PNG; `entries` are a file's metadata, and come along as PNG has them. */
export async function writePng(
  image: Pixels,
  entries: ReadonlyMap<string, Uint8Array> = new Map(),
): Promise<Uint8Array> {
  const { width, height, channels, alpha } = image;
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, COLOUR_TYPES[`${channels}${alpha ? "a" : ""}`]);
  const icc = entries.get("ICC ");
  const exif = entries.get("EXIF");
  const xmp = entries.get("XMP ");
  const parts: ArrayLike<number>[] = [SIGNATURE, chunk("IHDR", new Uint8Array(header.buffer))];
  if (icc) parts.push(chunk("iCCP", concat([latin("ICC profile"), [0, 0], await deflate(icc)])));
  const dpi = entries.get("DPI ");
  const view = dpi?.length === 8 ? new DataView(dpi.buffer, dpi.byteOffset) : null;
  if (view?.getUint32(0, true) && view.getUint32(4, true)) {
    const physical = new DataView(new ArrayBuffer(9));
    for (const at of [0, 4]) physical.setUint32(at, Math.round(view.getUint32(at, true) / DPI_UNIT / INCH));
    physical.setUint8(8, 1);
    parts.push(chunk("pHYs", new Uint8Array(physical.buffer)));
  }
  if (exif) parts.push(chunk("eXIf", exif));
  if (xmp) parts.push(chunk("iTXt", concat([latin("XML:com.adobe.xmp"), [0, 0, 0, 0, 0], xmp])));
  parts.push(chunk("IDAT", await deflate(filtered(image))), chunk("IEND", new Uint8Array()));
  return concat(parts);
}

/** Rows of samples, each less what Paeth's predictor makes of its neighbours. */
function filtered({ width, height, channels, pixels, alpha }: Pixels): Uint8Array {
  const step = channels + (alpha ? 1 : 0);
  const line = width * step;
  let rows = pixels;
  if (alpha) {
    rows = new Uint8Array(height * line);
    for (let i = 0; i < width * height; i++) {
      for (let c = 0; c < channels; c++) rows[i * step + c] = pixels[i * channels + c]!;
      rows[i * step + channels] = alpha[i]!;
    }
  }
  const out = new Uint8Array(height * (line + 1));
  for (let row = 0; row < height; row++) {
    const from = row * line;
    const to = row * (line + 1);
    out[to] = row ? 4 : 1; // Paeth; of the first row what is left of it
    for (let i = 0; i < line; i++) {
      const a = i < step ? 0 : rows[from + i - step]!;
      const b = row ? rows[from + i - line]! : 0;
      const c = row && i >= step ? rows[from + i - line - step]! : 0;
      out[to + 1 + i] = rows[from + i]! - (row ? paeth(a, b, c) : a);
    }
  }
  return out;
}

function paeth(a: number, b: number, c: number): number {
  const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  if (pa <= pb && pa <= pc) return a;
  return pb <= pc ? b : c;
}

function chunk(name: string, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set(latin(name), 4);
  out.set(data, 8);
  view.setUint32(8 + data.length, crc32(out.subarray(4, 8 + data.length)));
  return out;
}

function latin(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

async function deflate(data: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([data as BlobPart]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A PNG of 8 bits a sample, not interlaced, without a palette; FormatError for any other. */
export async function readPng(data: Uint8Array): Promise<Pixels> {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (SIGNATURE.some((byte, i) => data[i] !== byte) || data.length < 29) throw new FormatError("not a PNG");
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const kind = Object.entries(COLOUR_TYPES).find(([, type]) => type === data[25]);
  if (!kind || data[24] !== 8 || data[28])
    throw new FormatError("a PNG of another kind than 8 bits a sample, not interlaced");
  const channels = kind[0].startsWith("1") ? 1 : 3;
  const step = kind[0].endsWith("a") ? channels + 1 : channels;
  const samples = unfiltered(
    await inflated(parts(data, view), height * (width * step + 1)),
    width * step,
    height,
    step,
  );
  if (step === channels) return { width, height, channels, pixels: samples, alpha: null };
  const every = (first: number, count: number) =>
    Uint8Array.from(
      { length: width * height * count },
      (_, i) => samples[Math.floor(i / count) * step + first + (i % count)]!,
    );
  return { width, height, channels, pixels: every(0, channels), alpha: every(channels, 1) };
}

function parts(data: Uint8Array, view: DataView): Uint8Array[] {
  const found: Uint8Array[] = [];
  for (let at = SIGNATURE.length; at + 12 <= data.length;) {
    const size = view.getUint32(at);
    if (size > data.length - at - 12) break;
    const name = String.fromCharCode(...data.subarray(at + 4, at + 8));
    if (crc32(data.subarray(at + 4, at + 8 + size)) !== view.getUint32(at + 8 + size))
      throw new FormatError(`PNG: bad CRC of ${name}`);
    if (name === "IDAT") found.push(data.subarray(at + 8, at + 8 + size));
    if (name === "IEND") break;
    at += 12 + size;
  }
  return found;
}

async function inflated(deflated: Uint8Array[], wanted: number): Promise<Uint8Array> {
  const out = new Uint8Array(wanted);
  let size = 0;
  try {
    const stream = new Blob(deflated as BlobPart[]).stream().pipeThrough(new DecompressionStream("deflate"));
    const reader = stream.getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      if (size + next.value.length > wanted) throw new FormatError("PNG: more samples than its size says");
      out.set(next.value, size);
      size += next.value.length;
    }
  } catch (error) {
    if (error instanceof FormatError) throw error;
    throw new FormatError(`PNG: cannot be inflated: ${error instanceof Error ? error.message : error}`);
  }
  if (size !== wanted) throw new FormatError(`PNG: ${size} bytes of samples instead of ${wanted}`);
  return out;
}

function unfiltered(rows: Uint8Array, line: number, height: number, step: number): Uint8Array {
  const out = new Uint8Array(line * height);
  for (let row = 0; row < height; row++) {
    const filter = rows[row * (line + 1)]!;
    if (filter > 4) throw new FormatError(`PNG: filter ${filter}`);
    for (let i = 0; i < line; i++) {
      const at = row * line + i;
      const a = i >= step ? out[at - step]! : 0;
      const b = row ? out[at - line]! : 0;
      const c = row && i >= step ? out[at - line - step]! : 0;
      const predicted =
        filter === 0 ? 0 : filter === 1 ? a : filter === 2 ? b : filter === 3 ? (a + b) >> 1 : paeth(a, b, c);
      out[at] = rows[row * (line + 1) + 1 + i]! + predicted;
    }
  }
  return out;
}
