// What a file holds beside its colours: alpha and metadata, read and checked.
import type { Decoded } from "./codec.js";
import { readMetadata, type Header } from "./container.js";
import { FormatError } from "./errors.js";
import { readPng, type Pixels } from "./png.js";

const WEBP_PIXELS = 2 ** 24;

export interface Picture extends Pixels {
  entries: Map<string, Uint8Array>;
  remarks: string[];
}

export async function complete({ file, sections, width, height, channels, pixels }: Decoded): Promise<Picture> {
  const remarks: string[] = [];
  const { header } = file;
  if (sections < header.chunks + 1) remarks.push(`cut short: ${sections} of ${header.chunks + 1} sections are shown`);
  let alpha: Uint8Array | null = null;
  if (file.alpha?.length) alpha = await readAlpha(file.alpha, header);
  else if (file.alpha) remarks.push("cut short before the end of alpha: shown opaque");
  const entries = await readMetadata(file.metadata);
  return { width, height, channels, pixels, alpha, entries, remarks };
}

async function readAlpha(data: Uint8Array, header: Header): Promise<Uint8Array> {
  const { width, height } = header;
  const text = String.fromCharCode(...data.subarray(0, 16));
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  let found: [number, number];
  const webp = text.startsWith("RIFF") && text.slice(8) === "WEBPVP8L" && data.length >= 25 && data[20] === 0x2f;
  if (webp) {
    const bits = view.getUint32(21, true);
    found = [(bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1];
  } else if (text.startsWith("\x89PNG\r\n\x1a\n") && text.slice(12) === "IHDR" && data.length > 29 && view.getUint32(24) === 0x08000000 && !data[28]) {
    found = [view.getUint32(16), view.getUint32(20)];
  } else {
    throw new FormatError("alpha: neither lossless WebP nor grey PNG of 8 bits");
  }
  if (found[0] !== width || found[1] !== height) {
    throw new FormatError(`alpha: ${found[0]}x${found[1]} pixels, the header says ${width}x${height}`);
  }
  if (!webp) return (await readPng(data)).pixels;
  if (width * height > WEBP_PIXELS) throw new FormatError(`alpha: a WebP of ${width}x${height} pixels, the limit is ${WEBP_PIXELS}`);
  return greenOf(data, width, height);
}

/** The green samples of an image that the browser decodes. */
async function greenOf(data: Uint8Array, width: number, height: number): Promise<Uint8Array> {
  if (typeof OffscreenCanvas === "undefined") throw new Error("alpha is a WebP, which only browsers decode here");
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(new Blob([data as BlobPart], { type: "image/webp" }), { colorSpaceConversion: "none" });
  } catch (error) {
    throw new FormatError(`alpha: WebP cannot be decoded: ${error instanceof Error ? error.message : error}`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data: rgba } = context.getImageData(0, 0, width, height);
  return Uint8Array.from({ length: width * height }, (_, i) => rgba[4 * i + 1]!);
}
