// One script, and <img src="a.sfu"> shows.
//
//   <script src="sfumato.js"></script>
//
// Takes care of src, srcset, <picture><source type="image/x-sfumato">, data: and blob: URLs, and of images that
// are added or changed later.  Does nothing where the browser knows the type; leaves plain addresses of this
// server to the service worker where that answers.
import { Workers } from "./client.js";
import { peek } from "./container.js";
import { NATIVE_PROBE } from "./probe.js";

const TYPE = "image/x-sfumato";
const MOST_PIXELS = 2 ** 25; // padding included; `data-max-pixels` on the script says otherwise
const AHEAD = "800px"; // of the window, for images that load lazily
const KEPT = "sfumato-images";
const MOST_KEPT = 64;

const script = document.currentScript as HTMLScriptElement | null;
const base = script?.src || document.baseURI;
const mostPixels = Number(script?.dataset.maxPixels) || MOST_PIXELS;
const workers = new Workers(
  new URL("worker.js", base),
  Math.min(4, Math.max(1, (navigator.hardwareConcurrency || 2) - 1)),
);
const shown = new Map<string, Promise<string>>(); // URL of a file -> blob URL of its PNG
const ours = new Set<string>(); // URLs that this script has put in place
const wanted = new WeakMap<HTMLImageElement, string>();
const failed = new WeakMap<HTMLImageElement, string>();
let isAnswered = false; // by the service worker, images by their plain address

interface Candidate {
  url: string;
  byType?: boolean; // of a <source>, which the browser passes over
  descriptor: string;
  /** Puts a URL where the browser will take it from. */
  place(url: string): void;
}

function isFile(url: string, type = ""): boolean {
  if (ours.has(url)) return false;
  return type === TYPE || url.startsWith(`data:${TYPE}`) || /^[^?#]*\.sfu([?#]|$)/i.test(url);
}

/** The candidate of a srcset for this window: the smallest that is sharp, or the sharpest. */
function fromSrcset(text: string, sizes: string): { url: string; descriptor: string } | null {
  const entries = [...text.matchAll(/\s*([^\s,]\S*[^\s,])(?:\s+(\d*\.?\d+[wx]))?\s*(?:,|$)/g)].map(
    (match) => ({ url: match[1]!, descriptor: match[2] ?? "" }),
  );
  const density = ({ descriptor }: { descriptor: string }): number => {
    if (descriptor.endsWith("w")) return parseFloat(descriptor) / slotWidth(sizes);
    return descriptor ? parseFloat(descriptor) : 1;
  };
  const sorted = entries.sort((a, b) => density(a) - density(b));
  return sorted.find((entry) => density(entry) >= devicePixelRatio) ?? sorted.at(-1) ?? null;
}

function slotWidth(sizes: string): number {
  for (const entry of sizes.split(",")) {
    const match = /^\s*(\(.*\)\s+)?([\d.]+)(px|vw|em|rem)\s*$/.exec(entry);
    if (!match || (match[1] && !matchMedia(match[1]).matches)) continue;
    const unit = { px: 1, vw: innerWidth / 100, em: 16, rem: 16 }[match[3] as "px" | "vw" | "em" | "rem"];
    return parseFloat(match[2]!) * unit;
  }
  return innerWidth;
}

/** What of an image is to be shown by this script; null for nothing. */
function choose(image: HTMLImageElement): Candidate | null {
  const parent = image.parentElement;
  if (parent instanceof HTMLPictureElement) {
    for (const source of parent.querySelectorAll("source")) {
      if (source.media && !matchMedia(source.media).matches) continue;
      const candidate = fromSrcset(source.srcset, source.sizes);
      if (!candidate) continue;
      if (isFile(candidate.url, source.type)) {
        return {
          ...candidate,
          byType: true,
          place: (url) => {
            source.type = url ? "image/png" : TYPE;
            source.srcset = url ? `${url} ${candidate.descriptor}` : candidate.url;
          },
        };
      }
      if (!source.type || knows(source.type)) return null; // the browser takes this one
    }
  }
  const candidate = image.srcset ? fromSrcset(image.srcset, image.sizes) : null;
  if (candidate) {
    if (!isFile(candidate.url)) return null;
    return {
      ...candidate,
      place: (url) => void (image.srcset = url ? `${url} ${candidate.descriptor}` : candidate.url),
    };
  }
  const url = image.getAttribute("src") ?? "";
  return isFile(url) ? { url, descriptor: "", place: (to) => void (image.src = to || url) } : null;
}

const KNOWN = new Set([
  "image/jpeg",
  "image/png",
  "image/gif",
  "image/webp",
  "image/svg+xml",
  "image/bmp",
  "image/x-icon",
  "image/avif",
  "image/apng",
]);
function knows(type: string): boolean {
  return KNOWN.has(type.split(";")[0]!.trim().toLowerCase());
}

function attend(image: HTMLImageElement): void {
  const candidate = choose(image);
  if (!candidate) return isOurs(image) ? undefined : release(image);
  const url = new URL(candidate.url, document.baseURI).href;
  if (failed.get(image) === url) return;
  failed.delete(image);
  if (isAnswered && !candidate.byType && new URL(url).origin === location.origin) return release(image);
  if (wanted.get(image) === url && image.hasAttribute("aria-busy")) return;
  wanted.set(image, url);
  image.setAttribute("aria-busy", "true");
  candidate.place(placeholder(1, 1)); // no broken icon, and no request of the browser's own
  if (image.loading === "lazy") later(image, () => void show(image, url, candidate));
  else void show(image, url, candidate);
}

/** Whether what it shows is what this script has put in place. */
function isOurs(image: HTMLImageElement): boolean {
  const parent = image.parentElement;
  const sources = parent instanceof HTMLPictureElement ? [...parent.querySelectorAll("source")] : [];
  const texts = [image.getAttribute("src") ?? "", image.srcset, ...sources.map((source) => source.srcset)];
  return texts.some((text) => text.split(/[\s,]+/).some((url) => ours.has(url)));
}

/** Another image was put in its place: what is under way for it must not replace that. */
function release(image: HTMLImageElement): void {
  if (!wanted.delete(image)) return;
  image.removeAttribute("aria-busy");
  waiting.delete(image);
  near.unobserve(image);
}

async function show(image: HTMLImageElement, url: string, candidate: Candidate): Promise<void> {
  const current = (): boolean => wanted.get(image) === url;
  try {
    const png = await pngOf(url, (width, height) => {
      if (current()) candidate.place(placeholder(width, height)); // so that the page does not jump later
    });
    if (current()) candidate.place(png);
  } catch (error) {
    console.error(`sfumato: ${url}: ${error instanceof Error ? error.message : error}`);
    if (current()) {
      failed.set(image, url); // leave it alone now: the browser shows that it is broken, and the alternative text
      candidate.place("");
    }
  } finally {
    if (current()) image.removeAttribute("aria-busy");
  }
}

function pngOf(url: string, size: (width: number, height: number) => void): Promise<string> {
  let found = shown.get(url);
  if (!found) {
    found = decoded(url, size).then((png) => own(URL.createObjectURL(png)));
    shown.set(url, found);
    found.catch(() => shown.delete(url));
  }
  return found;
}

async function decoded(url: string, size: (width: number, height: number) => void): Promise<Blob> {
  const data = new Uint8Array(url.startsWith("data:") ? fromDataUrl(url) : await fetched(url));
  const header = peek(data);
  if (header) size(header.width, header.height);
  const key = await keyOf(data);
  const store = key ? await caches.open(KEPT).catch(() => null) : null;
  const kept = await store?.match(key);
  if (kept) return kept.blob();
  const { png } = await workers.decode(data, { maxPixels: mostPixels });
  const blob = new Blob([png as BlobPart], { type: "image/png" });
  if (store) void keep(store, key, blob);
  return blob;
}

async function fetched(url: string): Promise<ArrayBuffer> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

// read here, as connect-src need not admit data: URLs
function fromDataUrl(url: string): Uint8Array {
  const comma = url.indexOf(",");
  const body = url
    .slice(comma + 1)
    .replace(/%([\da-f]{2})/gi, (_, digits: string) => String.fromCharCode(parseInt(digits, 16)));
  return Uint8Array.from(url.slice(0, comma).endsWith(";base64") ? atob(body) : body, (letter) =>
    letter.charCodeAt(0),
  );
}

async function keyOf(data: Uint8Array): Promise<string> {
  if (typeof caches === "undefined" || !crypto.subtle) return ""; // not a secure context
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data as BufferSource));
  return new URL(
    `sfumato-image-${Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("")}`,
    base,
  ).href;
}

async function keep(store: Cache, key: string, blob: Blob): Promise<void> {
  try {
    await store.put(key, new Response(blob));
    const keys = await store.keys();
    for (const old of keys.slice(0, Math.max(0, keys.length - MOST_KEPT))) await store.delete(old);
  } catch {
    // no room: it is decoded again next time
  }
}

function own(url: string): string {
  ours.add(url);
  return url;
}

const placeholders = new Map<string, string>();
function placeholder(width: number, height: number): string {
  const text = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"/>`;
  let url = placeholders.get(text);
  if (!url)
    placeholders.set(text, (url = own(URL.createObjectURL(new Blob([text], { type: "image/svg+xml" })))));
  return url;
}

const waiting = new Map<Element, () => void>();
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      waiting.get(target)?.();
      waiting.delete(target);
    }
  },
  { rootMargin: AHEAD },
);
function later(image: HTMLImageElement, work: () => void): void {
  waiting.set(image, work);
  near.observe(image);
}

function imagesIn(node: Node): HTMLImageElement[] {
  if (node instanceof HTMLImageElement) return [node];
  if (node instanceof HTMLSourceElement)
    return node.parentElement ? [...node.parentElement.querySelectorAll("img")] : [];
  return node instanceof Element || node instanceof Document ? [...node.querySelectorAll("img")] : [];
}

/** An image of a blob: URL, whose type no name tells: it is looked into when the browser cannot show it. */
async function rescue(image: HTMLImageElement): Promise<void> {
  const url = image.currentSrc || image.src;
  if (!url.startsWith("blob:") || ours.has(url)) return;
  const blob = await (await fetch(url)).blob();
  const start = new Uint8Array(await blob.slice(0, 3).arrayBuffer());
  if (String.fromCharCode(...start) !== "SFU" || image.src !== url) return;
  wanted.set(image, url);
  image.setAttribute("aria-busy", "true");
  image.src = placeholder(1, 1);
  void show(image, url, { url, descriptor: "", place: (to) => void (image.src = to || url) });
}

function start(): void {
  new MutationObserver((records) => {
    for (const { type, target, addedNodes } of records) {
      const nodes = type === "childList" ? addedNodes : [target];
      for (const node of nodes) for (const image of imagesIn(node)) attend(image);
    }
  }).observe(document, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: ["src", "srcset", "media", "type"],
  });
  document.addEventListener(
    "error",
    ({ target }) => {
      if (target instanceof HTMLImageElement) void rescue(target).catch(() => {});
    },
    true,
  );
  let resized = 0;
  addEventListener("resize", () => {
    // another source of a <picture> may be the one now
    clearTimeout(resized);
    resized = window.setTimeout(
      () => document.querySelectorAll<HTMLImageElement>("picture > img").forEach(attend),
      200,
    );
  });
  for (const image of imagesIn(document)) {
    attend(image);
    if (image.complete && !image.naturalWidth) void rescue(image).catch(() => {});
  }
}

/** Whether the browser itself shows a file of one pixel. */
function native(): Promise<boolean> {
  return new Promise((resolve) => {
    const url = URL.createObjectURL(new Blob([NATIVE_PROBE], { type: TYPE }));
    const image = new Image();
    image.onload = () => resolve(image.naturalWidth === 1);
    image.onerror = () => resolve(false);
    image.src = url;
  });
}

void native().then((known) => {
  const worker = navigator.serviceWorker?.controller?.scriptURL ?? "";
  if (known) return;
  isAnswered = worker.endsWith("/sfumato-sw.js");
  start();
});
// where it is allowed, a service worker answers from the next visit on, also for images in style sheets
if (script?.dataset.serviceWorker !== undefined && "serviceWorker" in navigator) {
  const url = new URL("sfumato-sw.js", base);
  navigator.serviceWorker
    .register(url, { scope: "/" }) // where its server allows more than its own folder
    .catch(() => navigator.serviceWorker.register(url))
    .catch((error) => console.info(`sfumato: ${error}`));
}
