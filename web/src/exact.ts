// Layers of the entropy model in exact arithmetic (FORMAT.md, section 7): named integers in, maps of float64 out.
import type { Engine } from "./engine.js";
import type { NamedArray } from "./weights.js";

const UNIT = 2 ** -24; // of biases, factors of norms and curves
const TABLE_UNIT = 2 ** -12;
const ROOM = 2 ** 31 / 32767; // sums of weights up to which a 32-bit lane holds the products
const WINDOW_ROWS = 8;
const WINDOW_COLUMNS = 4; // of a packed map
export const WINDOW_CELLS = WINDOW_ROWS * WINDOW_COLUMNS;

/** A map [height, width, channels] of float64 in the engine's memory. */
export interface Map64 {
  at: number;
  height: number;
  width: number;
  channels: number;
}

interface Segment {
  panel: number;
  from: number; // of the row of inputs, in values
  pairs: number;
}

/** A linear layer over cells, or over what `gather` lays out for each cell. */
export class Linear {
  readonly inputs: number;
  readonly outputs: number;
  readonly kernel: number;
  private readonly stride: number; // values of one gathered cell: its channels, made even
  private readonly row: number;
  private readonly segments: Segment[] = [];
  private readonly bias: number;
  private readonly scale: number;
  private readonly unit: number;

  /** `groups`: cells that are gathered for one, if the weight's shape does not say so. */
  constructor(
    private readonly engine: Engine,
    name: string,
    parts: Map<string, NamedArray>,
    groups = 1,
  ) {
    const { shape, values } = parts.get("weight")!;
    const [outputs, columns, rows = 1, across = 1] = shape as [number, number, number?, number?];
    if (rows !== across || rows % 2 === 0)
      throw new Error(`${name}: no exact form of a kernel of ${rows}x${across}`);
    this.kernel = rows;
    this.outputs = outputs;
    const cells = rows * rows * groups;
    this.inputs = columns / groups;
    this.stride = this.inputs + (this.inputs % 2);
    this.row = cells * this.stride;
    // [outputs, cells, stride]: the order in which inputs are laid out
    const matrix = new Int16Array(outputs * this.row);
    const [cellStep, channelStep] = groups > 1 ? [this.inputs, 1] : [1, cells];
    for (let n = 0; n < outputs; n++) {
      for (let cell = 0; cell < cells; cell++) {
        const to = n * this.row + cell * this.stride;
        const from = n * columns * rows * rows + cell * cellStep;
        for (let channel = 0; channel < this.inputs; channel++)
          matrix[to + channel] = values[from + channel * channelStep]!;
      }
    }
    this.layOut(name, matrix);
    const fraction = Number(parts.get("fraction")!.values[0]);
    this.scale = 2 ** fraction;
    this.unit = 1 / (this.scale * 2 ** Number(parts.get("exponent")!.values[0]));
    const bias = parts.get("bias");
    this.bias = bias ? engine.put(Float64Array.from(bias.values, (v) => v * UNIT)) : 0;
  }

  /** Cuts the inputs into as few segments as have sums of 32 bits, and lays each out as `gemm16` reads it. */
  private layOut(name: string, matrix: Int16Array): void {
    if (largestSum(matrix, this.row, 0, this.row, Math.abs) * 2 ** 15 >= 2 ** 53)
      throw new Error(`${name}: a sum may leave the integers`);
    for (let parts = 1; ; parts++) {
      const size = 2 * Math.ceil(this.row / 2 / parts);
      const starts = Array.from({ length: Math.ceil(this.row / size) }, (_, i) => i * size);
      const fits = (from: number): boolean =>
        [highOf, lowOf].every(
          (half) =>
            largestSum(matrix, this.row, from, Math.min(from + size, this.row), (w) => Math.abs(half(w))) <
            ROOM,
        );
      if (!starts.every(fits)) continue;
      for (const from of starts)
        this.segments.push(this.segment(matrix, from, Math.min(size, this.row - from) / 2));
      return;
    }
  }

  private segment(matrix: Int16Array, from: number, pairs: number): Segment {
    const panels = Math.ceil(this.outputs / 4);
    const panel = this.engine.alloc(panels * pairs * 32);
    const out = this.engine.i16(panel, panels * pairs * 16);
    out.fill(0);
    for (let n = 0; n < this.outputs; n++) {
      const start = (n >> 2) * pairs * 16 + (n & 3) * 2;
      for (let k = 0; k < 2 * pairs; k++) {
        const weight = matrix[n * this.row + from + k]!;
        const at = start + (k >> 1) * 16 + (k & 1);
        out[at] = highOf(weight);
        out[at + 8] = lowOf(weight);
      }
    }
    return { panel, from, pairs };
  }

  /** [height, width, inputs] -> [height, width, outputs]; zeros beyond the border. */
  apply(x: Map64, leaky = false): Map64 {
    const { engine } = this;
    const { height, width } = x;
    this.expect(x);
    const fixed = this.fix(x);
    if (this.kernel === 1) {
      const out = engine.alloc(height * width * this.outputs * 8);
      this.multiply(fixed, height * width, out, leaky);
      engine.release(fixed);
      return { at: out, height, width, channels: this.outputs };
    }
    const out = engine.alloc(height * width * this.outputs * 8);
    const rows = Math.max(1, Math.floor(2 ** 20 / (width * this.row)));
    const gathered = engine.alloc(rows * width * this.row * 2);
    for (let top = 0; top < height; top += rows) {
      const count = Math.min(rows, height - top);
      const half = this.kernel >> 1;
      engine.call.windows!(
        fixed,
        height,
        width,
        this.stride * 2,
        this.kernel,
        1,
        half,
        0,
        top,
        count,
        width,
        gathered,
      );
      this.multiply(gathered, count * width, out + top * width * this.outputs * 8, leaky);
    }
    engine.release(gathered);
    engine.release(fixed);
    return { at: out, height, width, channels: this.outputs };
  }

  /** The anchors [height, width / 2, inputs] -> what the non-anchors see of them, same shape. */
  applyToNeighbours(anchors: Map64): Map64 {
    const { engine } = this;
    const { height, width } = anchors;
    this.expect(anchors);
    const fixed = this.fix(anchors);
    const gathered = engine.alloc(height * width * this.row * 2);
    engine.call.neighbours!(fixed, height, 2 * width, this.stride * 2, gathered);
    const out = engine.alloc(height * width * this.outputs * 8);
    this.multiply(gathered, height * width, out, false);
    engine.release(gathered);
    engine.release(fixed);
    return { at: out, height, width, channels: this.outputs };
  }

  private expect(x: Map64): void {
    if (x.channels !== this.inputs) throw new Error(`${x.channels} channels for a layer of ${this.inputs}`);
  }

  private fix(x: Map64): number {
    const cells = x.height * x.width;
    const fixed = this.engine.alloc(cells * this.stride * 2);
    this.engine.call.fix!(x.at, cells, this.inputs, this.stride, this.scale, fixed);
    return fixed;
  }

  private multiply(x: number, cells: number, out: number, leaky: boolean): void {
    for (const [i, { panel, from, pairs }] of this.segments.entries()) {
      const last = i === this.segments.length - 1;
      this.engine.call.gemm16!(
        x + 2 * from,
        this.row,
        cells,
        pairs,
        panel,
        this.outputs,
        out,
        Number(i === 0),
        Number(last),
        this.unit,
        this.bias,
        Number(leaky),
      );
    }
  }
}

// A weight is 256 high + low, low in -128 .. 127.
function lowOf(weight: number): number {
  return ((weight + 128) & 255) - 128;
}

function highOf(weight: number): number {
  return (weight - lowOf(weight)) >> 8;
}

/** The largest over the rows of the sum of `size(value)` over the columns from .. to. */
function largestSum(
  matrix: Int16Array,
  row: number,
  from: number,
  to: number,
  size: (value: number) => number,
): number {
  let most = 0;
  for (let start = 0; start < matrix.length; start += row) {
    let sum = 0;
    for (let k = start + from; k < start + to; k++) sum += size(matrix[k]!);
    most = Math.max(most, sum);
  }
  return most;
}

export class LayerNorm {
  private readonly weight: number;
  private readonly bias: number;
  private readonly scale: number;
  private readonly eps: number;

  constructor(
    private readonly engine: Engine,
    name: string,
    parts: Map<string, NamedArray>,
  ) {
    const weight = parts.get("weight")!.values;
    if (32 * weight.length ** 2 * 4 ** 15 >= 2 ** 53)
      throw new Error(`${name}: ${weight.length} channels are too many`);
    this.weight = engine.put(Float64Array.from(weight, (v) => v * UNIT));
    this.bias = engine.put(Float64Array.from(parts.get("bias")!.values, (v) => v * UNIT));
    this.eps = Number(parts.get("eps")!.values[0]);
    this.scale = 2 ** Number(parts.get("fraction")!.values[0]);
  }

  apply(x: Map64): Map64 {
    const cells = x.height * x.width;
    const out = this.engine.alloc(cells * x.channels * 8);
    this.engine.call.layerNorm!(x.at, cells, x.channels, this.scale, this.eps, this.weight, this.bias, out);
    return { ...x, at: out };
  }
}

/** softmax(q k^T / sqrt(d) + bias) v within each window of a packed map. */
export class Attention {
  private readonly heads: number;
  private readonly scale: number;

  constructor(
    private readonly engine: Engine,
    parts: Map<string, NamedArray>,
    private readonly exp: ExpTable,
  ) {
    this.heads = Number(parts.get("heads")!.values[0]);
    this.scale = 2 ** Number(parts.get("fraction")!.values[0]);
  }

  /** x [height, width, channels] -> out(attention(qkv(x))), in windows that begin `offset` cells before it. */
  apply(x: Map64, qkv: Linear, out: Linear, bias: number, offset: number): Map64 {
    const { engine } = this;
    const { height, width, channels } = x;
    const [top, left] = [offset, offset / 2];
    const count = Math.ceil((height + top) / WINDOW_ROWS) * Math.ceil((width + left) / WINDOW_COLUMNS);
    const place = [WINDOW_ROWS, WINDOW_COLUMNS, top, left] as const;
    const cells = count * WINDOW_CELLS;

    const ones = engine.alloc(height * width);
    engine.u8(ones, height * width).fill(1);
    const visible = engine.alloc(cells);
    engine.call.toWindows!(ones, height, width, 1, ...place, visible);
    engine.release(ones);

    const windows = engine.alloc(cells * channels * 8);
    engine.call.toWindows!(x.at, height, width, channels * 8, ...place, windows);
    const projected = qkv.apply({ at: windows, height: 1, width: cells, channels });
    const scratch = engine.alloc((3 * channels * WINDOW_CELLS + WINDOW_CELLS) * 8);
    engine.call.attention!(
      projected.at,
      count,
      WINDOW_CELLS,
      channels,
      this.heads,
      this.scale,
      bias,
      visible,
      this.exp.at,
      this.exp.last,
      scratch,
      windows,
    );
    engine.release(projected.at);
    engine.release(scratch);
    engine.release(visible);
    const mixed = out.apply({ at: windows, height: 1, width: cells, channels });
    engine.release(windows);
    const back = engine.alloc(height * width * channels * 8);
    engine.call.fromWindows!(mixed.at, height, width, channels * 8, ...place, back);
    engine.release(mixed.at);
    return { at: back, height, width, channels };
  }
}

/** Position bias of a window, float64 [32, 32] in the engine's memory. */
export function positionBias(engine: Engine, table: NamedArray): number {
  const cells = Array.from({ length: WINDOW_CELLS }, (_, i) => {
    const row = Math.floor(i / WINDOW_COLUMNS);
    return [row, 2 * (i % WINDOW_COLUMNS) + ((row + 1) % 2)] as const;
  });
  const bias = new Float64Array(WINDOW_CELLS ** 2);
  for (const [i, [row, column]] of cells.entries()) {
    for (const [j, [r, c]] of cells.entries()) {
      bias[i * WINDOW_CELLS + j] = table.values[Math.abs(row - r) + Math.abs(column - c)]! * TABLE_UNIT;
    }
  }
  return engine.put(bias);
}

/** A vector that follows q, linear between evenly spaced rows: float64 [channels]. */
export function atQuality(rows: NamedArray, q: number): Float64Array {
  const [knots, channels] = rows.shape as [number, number];
  const position = Math.min(Math.max(q, 0), 1) * (knots - 1);
  const below = Math.min(Math.floor(position), knots - 2);
  const part = position - below;
  return Float64Array.from({ length: channels }, (_, c) => {
    const low = rows.values[below * channels + c]! * UNIT;
    const high = rows.values[(below + 1) * channels + c]! * UNIT;
    return low * (1 - part) + high * part;
  });
}

export interface ExpTable {
  at: number;
  last: number;
}

/** round(2^15 exp(-i / 256)) for i = 0, 1, ... until it is 0 (FORMAT.md, section 7). */
export function expTable(engine: Engine): ExpTable {
  const factor = 338955731696479810470146282672867036735n; // round(2^128 exp(-1 / 256))
  const table: number[] = [2 ** 15];
  for (let value = 1n << 143n; table.at(-1);) {
    value = (value * factor) >> 128n;
    table.push(Number((value + (1n << 127n)) >> 128n));
  }
  return { at: engine.put(Float64Array.from(table)), last: table.length - 1 };
}
