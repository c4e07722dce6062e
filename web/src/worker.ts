// The worker: decodes and encodes away from the page's own thread.
import { encodeImage } from "./encode.js";
import type { Request, Result } from "./messages.js";
import { Runtime } from "./runtime.js";

interface Scope {
  location: Location;
  postMessage(message: unknown, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<{ number: number; request: Request }>) => void) | null;
}
const scope = self as unknown as Scope;
const runtime = new Runtime(scope.location.href);

scope.onmessage = async ({ data: { number, request } }) => {
  let last = 0;
  const progress = (what: string, part: number): void => {
    const now = performance.now();
    if (part < 1 && now - last < 50) return;
    last = now;
    scope.postMessage({ number, progress: part, what });
  };
  try {
    let result: Result;
    if (request.kind === "decode") result = await runtime.decode(request, progress);
    else if (request.kind === "prepare") result = await runtime.prepare(request, progress);
    else if (request.kind === "strip") result = await runtime.strip(request);
    else if (request.kind === "finish") result = await runtime.finish(request);
    else result = await encodeImage(await runtime.encoder(progress), request, progress);
    scope.postMessage({ number, result }, buffersOf(result));
  } catch (error) {
    const { name, message } = error instanceof Error ? error : { name: "Error", message: String(error) };
    scope.postMessage({ number, error: message, name });
  }
};

/** What need not be copied on its way out. */
function buffersOf(result: Result): ArrayBuffer[] {
  const views =
    "png" in result
      ? [result.png]
      : "pixels" in result
        ? [result.pixels]
        : "shares" in result
          ? result.shares.map(({ rows }) => rows)
          : [result.file, result.original];
  return views.map(({ buffer }) => buffer as ArrayBuffer);
}
