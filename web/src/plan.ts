// The nodes of an ONNX graph in; the steps in which they are computed out, with what is fused and when values end.
import type { Node } from "./small.js";

export interface GraphData {
  inputs: string[];
  outputs: string[];
  constants: Record<string, { dims: number[]; values: number[] }>;
  nodes: Node[];
}

export interface Step {
  node: Node;
  output: string;
  activation: number;
  residual: string;
  last: string[]; // values that nobody needs after this step
}

const LEAKY = 1;
const GELU = 2;

export function activationOf(node: Node): number {
  if (node.op === "LeakyRelu" && Math.abs((node.attributes.alpha as number) - 0.1) < 1e-6) return LEAKY;
  if (node.op === "Gelu" && node.attributes.approximate === "none") return GELU;
  throw new Error(`no form of ${node.op} with ${JSON.stringify(node.attributes)}`);
}

/** The nodes in order; a convolution takes the activation and the sum behind it along, where only they need it. */
export function plan(graph: GraphData): Step[] {
  const users = new Map<string, Node[]>();
  const producer = new Map<string, number>();
  graph.nodes.forEach((node, i) => {
    for (const name of node.outputs) producer.set(name, i);
    for (const name of node.inputs) users.set(name, [...(users.get(name) ?? []), node]);
  });
  const maps = new Set(graph.inputs.filter((name) => name !== "q" && name !== "t"));
  for (const { op, inputs, outputs } of graph.nodes) {
    const any = ["Conv", "Pad", "DepthToSpace", "Transpose"].includes(op);
    const given =
      ["Add", "Mul", "LeakyRelu", "Gelu", "Concat", "Reshape"].includes(op) &&
      inputs.some((name) => maps.has(name));
    if (any || given) maps.add(outputs[0]!);
  }
  const only = (name: string): Node | undefined => {
    const list = users.get(name) ?? [];
    return list.length === 1 && !graph.outputs.includes(name) ? list[0] : undefined;
  };
  const skipped = new Set<Node>();
  const steps: Step[] = [];
  graph.nodes.forEach((node, i) => {
    if (skipped.has(node)) return;
    const step: Step = { node, output: node.outputs[0]!, activation: 0, residual: "", last: [] };
    if (node.op === "Conv") {
      let next = only(step.output);
      if (next && (next.op === "LeakyRelu" || next.op === "Gelu")) {
        step.activation = activationOf(next);
        step.output = next.outputs[0]!;
        skipped.add(next);
        next = only(step.output);
      }
      const other = next?.op === "Add" ? next.inputs.find((name) => name !== step.output) : undefined;
      if (next && other && maps.has(other) && (producer.get(other) ?? -1) < i) {
        step.residual = other;
        step.output = next.outputs[0]!;
        skipped.add(next);
      }
    }
    steps.push(step);
  });
  const lastUse = new Map<string, Step>();
  for (const step of steps) {
    for (const name of [...step.node.inputs, step.residual, step.output])
      if (producer.has(name)) lastUse.set(name, step);
  }
  for (const [name, step] of lastUse) if (!graph.outputs.includes(name)) step.last.push(name);
  return steps;
}
