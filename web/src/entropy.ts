// The entropy model: q, and symbols as they come, in; means and scale indexes of the next ones out.  The order of
// everything is that of FORMAT.md, section 6; the layers' names are those of the weights.
import type { Engine } from "./engine.js";
import { atQuality, Attention, expTable, LayerNorm, Linear, positionBias, type Map64 } from "./exact.js";
import type { NamedArray } from "./weights.js";

const TAPS = 12; // anchors among the 5x5 neighbours of a non-anchor
const WINDOW = 8;

/** Codes the symbols of z or of a chunk's anchors or non-anchors.
 *
 * parameters  [cells, 2 channels]: means, then scale indexes divided by 8
 * values      address of what the symbols stand for, or 0 where that is to be found out
 * returns     the values after quantisation, [cells, channels]
 */
export type SymbolCoder = (section: number, last: boolean, parameters: Map64, values: number) => number;

interface Block {
  norm1: LayerNorm;
  norm2: LayerNorm;
  qkv: Linear;
  out: Linear;
  mlpIn: Linear;
  mlpOut: Linear;
  attention: Attention;
}

interface Chunk {
  channel: [Linear, Linear] | null;
  local: Linear;
  bias: number;
  blocks: Block[];
  inProjection: Linear;
  inProjectionSpatial: Linear;
  hiddenProjection: Linear;
  outProjection: Linear;
  channels: number;
}

export class EntropyModel {
  private readonly zMean: NamedArray;
  private readonly zLevel: NamedArray;
  private readonly quality: NamedArray;
  private readonly up1: Linear;
  private readonly up2: Linear;
  private readonly head: Linear;
  private readonly chunks: Chunk[] = [];

  constructor(
    private readonly engine: Engine,
    arrays: Map<string, NamedArray>,
    count: number,
  ) {
    const layers = new Map<string, Map<string, NamedArray>>();
    for (const [name, array] of arrays) {
      const dot = name.lastIndexOf(".");
      const layer = name.slice(0, dot);
      if (!layers.has(layer)) layers.set(layer, new Map());
      layers.get(layer)!.set(name.slice(dot + 1), array);
    }
    const parts = (name: string): Map<string, NamedArray> => {
      const found = layers.get(name);
      if (!found) throw new Error(`the entropy model has no layer ${name}`);
      return found;
    };
    const linear = (name: string, groups = 1) => new Linear(engine, name, parts(name), groups);
    const embedding = (name: string): NamedArray => parts(name).get("embedding")!;
    const exp = expTable(engine);
    this.zMean = embedding("z_mu");
    this.zLevel = embedding("z_level");
    this.quality = embedding("h_s.quality");
    [this.up1, this.up2, this.head] = [linear("h_s.up1"), linear("h_s.up2"), linear("h_s.head")];
    for (let i = 0; i < count; i++) {
      const name = `chunks.${i}`;
      const blocks: Block[] = [];
      for (let b = 0; layers.has(`${name}.global_context.blocks.${b}.qkv`); b++) {
        const block = `${name}.global_context.blocks.${b}`;
        blocks.push({
          norm1: new LayerNorm(engine, `${block}.norm1`, parts(`${block}.norm1`)),
          norm2: new LayerNorm(engine, `${block}.norm2`, parts(`${block}.norm2`)),
          qkv: linear(`${block}.qkv`),
          out: linear(`${block}.out`),
          mlpIn: linear(`${block}.mlp_in`),
          mlpOut: linear(`${block}.mlp_out`),
          attention: new Attention(engine, parts(`${block}.dot_product`), exp),
        });
      }
      const outProjection = linear(`${name}.out_projection`);
      this.chunks.push({
        channel: i ? [linear(`${name}.channel.0`), linear(`${name}.channel.2`)] : null,
        local: linear(`${name}.local.weight`, TAPS),
        bias: positionBias(engine, parts(`${name}.global_context.bias`).get("table")!),
        blocks,
        inProjection: linear(`${name}.in_projection`),
        inProjectionSpatial: linear(`${name}.in_projection_spatial`),
        hiddenProjection: linear(`${name}.hidden_projection`),
        outProjection,
        channels: outProjection.outputs / 2,
      });
    }
  }

  get channels(): number {
    return this.chunks.reduce((sum, chunk) => sum + chunk.channels, 0);
  }

  get zChannels(): number {
    return this.zMean.shape[1]!;
  }

  /** One pass over z [height, width] and y, 4 times as large a side.
   *
   * z and y are given to encode; what is after the first `chunks` takes its means from hyper and channel context.
   */
  pass(
    code: SymbolCoder,
    q: number,
    height: number,
    width: number,
    z: Map64 | null,
    y: Map64 | null,
    chunks = this.chunks.length,
  ): { y: Map64; z: Map64 } {
    const { engine } = this;
    const zParameters = this.repeat(
      [...atQuality(this.zMean, q), ...atQuality(this.zLevel, q)],
      height,
      width,
    );
    const zHat = { at: code(0, true, zParameters, z?.at ?? 0), height, width, channels: this.zChannels };
    engine.release(zParameters.at);
    const hyper = this.hyperSynthesis(zHat, q);
    let known: Map64 | null = null;
    let first = 0;
    for (const [i, chunk] of this.chunks.entries()) {
      const section = i + 1;
      const features = this.context(chunk, hyper, known);
      let found: Map64;
      if (section > chunks) {
        const parameters = this.parameters(chunk, features, null);
        found = this.part(parameters, 0, chunk.channels);
        engine.release(parameters.at);
      } else {
        found = this.checkerboard(code, section, chunk, features, y, first);
      }
      if (features !== hyper) engine.release(features.at);
      known = known ? this.join(known, found, true) : found;
      first += chunk.channels;
    }
    engine.release(hyper.at);
    return { y: known!, z: zHat };
  }

  private checkerboard(
    code: SymbolCoder,
    section: number,
    chunk: Chunk,
    features: Map64,
    y: Map64 | null,
    first: number,
  ): Map64 {
    const { engine } = this;
    const { height, width } = features;
    const { channels } = chunk;
    const out = engine.alloc(height * width * channels * 8);
    let spatial: Map64 | null = null;
    for (const parity of [0, 1]) {
      const half = this.pack(features, 0, features.channels, parity);
      const parameters = this.parameters(chunk, half, spatial);
      engine.release(half.at);
      const values = y && this.pack(y, first, channels, parity);
      const found = {
        at: code(section, parity === 1, parameters, values?.at ?? 0),
        height,
        width: width / 2,
        channels,
      };
      engine.release(parameters.at);
      if (values) engine.release(values.at);
      engine.call.unpack!(found.at, height, width, channels * 8, 0, channels * 8, parity, out);
      if (parity === 0) spatial = this.spatialContext(chunk, found);
      engine.release(found.at);
    }
    engine.release(spatial!.at);
    return { at: out, height, width, channels };
  }

  private hyperSynthesis(z: Map64, q: number): Map64 {
    const { engine } = this;
    const quality = engine.put(atQuality(this.quality, q));
    let f = this.shuffle(this.up1.apply(z));
    engine.call.addVector!(f.at, f.height * f.width, f.channels, quality, 1);
    engine.release(quality);
    f = this.shuffle(this.replace(f, this.up2.apply(f, true))); // leaky before or after the shuffle is the same
    return this.replace(f, this.head.apply(f, true));
  }

  private context(chunk: Chunk, hyper: Map64, known: Map64 | null): Map64 {
    if (!known || !chunk.channel) return hyper;
    const [first, second] = chunk.channel;
    const hidden = first.apply(known, true);
    const channel = this.replace(hidden, second.apply(hidden));
    const out = this.join(channel, hyper, false);
    this.engine.release(channel.at);
    return out;
  }

  private spatialContext(chunk: Chunk, anchors: Map64): Map64 {
    const { engine } = this;
    const local = chunk.local.applyToNeighbours(anchors);
    let x = local;
    for (const [i, block] of chunk.blocks.entries()) {
      const normed = block.norm1.apply(x);
      const mixed = block.attention.apply(normed, block.qkv, block.out, chunk.bias, (i % 2) * (WINDOW / 2));
      engine.release(normed.at);
      const sum = this.add(x, mixed, false);
      engine.release(mixed.at);
      if (x !== local) engine.release(x.at);
      const again = block.norm2.apply(sum);
      const hidden = this.replace(again, block.mlpIn.apply(again, true));
      const wide = this.replace(hidden, block.mlpOut.apply(hidden));
      x = this.replace(sum, this.add(sum, wide, false));
      engine.release(wide.at);
    }
    const out = this.join(local, x, false);
    engine.release(local.at);
    if (x !== local) engine.release(x.at);
    return out;
  }

  /** Means, then scale indexes divided by 8: [cells, 2 channels]. */
  private parameters(chunk: Chunk, features: Map64, spatial: Map64 | null): Map64 {
    let h = chunk.inProjection.apply(features, !spatial);
    if (spatial) {
      const more = chunk.inProjectionSpatial.apply(spatial);
      h = this.replace(h, this.add(h, more, true));
      this.engine.release(more.at);
    }
    h = this.replace(h, chunk.hiddenProjection.apply(h, true));
    return this.replace(h, chunk.outProjection.apply(h));
  }

  private replace(old: Map64, made: Map64): Map64 {
    this.engine.release(old.at);
    return made;
  }

  private add(a: Map64, b: Map64, leaky: boolean): Map64 {
    const count = a.height * a.width * a.channels;
    const at = this.engine.alloc(count * 8);
    this.engine.call.add64!(a.at, b.at, count, Number(leaky), at);
    return { ...a, at };
  }

  private join(a: Map64, b: Map64, release: boolean): Map64 {
    const cells = a.height * a.width;
    const channels = a.channels + b.channels;
    const at = this.engine.alloc(cells * channels * 8);
    this.engine.call.join!(a.at, 2 * a.channels, b.at, 2 * b.channels, cells, at); // in units of 4 bytes
    if (release) {
      this.engine.release(a.at);
      this.engine.release(b.at);
    }
    return { ...a, at, channels };
  }

  private part(x: Map64, from: number, channels: number): Map64 {
    const cells = x.height * x.width;
    const at = this.engine.alloc(cells * channels * 8);
    this.engine.call.copyRows!(x.at + 8 * from, 8 * x.channels, cells, 8 * channels, at, 8 * channels);
    return { ...x, at, channels };
  }

  private pack(x: Map64, from: number, channels: number, parity: number): Map64 {
    const at = this.engine.alloc((x.height * x.width * channels * 8) / 2);
    this.engine.call.pack!(x.at, x.height, x.width, 8 * x.channels, 8 * from, 8 * channels, parity, at);
    return { at, height: x.height, width: x.width / 2, channels };
  }

  private shuffle(x: Map64): Map64 {
    const { height, width } = x;
    const channels = x.channels / 4;
    const at = this.engine.alloc(height * width * x.channels * 8);
    this.engine.call.shuffle64!(x.at, height, width, channels, at);
    return this.replace(x, { at, height: 2 * height, width: 2 * width, channels });
  }

  private repeat(vector: number[], height: number, width: number): Map64 {
    const at = this.engine.alloc(height * width * vector.length * 8);
    const out = this.engine.f64(at, height * width * vector.length);
    for (let i = 0; i < height * width; i++) out.set(vector, i * vector.length);
    return { at, height, width, channels: vector.length };
  }
}
