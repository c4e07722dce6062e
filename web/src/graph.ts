// ONNX graphs of the transforms run on the kernels: float32 maps [height, width, channels] and small arrays in,
// maps out.  Knows the operators that the transforms use and refuses any other.
import type { Engine } from "./engine.js";
import { activationOf, plan, type GraphData, type Step } from "./plan.js";
import { small, type Node, type Small } from "./small.js";
import type { NamedArray } from "./weights.js";

/** A map [height, width, channels] of float32 in the engine's memory. */
export interface Map32 {
  at: number;
  height: number;
  width: number;
  channels: number;
}

/** A map that is to be padded by so many cells a side, or that is being folded into depth. */
interface View {
  map: Map32;
  edge?: number;
  block?: number;
}

type Value = Map32 | Small | View;

interface Weights {
  panel: number;
  bias: number;
  outputs: number;
  padded: number; // outputs, up to a multiple of 8
  inputs: number; // of one group
  kernel: number;
  depthwise: boolean;
}

const GATHERED = 1 << 20; // bytes of what is laid out for one product

export class Graph {
  private readonly steps: Step[];
  private readonly weights = new Map<string, Weights>();

  constructor(
    private readonly engine: Engine,
    private readonly name: string,
    private readonly graph: GraphData,
    private readonly parameters: Map<string, NamedArray>,
  ) {
    this.steps = plan(graph);
    for (const { node } of this.steps) {
      if (node.op === "Conv") this.weights.set(node.inputs[1]!, this.convolution(node));
    }
  }

  /** Outputs for inputs, in the order of the graph; the caller releases the outputs, and keeps the inputs. */
  run(...inputs: (Map32 | number)[]): Map32[] {
    const values = new Map<string, Value>();
    const owned = new Set<number>();
    this.graph.inputs.forEach((name, i) => {
      const input = inputs[i]!;
      values.set(name, typeof input === "number" ? { dims: [1], values: [input] } : input);
    });
    const get = (name: string): Value => {
      const found = values.get(name) ?? this.constant(name);
      if (!found) throw new Error(`${this.name} has no value ${name}`);
      return found;
    };
    for (const step of this.steps) {
      const made = this.evaluate(step, get);
      made.forEach((value, i) => {
        values.set(i ? step.node.outputs[i]! : step.output, value);
        if (isMap(value)) owned.add(value.at);
      });
      for (const name of step.last) {
        const value = values.get(name)!;
        values.delete(name);
        const at = isMap(value) ? value.at : isSmall(value) ? 0 : value.map.at;
        // a view, or another name of the same map, may still be in use
        if (
          owned.has(at) &&
          ![...values.values()].some((v) => (isMap(v) ? v.at : isSmall(v) ? 0 : v.map.at) === at)
        ) {
          owned.delete(at);
          this.engine.release(at);
        }
      }
    }
    return this.graph.outputs.map((name) => {
      const value = get(name);
      if (!isMap(value)) throw new Error(`${this.name}: output ${name} is no map`);
      return value;
    });
  }

  private constant(name: string): Small | undefined {
    const given = this.graph.constants[name];
    if (given) return { dims: given.dims, values: given.values };
    const parameter = this.parameters.get(name);
    return parameter && { dims: parameter.shape, values: parameter.values as unknown as number[] };
  }

  private evaluate(step: Step, get: (name: string) => Value): Value[] {
    const { node } = step;
    const inputs = node.inputs.map((name) =>
      node.op === "Conv" && this.weights.has(node.inputs[1]!) && name !== node.inputs[0] ? EMPTY : get(name),
    );
    const first = inputs[0]!;
    if (node.op === "Conv") {
      const residual = step.residual ? (get(step.residual) as Map32) : null;
      return [this.convolve(node, first, step.activation, residual)];
    }
    if (inputs.every(isSmall)) return small(node, inputs as Small[]);
    return [this.onMaps(node, inputs)];
  }

  private onMaps(node: Node, inputs: Value[]): Value {
    const { engine } = this;
    const [first, second] = inputs as [Value, Value];
    const fault = (): never => {
      throw new Error(`${this.name}: no form of ${node.op} for these inputs`);
    };
    switch (node.op) {
      case "Add":
        if (isMap(first) && isMap(second)) {
          const out = this.like(first);
          engine.call.add!(first.at, second.at, first.height * first.width * first.channels, out.at);
          return out;
        }
        return isMap(first) && isSmall(second)
          ? this.affine(first, null, second)
          : isMap(second) && isSmall(first)
            ? this.affine(second, null, first)
            : fault();
      case "Mul":
        return isMap(first) && isSmall(second) ? this.affine(first, second, null) : fault();
      case "LeakyRelu":
      case "Gelu": {
        if (!isMap(first)) return fault();
        const out = this.like(first);
        engine.call.activation!(
          first.at,
          first.height * first.width * first.channels,
          activationOf(node),
          out.at,
        );
        return out;
      }
      case "Pad": {
        const by = (second as Small).values;
        if (
          !isMap(first) ||
          node.attributes.mode !== "edge" ||
          by.join() !== [0, 0, by[2], by[2], 0, 0, by[2], by[2]].join()
        ) {
          return fault();
        }
        return { map: first, edge: by[2]! };
      }
      case "DepthToSpace": {
        if (!isMap(first) || node.attributes.mode !== "CRD") return fault();
        const block = node.attributes.blocksize as number;
        const channels = first.channels / block ** 2;
        const out = this.map(first.height * block, first.width * block, channels);
        engine.call.depthToSpace!(first.at, first.height, first.width, channels, block, out.at);
        return out;
      }
      case "Concat": {
        if (!inputs.every(isMap) || inputs.length !== 2 || node.attributes.axis !== 1) return fault();
        const [a, b] = inputs as [Map32, Map32];
        const out = this.map(a.height, a.width, a.channels + b.channels);
        engine.call.join!(a.at, a.channels, b.at, b.channels, a.height * a.width, out.at);
        return out;
      }
      case "Shape": {
        if (!isMap(first)) return fault();
        const dims = [1, first.channels, first.height, first.width];
        const values = dims.slice(
          node.attributes.start as number | undefined,
          node.attributes.end as number | undefined,
        );
        return { dims: [values.length], values };
      }
      // pixels folded into channels come as a reshape to six axes, a transposition and a reshape back
      case "Reshape": {
        const wanted = (second as Small).values;
        if (isMap(first)) {
          if (wanted.length === 4) return first;
          const [, , rows, block, columns, other] = wanted;
          if (
            wanted.length !== 6 ||
            block !== other ||
            rows! * block! !== first.height ||
            columns! * block! !== first.width
          ) {
            return fault();
          }
          return { map: first, block: block! };
        }
        return fault();
      }
      case "Transpose": {
        const view = first as View;
        if (!view.block || String(node.attributes.perm) !== "0,1,3,5,2,4") return fault();
        const { map, block } = view;
        const out = this.map(map.height / block, map.width / block, map.channels * block ** 2);
        engine.call.spaceToDepth!(map.at, out.height, out.width, map.channels, block, out.at);
        return out;
      }
    }
    return fault();
  }

  private map(height: number, width: number, channels: number): Map32 {
    return { at: this.engine.alloc(height * width * channels * 4), height, width, channels };
  }

  private like(x: Map32): Map32 {
    return this.map(x.height, x.width, x.channels);
  }

  private affine(x: Map32, factor: Small | null, term: Small | null): Map32 {
    const { engine } = this;
    const vector = (given: Small | null): number => {
      if (!given) return 0;
      if (given.values.length !== x.channels)
        throw new Error(`${this.name}: ${given.dims} and ${x.channels} channels`);
      return engine.put(Float32Array.from(given.values));
    };
    const [f, t] = [vector(factor), vector(term)];
    const out = this.like(x);
    engine.call.affine!(x.at, x.height * x.width, x.channels, f, t, out.at);
    for (const at of [f, t]) if (at) engine.release(at);
    return out;
  }

  private convolution(node: Node): Weights {
    const { engine } = this;
    const weight = this.parameters.get(node.inputs[1]!);
    if (!weight) throw new Error(`${this.name} has no weights ${node.inputs[1]}`);
    const [outputs, inputs, kernel, other] = weight.shape as [number, number, number, number];
    const group = (node.attributes.group as number | undefined) ?? 1;
    const depthwise = group > 1;
    if (
      kernel !== other ||
      (depthwise && (inputs !== 1 || group !== outputs || kernel !== 3 || outputs % 4))
    ) {
      throw new Error(`${this.name}: no form of a convolution ${weight.shape} in ${group} groups`);
    }
    const padded = depthwise ? outputs : Math.ceil(outputs / 8) * 8;
    const cells = kernel ** 2;
    const out = new Float32Array(padded * inputs * cells);
    for (let n = 0; n < outputs; n++) {
      for (let c = 0; c < inputs; c++) {
        for (let cell = 0; cell < cells; cell++) {
          const value = weight.values[(n * inputs + c) * cells + cell]!;
          if (depthwise) out[cell * outputs + n] = value;
          else out[((n >> 3) * cells * inputs + cell * inputs + c) * 8 + (n & 7)] = value;
        }
      }
    }
    const bias = new Float32Array(padded);
    const given = node.inputs[2] ? this.parameters.get(node.inputs[2]) : undefined;
    if (given) bias.set(given.values);
    return { panel: engine.put(out), bias: engine.put(bias), outputs, padded, inputs, kernel, depthwise };
  }

  private convolve(node: Node, value: Value, activation: number, residual: Map32 | null): Map32 {
    const { engine } = this;
    const weights = this.weights.get(node.inputs[1]!)!;
    const view = isMap(value) ? { map: value, edge: 0 } : (value as View);
    const { map } = view;
    const pads = (node.attributes.pads as number[] | undefined) ?? [0, 0, 0, 0];
    const strides = (node.attributes.strides as number[] | undefined) ?? [1, 1];
    const padding = (view.edge ?? 0) + pads[0]!;
    const edge = Number(Boolean(view.edge));
    const stride = strides[0]!;
    const { kernel, outputs, padded } = weights;
    const height = Math.floor((map.height + 2 * padding - kernel) / stride) + 1;
    const width = Math.floor((map.width + 2 * padding - kernel) / stride) + 1;
    if (weights.depthwise) {
      if (padding !== 1 || stride !== 1)
        throw new Error(`${this.name}: depthwise with padding ${padding} and stride ${stride}`);
      const out = this.like(map);
      engine.call.depthwise3!(map.at, height, width, outputs, weights.panel, weights.bias, edge, out.at);
      if (activation) engine.call.activation!(out.at, height * width * outputs, activation, out.at);
      if (residual) engine.call.add!(out.at, residual.at, height * width * outputs, out.at);
      return out;
    }
    const wide = padded !== outputs; // then there are channels to cut off
    const out = this.map(height, width, padded);
    const columns = kernel ** 2 * weights.inputs;
    const added = residual && !wide ? residual.at : 0;
    const product = (x: number, cells: number, from: number): void => {
      const offset = from * padded * 4;
      engine.call.gemm!(
        x,
        columns,
        cells,
        columns,
        weights.panel,
        padded,
        weights.bias,
        out.at + offset,
        padded,
        activation,
        added && added + offset,
      );
    };
    if (kernel === 1 && stride === 1) {
      product(map.at, height * width, 0);
    } else {
      const rows = Math.max(1, Math.min(height, Math.floor(GATHERED / (width * columns * 4))));
      const gathered = engine.alloc(rows * width * columns * 4);
      for (let top = 0; top < height; top += rows) {
        const count = Math.min(rows, height - top);
        engine.call.windows!(
          map.at,
          map.height,
          map.width,
          map.channels * 4,
          kernel,
          stride,
          padding,
          edge,
          top,
          count,
          width,
          gathered,
        );
        product(gathered, count * width, top * width);
      }
      engine.release(gathered);
    }
    if (!wide) return out;
    const cut = this.map(height, width, outputs);
    engine.call.copyRows!(out.at, padded * 4, height * width, outputs * 4, cut.at, outputs * 4);
    engine.release(out.at);
    if (residual) engine.call.add!(cut.at, residual.at, height * width * outputs, cut.at);
    return cut;
  }
}

const EMPTY: Small = { dims: [], values: [] };

function isMap(value: Value): value is Map32 {
  return "at" in value;
}

function isSmall(value: Value): value is Small {
  return "values" in value;
}
