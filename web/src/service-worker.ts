// The service worker: answers requests for images in .sfu files with PNGs, and keeps the page for visits offline.
import { Runtime, STORE } from "./runtime.js";

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
  event.waitUntil(
    (async () => {
      if (keepsPage) {
        // weights are kept where the decoder looks for them; the name of their file changes with what it holds
        const weights = SHELL.files.filter(isWeights).map((name) => new URL(name, scope.location.href).href);
        const kept = await caches.open(STORE);
        for (const url of weights) if (!(await kept.match(url))) await kept.add(url);
        const others = SHELL.files.filter((name) => !isWeights(name));
        await (
          await caches.open(store)
        ).addAll(others.map((name) => new Request(name, { cache: "no-cache" })));
      }
      await scope.skipWaiting();
    })(),
  );
});

scope.addEventListener("activate", (event: Extendable) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys())
        if (name.startsWith("sfumato-page-") && name !== store) await caches.delete(name);
      await scope.clients.claim();
    })(),
  );
});

scope.addEventListener("fetch", (event: Fetching) => {
  const { request } = event;
  if (request.method !== "GET") return;
  const url = new URL(request.url);
  const knows = (request.headers.get("accept") ?? "").includes("image/x-sfumato");
  if (request.destination === "image" && url.pathname.endsWith(".sfu") && !knows)
    event.respondWith(image(request));
  else if (keepsPage && url.origin === scope.location.origin) event.respondWith(page(request));
});

function isWeights(name: string): boolean {
  return name.endsWith(".bin");
}

async function image(request: Request): Promise<Response> {
  const response = await fetch(request);
  if (!response.ok || response.type === "opaque") return response;
  try {
    const data = new Uint8Array(await response.arrayBuffer());
    const { png } = await runtime.decode({ data, maxPixels: MOST_PIXELS }, () => {});
    return new Response(png as BodyInit, { headers: { "content-type": "image/png" } });
  } catch (error) {
    console.error(`sfumato: ${request.url}: ${error instanceof Error ? error.message : error}`);
    return Response.error();
  }
}

/** From the network while it is there, so that a new version is seen; else what was kept. */
async function page(request: Request): Promise<Response> {
  const kept = await (
    await caches.open(isWeights(request.url) ? STORE : store)
  ).match(request, { ignoreSearch: true });
  if (kept && isWeights(request.url)) return kept;
  try {
    return await fetch(request);
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}
