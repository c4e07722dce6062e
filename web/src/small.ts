// Small arrays of the transforms' graphs (embeddings of q and t, shapes): one operator on them, as numpy broadcasts.

export interface Node {
  op: string;
  inputs: string[];
  outputs: string[];
  attributes: Record<string, number | string | number[]>;
}

export interface Small {
  dims: number[];
  values: number[];
}

/** An operator on small arrays, as numpy broadcasts them. */
export function small(node: Node, inputs: Small[]): Small[] {
  const [a, b, c] = inputs as [Small, Small, Small];
  const each = (f: (x: number) => number): Small[] => [{ dims: a.dims, values: Array.from(a.values, f) }];
  switch (node.op) {
    case "Add":
      return [broadcast(a, b, (x, y) => x + y)];
    case "Sub":
      return [broadcast(a, b, (x, y) => x - y)];
    case "Mul":
      return [broadcast(a, b, (x, y) => x * y)];
    case "Div":
      return [broadcast(a, b, (x, y) => x / y)];
    case "Max":
      return [broadcast(a, b, Math.max)];
    case "Abs":
      return each(Math.abs);
    case "Log":
      return each(Math.log);
    case "Sigmoid":
      return each((x) => 1 / (1 + Math.exp(-x)));
    case "Clip":
      return each((x) => Math.min(Math.max(x, b.values[0]!), c.values[0]!));
    case "Unsqueeze": {
      const dims = [...a.dims];
      const rank = dims.length + b.values.length;
      for (const axis of b.values.map((x) => (x + rank) % rank).sort((x, y) => x - y))
        dims.splice(axis, 0, 1);
      return [{ dims, values: a.values }];
    }
    case "Reshape": {
      const count = a.values.length;
      const known = b.values.reduce((product, side) => (side > 0 ? product * side : product), 1);
      return [{ dims: b.values.map((side) => (side === -1 ? count / known : side)), values: a.values }];
    }
    case "Concat": {
      // of vectors, or of columns
      const rank = a.dims.length;
      if (
        ((node.attributes.axis as number) + rank) % rank !== rank - 1 ||
        inputs.some(({ dims }) => dims.slice(0, -1).some((d) => d !== 1))
      )
        break;
      const values = inputs.flatMap((x) => Array.from(x.values));
      return [{ dims: [...a.dims.slice(0, -1), values.length], values }];
    }
    case "ReduceSum": {
      const [rows, inner] = [a.dims[1]!, a.dims.slice(2).reduce((x, y) => x * y, 1)];
      if (a.dims[0] !== 1 || b.values.join() !== "1" || node.attributes.keepdims) break;
      const values = Array.from({ length: inner }, (_, i) => {
        let sum = 0;
        for (let row = 0; row < rows; row++) sum += a.values[row * inner + i]!;
        return sum;
      });
      return [{ dims: [1, ...a.dims.slice(2)], values }];
    }
    case "Gemm": {
      const [outputs, columns] = b.dims as [number, number];
      if (!node.attributes.transB || node.attributes.transA) break;
      const values = Array.from({ length: outputs }, (_, n) => {
        let sum = c?.values[n] ?? 0;
        for (let k = 0; k < columns; k++) sum += a.values[k]! * b.values[n * columns + k]!;
        return sum;
      });
      return [{ dims: [1, outputs], values }];
    }
    case "Split": {
      const parts = node.outputs.length;
      const size = a.dims[1]! / parts;
      if (node.attributes.axis !== 1 || !Number.isInteger(size)) break;
      return node.outputs.map((_, i) => ({
        dims: [a.dims[0]!, size, ...a.dims.slice(2)],
        values: Array.from(a.values).slice(i * size, (i + 1) * size),
      }));
    }
  }
  throw new Error(`no form of ${node.op} for arrays of ${inputs.map(({ dims }) => `[${dims}]`)}`);
}

function broadcast(a: Small, b: Small, f: (x: number, y: number) => number): Small {
  const rank = Math.max(a.dims.length, b.dims.length);
  const full = (dims: number[]) => [...Array<number>(rank - dims.length).fill(1), ...dims];
  const [da, db] = [full(a.dims), full(b.dims)];
  const dims = da.map((side, i) => Math.max(side, db[i]!));
  const count = dims.reduce((x, y) => x * y, 1);
  const place = (own: number[], index: number): number => {
    let at = 0;
    let step = 1;
    for (let axis = rank - 1, rest = index; axis >= 0; axis--) {
      const i = rest % dims[axis]!;
      rest = Math.floor(rest / dims[axis]!);
      if (own[axis]! > 1) at += i * step;
      step *= own[axis]!;
    }
    return at;
  };
  return {
    dims,
    values: Array.from({ length: count }, (_, i) => f(a.values[place(da, i)]!, b.values[place(db, i)]!)),
  };
}
