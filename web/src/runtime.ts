// Kernels and weights fetched from the folder of the script that runs, kept for later visits, and used.
import { Codec } from "./codec.js";
import { MAX_PIXELS, peek, sectionName, unpack, type File } from "./container.js";
import { Engine } from "./engine.js";
import { FormatError } from "./errors.js";
import type {
  DecodeReply,
  DecodeRequest,
  Facts,
  FinishRequest,
  PrepareReply,
  PrepareRequest,
  StripReply,
  StripRequest,
} from "./messages.js";
import { complete, completeLossless, type DecodedImage } from "./image.js";
import { writePng } from "./png.js";
import { readWeights, type ModelEntry } from "./weights.js";

export const STORE = "sfumato-weights"; // of the Cache API

export type Progress = (what: string, part: number) => void;

export class Runtime {
  private models: Promise<Record<string, ModelEntry>> | null = null;
  private readonly codecs = new Map<string, Promise<Codec>>();

  /** `base`: address of the folder with kernels.wasm and weights/. */
  constructor(private readonly base: string | URL) {}

  async decode({ data, ...options }: Omit<DecodeRequest, "kind">, progress: Progress): Promise<DecodeReply> {
    const header = peek(data);
    if (!header) throw new FormatError("cut short inside the header");
    const codec = header.chunks ? await this.codec(header.model, progress) : null;
    const start = performance.now();
    if (codec) {
      const decoded = codec.decode(data, { ...options, progress: (part) => progress("Decoding", part) });
      return this.reply(data, decoded.file, decoded.sections, await complete(decoded), start);
    }
    const file = unpack(data, options.partial);
    return this.reply(data, file, 1, await completeLossless(file, options.maxPixels ?? MAX_PIXELS), start);
  }

  async prepare({ data, shares, ...options }: PrepareRequest, progress: Progress): Promise<PrepareReply> {
    const { model } = unpack(data, options.partial).header;
    const codec = await this.codec(model, progress);
    const start = performance.now();
    const { file, strips, y, steps, sections } = codec.prepare(
      data,
      { ...options, progress: (part) => progress("Decoding", part / 2) },
      shares,
    );
    const parts = strips.map((strip) => ({ strip, rows: codec.rowsOf(file.header, y, strip).slice() }));
    return { shares: parts, steps, sections, seconds: (performance.now() - start) / 1000 };
  }

  async strip({ header, rows, strip, steps }: StripRequest): Promise<StripReply> {
    const codec = await this.codec(header.model, () => {});
    return { pixels: codec.synthesise(header, rows, strip, steps) };
  }

  async finish({ data, pixels, sections, seconds, ...options }: FinishRequest): Promise<DecodeReply> {
    const file = unpack(data, options.partial);
    const codec = await this.codec(file.header.model, () => {});
    const image = await complete(codec.decoded({ file, sections, latent: null }, pixels));
    return this.reply(data, file, sections, image, performance.now() - 1000 * seconds);
  }

  private async reply(
    data: Uint8Array,
    file: File,
    shown: number,
    image: DecodedImage,
    start: number,
  ): Promise<DecodeReply> {
    const seconds = (performance.now() - start) / 1000;
    const holdsPixels = !file.header.chunks;
    const facts: Facts = {
      ...file.header,
      lossless: holdsPixels && file.header.q === 255,
      alpha: file.alpha !== null,
      complete: file.complete,
      shown,
      bytes: data.length,
      seconds,
      sections: file.sections.map(({ payload }, i) => ({
        name: sectionName(i, holdsPixels),
        bytes: payload.length,
      })),
      metadata: [...image.entries].map(([tag, value]) => `${tag.trim()} (${value.length} bytes)`),
      warnings: image.warnings,
    };
    return { png: await writePng(image, image.entries), facts };
  }

  /** The codec of a model id; FormatError for one whose weights are not here. */
  codec(id: string, progress: Progress): Promise<Codec> {
    return remember(this.codecs, id, async () => {
      const models = await this.list();
      const entry = models[id];
      if (!entry) {
        const have = Object.entries(models)
          .map(([key, { name }]) => `${name} (${key})`)
          .join(", ");
        throw new FormatError(`written by model ${id}, which is not here; here are: ${have}`);
      }
      const [kernels, weights] = await Promise.all([
        this.fetch("kernels.wasm", false),
        this.fetch(`weights/${entry.decode.file}`, true, entry.decode.bytes, progress),
      ]);
      return new Codec(await Engine.start(kernels as BufferSource), await readWeights(weights));
    });
  }

  /** The codec that encodes here: that of the first model. */
  async encoder(progress: Progress): Promise<Codec> {
    const [id, entry] = Object.entries(await this.list())[0]!;
    const codec = await this.codec(id, progress);
    if (!codec.canEncode)
      codec.addEncoder(
        await readWeights(
          await this.fetch(`weights/${entry.encode.file}`, true, entry.encode.bytes, progress),
        ),
      );
    return codec;
  }

  private list(): Promise<Record<string, ModelEntry>> {
    this.models ??= this.fetch("weights/models.json", false)
      .then((data) => JSON.parse(new TextDecoder().decode(data)))
      .catch((error) => {
        this.models = null; // the next try may find the network
        throw error;
      });
    return this.models;
  }

  /** A file beside the script.  The name of one to keep changes with what it holds, so it is never fetched twice. */
  private async fetch(
    name: string,
    keep: boolean,
    size = 0,
    progress: Progress = () => {},
  ): Promise<Uint8Array> {
    const url = new URL(name, this.base).href;
    const store = keep && typeof caches !== "undefined" ? await caches.open(STORE).catch(() => null) : null;
    const kept = await store?.match(url);
    if (kept) return new Uint8Array(await kept.arrayBuffer());
    const response = await fetch(url).catch((error) => {
      throw new Error(`${name} cannot be fetched: ${error instanceof Error ? error.message : error}`);
    });
    if (!response.ok) throw new Error(`${name} cannot be fetched: ${response.status} ${response.statusText}`);
    const parts: Uint8Array[] = [];
    let found = 0;
    const reader = response.body!.getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      parts.push(next.value);
      found += next.value.length;
      if (size) progress("Fetching weights", Math.min(found / size, 1));
    }
    const data = new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer());
    if (size && found !== size) throw new Error(`${name} has ${found} bytes instead of ${size}`);
    await store?.put(url, new Response(data as BodyInit)).catch(() => {}); // no room is no harm
    return data;
  }
}

function remember<T>(known: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> {
  let found = known.get(key);
  if (!found) {
    found = make();
    known.set(key, found);
    found.catch(() => known.delete(key));
  }
  return found;
}
