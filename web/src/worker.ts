// The worker: decodes and encodes away from the page's own thread.
import { encodeImage } from "./encode.js";
import type { DecodeReply, EncodeReply, Request, StripReply } from "./messages.js";
import { Workers } from "./client.js";
import { Runtime } from "./runtime.js";

interface Scope {
  location: Location;
  postMessage(message: unknown, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<{ number: number; request: Request }>) => void) | null;
}
const scope = self as unknown as Scope;
// how many may work on one image: `?threads=` behind the worker's address, or one fewer than there are processors
const asked = Number(new URL(scope.location.href).searchParams.get("threads"));
const threads = asked || Math.min(4, Math.max(1, navigator.hardwareConcurrency - 1));
const others = threads > 1 && typeof Worker !== "undefined" ? new Workers(new URL("?threads=1", scope.location.href), threads) : null;
const runtime = new Runtime(scope.location.href, others ? { workers: others, count: threads } : null);

scope.onmessage = async ({ data: { number, request } }) => {
  let last = 0;
  const progress = (what: string, part: number): void => {
    const now = performance.now();
    if (part < 1 && now - last < 50) return;
    last = now;
    scope.postMessage({ number, progress: part, what });
  };
  try {
    let result: DecodeReply | EncodeReply | StripReply;
    if (request.kind === "decode") result = await runtime.decode(request.data, request, progress);
    else if (request.kind === "strip") result = await runtime.strip(request);
    else result = await encodeImage(await runtime.encoder(progress), request, progress);
    const buffers = "png" in result ? [result.png] : "pixels" in result ? [result.pixels] : [result.file, result.original];
    scope.postMessage({ number, result }, buffers.map(({ buffer }) => buffer as ArrayBuffer));
  } catch (error) {
    const { name, message } = error instanceof Error ? error : { name: "Error", message: String(error) };
    scope.postMessage({ number, error: message, name });
  }
};
