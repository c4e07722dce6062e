// The bytes of an ONNX model in; its nodes, inputs, outputs and small constants out, as plain objects.
// Parameters are external initializers: they stay under their names, without values.

const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 };

// Fields of a protobuf message: number -> list of values (number, or bytes).
function fields(bytes) {
  const found = new Map();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asIntN(64, value);
    }
  };
  while (at < bytes.length) {
    const key = Number(varint());
    let value;
    switch (key & 7) {
      case WIRE.varint:
        value = Number(varint());
        break;
      case WIRE.fixed64:
        value = bytes.subarray(at, (at += 8));
        break;
      case WIRE.fixed32:
        value = Buffer.from(bytes.subarray(at, (at += 4))).readFloatLE(0);
        break;
      case WIRE.bytes: {
        const size = Number(varint());
        value = bytes.subarray(at, (at += size));
        break;
      }
      default:
        throw new Error(`not a protobuf message: wire type ${key & 7}`);
    }
    const list = found.get(key >> 3) ?? [];
    list.push(value);
    found.set(key >> 3, list);
  }
  return found;
}

const text = (bytes) => Buffer.from(bytes).toString();

function integers(list) {
  return (list ?? []).flatMap((value) => {
    if (typeof value === "number") return [value];
    const packed = [];
    for (let at = 0; at < value.length;) {
      let n = 0n;
      for (let shift = 0n; ; shift += 7n) {
        const byte = value[at++];
        n |= BigInt(byte & 127) << shift;
        if (byte < 128) break;
      }
      packed.push(Number(BigInt.asIntN(64, n)));
    }
    return packed;
  });
}

// AttributeProto: name 1, f 2, i 3, s 4, ints 8
function attribute(bytes) {
  const f = fields(bytes);
  const name = text(f.get(1)[0]);
  if (f.has(8)) return [name, integers(f.get(8))];
  if (f.has(3)) return [name, f.get(3)[0]];
  if (f.has(2)) return [name, f.get(2)[0]];
  if (f.has(4)) return [name, text(f.get(4)[0])];
  return [name, 0];
}

// TensorProto: dims 1, data_type 2, raw_data 9, data_location 14; null for one that is kept elsewhere
function constant(bytes) {
  const f = fields(bytes);
  if (f.get(14)?.[0]) return null;
  const raw = Buffer.from(f.get(9)[0]);
  const type = f.get(2)[0];
  const values = [];
  for (let at = 0; at < raw.length;) {
    if (type === 1) values.push(raw.readFloatLE(at));
    else if (type === 7) values.push(Number(raw.readBigInt64LE(at)));
    else throw new Error(`no form for constants of type ${type}`);
    at += type === 1 ? 4 : 8;
  }
  return { dims: integers(f.get(1)), values };
}

export function readGraph(bytes) {
  const graph = fields(fields(bytes).get(7)[0]); // ModelProto.graph
  const constants = {};
  const initializers = new Set();
  for (const initializer of graph.get(5) ?? []) {
    const name = text(fields(initializer).get(8)[0]);
    initializers.add(name);
    const value = constant(initializer);
    if (value) constants[name] = value;
  }
  const names = (list) => (list ?? []).map((info) => text(fields(info).get(1)[0]));
  return {
    inputs: names(graph.get(11)).filter((name) => !initializers.has(name)),
    outputs: names(graph.get(12)),
    constants,
    nodes: graph.get(1).map((node) => {
      const f = fields(node);
      return {
        op: text(f.get(4)[0]),
        inputs: (f.get(1) ?? []).map(text),
        outputs: (f.get(2) ?? []).map(text),
        attributes: Object.fromEntries((f.get(5) ?? []).map(attribute)),
      };
    }),
  };
}
