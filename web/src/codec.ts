// An image in, the bytes of a file out; and back: the whole of a codec for one set of weights.
import {
  cells,
  crc32,
  MAX_PIXELS,
  noiseSeed,
  pack,
  paddedPixels,
  unpack,
  type File,
  type Header,
} from "./container.js";
import { Diffusion, halo } from "./diffusion.js";
import type { Engine } from "./engine.js";
import { EntropyModel } from "./entropy.js";
import { FormatError } from "./errors.js";
import { Graph, type Map32 } from "./graph.js";
import { LatentCoder } from "./latents.js";
import { part, type Config, type NamedArray, type WeightsFile } from "./weights.js";

const STRIDE = 16; // pixels to y
const HYPER_STRIDE = 64; // pixels to z
const STRIP = 2 ** 20; // pixels of a strip of the transforms
const HALOS_A_STRIP = 8; // a strip is at least so many halos high
const HALOS_A_SHARE = 4; // where several work on an image

export interface DecodeOptions {
  steps?: number; // of the diffusion; the default is 1 for a whole file, where there is a denoiser
  partial?: boolean; // accept a file that is cut short
  chunks?: number; // decode only so many
  maxPixels?: number; // padding included
  fingerprint?: boolean; // compute `latent`
  progress?: (part: number) => void;
}

export interface Decoded {
  width: number;
  height: number;
  channels: 1 | 3;
  pixels: Uint8Array; // [height, width, channels]
  file: File;
  sections: number; // that are shown
  latent: number | null; // CRC-32 of y_hat as float32 [M, h, w]: the symbols and means that were found
}

/** Rows of the padded image: those to compute, and those of them to keep. */
export interface Strip {
  from: number;
  to: number;
  first: number;
  last: number;
}

/** A file whose latent is read: what is left to do for each strip. */
export interface Prepared {
  file: File;
  sections: number;
  steps: number;
  strips: Strip[];
  y: Float32Array; // [h, w, M], the gains taken off
  latent: number | null;
}

export interface Analysis {
  width: number;
  height: number;
  grey: boolean;
  y: Float32Array; // [h, w, M], before any gain
}

export class Codec {
  readonly id: string;
  private readonly config: Config;
  private readonly latents: LatentCoder;
  private readonly gains: NamedArray;
  private readonly synthesis: Graph;
  private readonly denoiser: Graph | null;
  private readonly diffusion: Diffusion;
  private analysis: { a: Graph; h: Graph } | null = null;

  constructor(
    private readonly engine: Engine,
    weights: WeightsFile,
  ) {
    const { arrays, config, graphs } = weights;
    this.id = weights.id;
    this.config = config;
    const model = new EntropyModel(engine, part(arrays, "entropy"), config.chunks.length);
    this.latents = new LatentCoder(engine, model, arrays.get("tables.counts")!, arrays.get("tables.widths")!);
    this.gains = arrays.get("gain.embedding")!;
    this.synthesis = new Graph(engine, "g_s", graphs.g_s!, part(arrays, "g_s"));
    this.denoiser = graphs.denoiser
      ? new Graph(engine, "denoiser", graphs.denoiser, part(arrays, "denoiser"))
      : null;
    this.diffusion = new Diffusion(engine, config);
  }

  /** Takes what encoding needs beside the weights that decode. */
  addEncoder({ arrays, graphs, id }: WeightsFile): void {
    if (id !== this.id) throw new Error(`an encoder of model ${id} for ${this.id}`);
    this.analysis ??= {
      a: new Graph(this.engine, "g_a", graphs.g_a!, part(arrays, "g_a")),
      h: new Graph(this.engine, "h_a", graphs.h_a!, part(arrays, "h_a")),
    };
  }

  get canEncode(): boolean {
    return this.analysis !== null;
  }

  decode(data: Uint8Array, options: DecodeOptions = {}): Decoded {
    const { progress = () => {} } = options;
    const { file, sections, steps, strips, y, latent } = this.prepare(data, {
      ...options,
      progress: (done) => progress(done / 2),
    });
    const { width, height } = file.header;
    const pixels = new Uint8Array(height * width * 3);
    for (const strip of strips) {
      pixels.set(
        this.synthesise(file.header, this.rowsOf(file.header, y, strip), strip, steps),
        strip.first * width * 3,
      );
      progress((1 + strip.last / strips.at(-1)!.last) / 2);
    }
    return this.decoded({ file, sections, latent }, pixels);
  }

  /** The first half of decoding: the latent, and the strips in which the image is made, at least so many if it is large. */
  prepare(data: Uint8Array, options: DecodeOptions = {}, shares = 1): Prepared {
    const { chunks } = options;
    const file = unpack(data, options.partial || chunks !== undefined);
    const { header } = file;
    this.check(header, options.maxPixels ?? MAX_PIXELS);
    if (!file.sections.length)
      throw new FormatError("cut short before the end of section z: nothing to show");
    const sections = chunks === undefined ? file.sections : file.sections.slice(0, 1 + chunks);
    const whole = file.complete && sections.length === header.chunks + 1;
    const steps = this.usableSteps(options.steps ?? (whole ? 1 : 0));
    const { engine } = this;
    const [y, latent] = engine.scope(() => {
      const map = this.latents.read(header, sections, options.progress);
      const found = options.fingerprint ? this.fingerprint(map) : null;
      const inverse = engine.put(this.gain(header.q / 255).map((gain) => 1 / gain));
      engine.call.affine!(map.at, map.height * map.width, map.channels, inverse, 0, map.at);
      return [engine.f32(map.at, map.height * map.width * map.channels).slice(), found] as const;
    });
    const [rows, columns] = [HYPER_STRIDE * cells(header.height), HYPER_STRIDE * cells(header.width)];
    const around = this.halo + halo(this.config, steps)!;
    return {
      file,
      sections: sections.length,
      steps,
      strips: this.strips(rows, columns, around, shares),
      y,
      latent,
    };
  }

  /** The part of a prepared latent that a strip needs. */
  rowsOf(header: Header, y: Float32Array, { from, to }: Strip): Float32Array {
    const line = (y.length / (HYPER_STRIDE * cells(header.height))) * STRIDE;
    return y.subarray((from / STRIDE) * line, (to / STRIDE) * line);
  }

  decoded(
    { file, sections, latent }: Pick<Prepared, "file" | "sections" | "latent">,
    pixels: Uint8Array,
  ): Decoded {
    const { width, height, grey } = file.header;
    return {
      width,
      height,
      channels: grey ? 1 : 3,
      pixels: grey ? mean(pixels) : pixels,
      file,
      sections,
      latent,
    };
  }

  /** RGB [height, width, 3] -> its latent, which `encode` takes at every q. */
  analyse(
    rgb: Uint8Array,
    width: number,
    height: number,
    progress: (part: number) => void = () => {},
  ): Analysis {
    const { engine, config } = this;
    if (!this.analysis) throw new Error("these weights cannot encode");
    if (
      width < 1 ||
      height < 1 ||
      width > 65535 ||
      height > 65535 ||
      paddedPixels(width, height) > MAX_PIXELS
    ) {
      throw new RangeError(`${width}x${height} pixels are more than can be encoded here`);
    }
    const grey = isGrey(rgb);
    const [rows, columns] = [HYPER_STRIDE * cells(height), HYPER_STRIDE * cells(width)];
    const channels = config.chunks.reduce((a, b) => a + b, 0);
    const y = new Float32Array((rows / STRIDE) * (columns / STRIDE) * channels);
    for (const { from, to, first, last } of this.strips(rows, columns, this.halo, 1)) {
      engine.scope(() => {
        const x = this.toMap(rgb, width, height, columns, from, to);
        const [found] = this.analysis!.a.run(x);
        const line = found!.width * channels;
        const values = engine.f32(found!.at, found!.height * line);
        y.set(
          values.subarray(((first - from) / STRIDE) * line, ((last - from) / STRIDE) * line),
          (first / STRIDE) * line,
        );
      });
      progress(last / rows);
    }
    return { width, height, grey, y };
  }

  /** The file of an analysed image at quality q, 0 .. 255. */
  encode(
    { width, height, grey, y: analysed }: Analysis,
    q: number,
    alpha: Uint8Array | null = null,
    metadata: Uint8Array | null = null,
    progress: (part: number) => void = () => {},
  ): Uint8Array {
    const { engine } = this;
    const header: Header = {
      width,
      height,
      q,
      model: this.id,
      seed: null,
      grey,
      chunks: this.config.chunks.length,
    };
    return engine.scope(() => {
      const [rows, columns] = [4 * cells(height), 4 * cells(width)];
      const gain = engine.put(this.gain(q / 255));
      const at = engine.put(analysed);
      const channels = analysed.length / (rows * columns);
      engine.call.affine!(at, rows * columns, channels, gain, 0, at);
      const y: Map32 = { at, height: rows, width: columns, channels };
      const [z] = this.analysis!.h.run(y);
      return pack(header, this.latents.write(header, y, z!, progress), alpha, metadata);
    });
  }

  private check(header: Header, maxPixels: number): void {
    if (header.model !== this.id)
      throw new FormatError(`written by model ${header.model}, these weights are ${this.id}`);
    if (header.chunks !== this.config.chunks.length) {
      throw new FormatError(`${header.chunks} chunks, the model has ${this.config.chunks.length}`);
    }
    const pixels = paddedPixels(header.width, header.height);
    if (pixels > maxPixels) {
      throw new FormatError(
        `${header.width}x${header.height} pixels, ${pixels} when padded, are more than ${maxPixels}`,
      );
    }
  }

  private usableSteps(steps: number): number {
    const can = this.denoiser && this.config.predicts === "x" && halo(this.config, steps) !== null;
    return can ? steps : 0;
  }

  private get halo(): number {
    return (
      Math.ceil(Math.max(this.config.halos.g_a ?? 0, this.config.halos.g_s ?? 0) / HYPER_STRIDE) *
      HYPER_STRIDE
    );
  }

  private gain(q: number): Float32Array {
    const [knots, channels] = this.gains.shape as [number, number];
    const below = Math.min(Math.floor(q * (knots - 1)), knots - 2);
    const share = q * (knots - 1) - below;
    const { values } = this.gains;
    return Float32Array.from({ length: channels }, (_, c) =>
      Math.exp(values[below * channels + c]! * (1 - share) + values[(below + 1) * channels + c]! * share),
    );
  }

  private strips(rows: number, columns: number, around: number, shares: number): Strip[] {
    const pixels = Math.min(STRIP, Math.ceil((rows * columns) / shares));
    const least = (shares > 1 ? HALOS_A_SHARE : HALOS_A_STRIP) * around;
    const tall = Math.max(Math.ceil(pixels / (columns * HYPER_STRIDE)) * HYPER_STRIDE, least, HYPER_STRIDE);
    return Array.from({ length: Math.ceil(rows / tall) }, (_, i) => {
      const [first, last] = [i * tall, Math.min((i + 1) * tall, rows)];
      return { from: Math.max(0, first - around), to: Math.min(rows, last + around), first, last };
    });
  }

  /** RGB of a strip's own rows, as far as they lie in the image; `rows` as `rowsOf` gives them. */
  synthesise(
    header: Header,
    rows: Float32Array,
    { from, to, first, last }: Strip,
    steps: number,
  ): Uint8Array {
    const { engine } = this;
    const columns = HYPER_STRIDE * cells(header.width);
    const q = header.q / 255;
    return engine.scope(() => {
      const [height, width] = [(to - from) / STRIDE, columns / STRIDE];
      const y: Map32 = { at: engine.put(rows), height, width, channels: rows.length / (height * width) };
      const [base, ...features] = this.synthesis.run(y, q) as [Map32, ...Map32[]];
      let x = base;
      if (steps) {
        const noise = this.diffusion.noise(
          noiseSeed(header),
          HYPER_STRIDE * cells(header.height),
          columns,
          from,
          to - from,
        );
        x = this.diffusion.run(
          base,
          noise,
          steps,
          (z, t) => this.denoiser!.run(z, t, q, base, ...features)[0]!,
        );
      }
      const line = columns * 3;
      const bytes = engine.alloc((last - first) * line);
      engine.call.toBytes!(x.at + (first - from) * line * 4, (last - first) * line, bytes);
      const found = engine.u8(bytes, (last - first) * line);
      const own = header.width * 3;
      const pixels = new Uint8Array((Math.min(last, header.height) - first) * own);
      for (let at = 0, row = 0; at < pixels.length; at += own, row++)
        pixels.set(found.subarray(row * line, row * line + own), at);
      return pixels;
    });
  }

  /** Rows from .. to of the padded image, in -1 .. 1. */
  private toMap(
    rgb: Uint8Array,
    width: number,
    height: number,
    columns: number,
    from: number,
    to: number,
  ): Map32 {
    const at = this.engine.alloc((to - from) * columns * 3 * 4);
    const out = this.engine.f32(at, (to - from) * columns * 3);
    const half = Math.fround(127.5);
    for (let row = from; row < to; row++) {
      const line = Math.min(row, height - 1) * width * 3;
      let i = (row - from) * columns * 3;
      for (let column = 0; column < columns; column++) {
        const pixel = line + Math.min(column, width - 1) * 3;
        for (let c = 0; c < 3; c++) out[i++] = Math.fround(rgb[pixel + c]! / half) - 1;
      }
    }
    return { at, height: to - from, width: columns, channels: 3 };
  }

  /** CRC-32 of a map as channels first. */
  private fingerprint(y: Map32): number {
    const values = this.engine.f32(y.at, y.height * y.width * y.channels);
    const count = y.height * y.width;
    const plane = new Float32Array(count);
    let crc = 0;
    for (let c = 0; c < y.channels; c++) {
      for (let i = 0; i < count; i++) plane[i] = values[i * y.channels + c]!;
      crc = crc32(new Uint8Array(plane.buffer), crc);
    }
    return crc;
  }
}

function isGrey(rgb: Uint8Array): boolean {
  for (let i = 0; i < rgb.length; i += 3) if (rgb[i] !== rgb[i + 1] || rgb[i] !== rgb[i + 2]) return false;
  return true;
}

function mean(rgb: Uint8Array): Uint8Array {
  return Uint8Array.from({ length: rgb.length / 3 }, (_, i) =>
    Math.floor((rgb[3 * i]! + rgb[3 * i + 1]! + rgb[3 * i + 2]! + 1) / 3),
  );
}
