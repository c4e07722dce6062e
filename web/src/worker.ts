// The worker: decodes and encodes away from the page's own thread.
import { encodeImage } from "./encode.js";
import type { DecodeReply, EncodeReply, Request } from "./messages.js";
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
    let result: DecodeReply | EncodeReply;
    if (request.kind === "decode") result = await runtime.decode(request.data, request, progress);
    else result = await encodeImage(await runtime.encoder(progress), request, progress);
    const transfer = "png" in result ? [result.png.buffer] : [result.file.buffer, result.original.buffer];
    scope.postMessage({ number, result }, transfer as Transferable[]);
  } catch (error) {
    const { name, message } = error instanceof Error ? error : { name: "Error", message: String(error) };
    scope.postMessage({ number, error: message, name });
  }
};
