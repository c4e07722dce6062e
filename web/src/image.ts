// What a file holds beside a latent: alpha, metadata, the image of a lossless file; read and checked.
import type { Decoded } from "./codec.js";
import { paddedPixels, readMetadata, type File, type Header } from "./container.js";
import { FormatError } from "./errors.js";
import { readPng, type Pixels } from "./png.js";

const WEBP_PIXELS = 2 ** 24;

export interface DecodedImage extends Pixels {
  entries: Map<string, Uint8Array>;
  warnings: string[];
}

export async function complete({
  file,
  sections,
  width,
  height,
  channels,
  pixels,
}: Decoded): Promise<DecodedImage> {
  const warnings: string[] = [];
  const { header } = file;
  const all = Math.max(1, header.chunks + 1);
  if (sections < all || !file.complete) warnings.push(`cut short: ${sections} of ${all} sections are shown`);
  let alpha: Uint8Array | null = null;
  if (file.alpha?.length) alpha = await readStream(file.alpha, header, 1, "alpha");
  else if (file.alpha) warnings.push("cut short before the end of alpha: shown opaque");
  const entries = await readMetadata(file.metadata);
  return { width, height, channels, pixels, alpha, entries, warnings };
}

/** The image of a lossless file, which needs no weights; FormatError for more pixels than are allowed. */
export async function completeLossless(file: File, maxPixels: number): Promise<DecodedImage> {
  const { width, height, grey } = file.header;
  const pixels = paddedPixels(width, height);
  if (pixels > maxPixels)
    throw new FormatError(`${width}x${height} pixels, ${pixels} when padded, are more than ${maxPixels}`);
  if (!file.sections.length)
    throw new FormatError("cut short before the end of section image: nothing to show");
  const channels = grey ? 1 : 3;
  const found = await readStream(file.sections[0]!.payload, file.header, channels, "image");
  return complete({ file, sections: 1, latent: null, width, height, channels, pixels: found });
}

/** The samples of a lossless WebP, or of a PNG of 8 bits with so many channels. */
async function readStream(
  data: Uint8Array,
  { width, height }: Header,
  channels: 1 | 3,
  what: string,
): Promise<Uint8Array> {
  const text = String.fromCharCode(...data.subarray(0, 16));
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  let found: [number, number];
  const webp =
    text.startsWith("RIFF") && text.slice(8) === "WEBPVP8L" && data.length >= 25 && data[20] === 0x2f;
  const sort = channels === 1 ? 0x08000000 : 0x08020000; // depth, colour type, compression, filter
  if (webp) {
    const bits = view.getUint32(21, true);
    found = [(bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1];
    if ((bits >> 28) & 1) throw new FormatError(`${what}: a WebP with alpha of its own`);
  } else if (
    text.startsWith("\x89PNG\r\n\x1a\n") &&
    text.slice(12) === "IHDR" &&
    data.length > 29 &&
    view.getUint32(24) === sort &&
    !data[28]
  ) {
    found = [view.getUint32(16), view.getUint32(20)];
  } else {
    throw new FormatError(
      `${what}: neither lossless WebP nor ${channels === 1 ? "grey" : "RGB"} PNG of 8 bits`,
    );
  }
  if (found[0] !== width || found[1] !== height) {
    throw new FormatError(`${what}: ${found[0]}x${found[1]} pixels, the header says ${width}x${height}`);
  }
  if (!webp) return (await readPng(data)).pixels;
  if (width * height > WEBP_PIXELS)
    throw new FormatError(`${what}: a WebP of ${width}x${height} pixels, the limit is ${WEBP_PIXELS}`);
  return fromWebp(data, width, height, channels, what);
}

/** The samples of an image that the browser decodes: all three, or green alone. */
async function fromWebp(
  data: Uint8Array,
  width: number,
  height: number,
  channels: 1 | 3,
  what: string,
): Promise<Uint8Array> {
  if (typeof OffscreenCanvas === "undefined")
    throw new Error(`${what} is a WebP, which only browsers decode here`);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(new Blob([data as BlobPart], { type: "image/webp" }), {
      colorSpaceConversion: "none",
    });
  } catch (error) {
    throw new FormatError(
      `${what}: WebP cannot be decoded: ${error instanceof Error ? error.message : error}`,
    );
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  checkCanvas(context);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data: rgba } = context.getImageData(0, 0, width, height);
  const first = channels === 1 ? 1 : 0;
  return Uint8Array.from(
    { length: width * height * channels },
    (_, i) => rgba[4 * Math.floor(i / channels) + first + (i % channels)]!,
  );
}

/** Error where the browser hides the pixels of a canvas, as some do against fingerprinting: it gives noise. */
export function checkCanvas(context: OffscreenCanvasRenderingContext2D): void {
  const colours = [1, 90, 200].map((level) => [level, 255 - level, (7 * level) % 256, 255]);
  for (const [r, g, b] of colours) {
    context.fillStyle = `rgb(${r}, ${g}, ${b})`;
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    if (red !== r || green !== g || blue !== b)
      throw new Error("this browser hides the pixels of images from scripts (protection from fingerprinting)");
  }
}
