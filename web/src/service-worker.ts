// The service worker: answers requests for images in .sfu files with PNGs, and keeps the page for visits offline.
import { Runtime } from "./runtime.js";

interface WorkerScope {
  location: Location;
  registration: { scope: string };
  clients: { claim(): Promise<void> };
  skipWaiting(): Promise<void>;
  addEventListener(type: string, listener: (event: never) => void): void;
}
interface Extendable {
  waitUntil(work: Promise<unknown>): void;
}
interface Fetching extends Extendable {
  request: Request;
  respondWith(response: Promise<Response>): void;
}
declare const SHELL: { version: string; files: string[] }; // by the build: the page's files

const scope = self as unknown as WorkerScope;
const MOST_PIXELS = 2 ** 25;
const store = `sfumato-page-${SHELL.version}`;
const runtime = new Runtime(scope.location.href);
const keepsPage = new URL(scope.location.href).searchParams.has("page");

scope.addEventListener("install", (event: Extendable) => {
  event.waitUntil((async () => {
    if (keepsPage) await (await caches.open(store)).addAll(SHELL.files.map((name) => new Request(name, { cache: "no-cache" })));
    await scope.skipWaiting();
  })());
});

scope.addEventListener("activate", (event: Extendable) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) if (name.startsWith("sfumato-page-") && name !== store) await caches.delete(name);
    await scope.clients.claim();
  })());
});

scope.addEventListener("fetch", (event: Fetching) => {
  const { request } = event;
  if (request.method !== "GET") return;
  const url = new URL(request.url);
  const knows = (request.headers.get("accept") ?? "").includes("image/x-sfumato");
  if (request.destination === "image" && url.pathname.endsWith(".sfu") && !knows) event.respondWith(image(request));
  else if (keepsPage && url.origin === scope.location.origin) event.respondWith(page(request));
});

async function image(request: Request): Promise<Response> {
  const response = await fetch(request);
  if (!response.ok || response.type === "opaque") return response;
  try {
    const data = new Uint8Array(await response.arrayBuffer());
    const { png } = await runtime.decode(data, { maxPixels: MOST_PIXELS }, () => {});
    return new Response(png as BodyInit, { headers: { "content-type": "image/png" } });
  } catch (error) {
    console.error(`sfumato: ${request.url}: ${error instanceof Error ? error.message : error}`);
    return Response.error();
  }
}

/** From the network while it is there, so that a new version is seen; else what was kept. */
async function page(request: Request): Promise<Response> {
  const kept = await (await caches.open(store)).match(request, { ignoreSearch: true });
  // files named after their contents never change
  if (kept && /-[0-9a-f]{8}\.bin$/.test(new URL(request.url).pathname)) return kept;
  try {
    return await fetch(request);
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}
