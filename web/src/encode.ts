// An image file that the browser reads in; a .sfu file out.
import type { Codec } from "./codec.js";
import { MAX_PIXELS, paddedPixels } from "./container.js";
import { checkCanvas } from "./image.js";
import type { EncodeReply, EncodeRequest } from "./messages.js";
import { writePng, type Pixels } from "./png.js";
import type { Progress } from "./runtime.js";
import { largestWithin } from "./target.js";

export async function encodeImage(
  codec: Codec,
  request: EncodeRequest,
  progress: Progress,
): Promise<EncodeReply> {
  const start = performance.now();
  const { pixels, width, height, alpha, warnings } = await readImage(request.data, request.type);
  progress("Analysing", 0);
  if (alpha) fillInvisible(pixels, alpha, width, height);
  const analysis = codec.analyse(pixels, width, height, (part) => progress("Analysing", part));
  // alpha as an image of its own: a grey PNG
  const plane = alpha && (await writePng({ width, height, channels: 1, pixels: alpha, alpha: null }));
  const encode = (q: number, what: string) =>
    codec.encode(analysis, q, plane, null, (part) => progress(what, part));
  let found: { data: Uint8Array; q: number; tries: number };
  if (request.limit === undefined) {
    const q = Math.round((255 * (request.quality ?? 50)) / 100);
    found = { data: encode(q, "Encoding"), q, tries: 1 };
  } else {
    let tries = 0;
    found = largestWithin(request.limit, (q) => encode(q, `Encoding, try ${++tries}`));
  }
  const original = await writePng({ width, height, channels: 3, pixels, alpha });
  return {
    file: found.data,
    q: found.q,
    tries: found.tries,
    seconds: (performance.now() - start) / 1000,
    original,
    warnings,
  };
}

interface Source extends Pixels {
  warnings: string[];
}

async function readImage(data: Uint8Array, type: string): Promise<Source> {
  let bitmap: ImageBitmap;
  try {
    const blob = new Blob([data as BlobPart], { type });
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", premultiplyAlpha: "none" });
  } catch {
    throw new Error("this browser cannot read that image");
  }
  const { width, height } = bitmap;
  if (paddedPixels(width, height) > MAX_PIXELS)
    throw new RangeError(`${width}x${height} pixels are more than ${MAX_PIXELS}`);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new RangeError(`${width}x${height} pixels are more than this browser's canvas takes`);
  checkCanvas(context);
  context.clearRect(0, 0, 1, 1);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(width * height * 3);
  const alpha = new Uint8Array(width * height);
  let opaque = true;
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) pixels[3 * i + c] = rgba[4 * i + c]!;
    alpha[i] = rgba[4 * i + 3]!;
    opaque &&= alpha[i] === 255;
  }
  const warnings = ["Colours were converted to 8-bit sRGB; metadata of the image is not kept."];
  return { width, height, channels: 3, pixels, alpha: opaque ? null : alpha, warnings };
}

/** Replaces pixels of alpha 0, in place, by means of what is visible in cells twice as large each time. */
function fillInvisible(pixels: Uint8Array, alpha: Uint8Array, width: number, height: number): void {
  if (!alpha.some((a) => a > 0)) return void pixels.fill(0);
  const open = new Uint8Array(alpha.length);
  let left = 0;
  for (let i = 0; i < alpha.length; i++) left += open[i] = Number(!alpha[i]);
  for (let side = 16; left; side *= 2) {
    for (let top = 0; top < height; top += side) {
      for (let start = 0; start < width; start += side) {
        const sum = [0, 0, 0];
        const holes: number[] = [];
        let count = 0;
        for (let row = top; row < Math.min(top + side, height); row++) {
          for (let column = start; column < Math.min(start + side, width); column++) {
            const i = row * width + column;
            if (open[i]) {
              holes.push(i);
              continue;
            }
            count++;
            for (let c = 0; c < 3; c++) sum[c]! += pixels[3 * i + c]!;
          }
        }
        if (!count) continue;
        for (const i of holes) {
          open[i] = 0;
          for (let c = 0; c < 3; c++) pixels[3 * i + c] = Math.round(sum[c]! / count);
        }
        left -= holes.length;
      }
    }
  }
}
