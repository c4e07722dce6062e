// The page: files in, what they show and what is known of them out.  `state` holds what is shown.
import { Workers } from "../client.js";
import { MAX_PIXELS, unpack } from "../container.js";
import type { DecodeReply, Facts } from "../messages.js";
import { compare, type Version } from "./compare.js";

const byId = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const workers = new Workers("worker.js", 1);
const number = (value: number): string => value.toLocaleString("en");

interface Shown {
  name: string;
  png: Uint8Array;
  bytes: number; // of the file
  width: number;
  height: number;
}

const state: { source: File | null; shown: Shown | null; original: Version | null; job: number } = {
  source: null, shown: null, original: null, job: 0,
};

function progress(what: string, part: number): void {
  byId("work").hidden = false;
  byId<HTMLProgressElement>("progress").value = part;
  byId("what").textContent = what;
}

function say(text: string): void {
  byId("status").textContent = text;
}

function fail(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  if (message === "stopped") return say("Stopped.");
  byId("error").hidden = false;
  byId("error").textContent = error instanceof Error && error.name === "FormatError" ? `This file cannot be shown: ${message}` : `This did not work: ${message}`;
}

/** Runs one piece of work at a time; a new one ends what is under way. */
async function work(task: (current: () => boolean) => Promise<void>): Promise<void> {
  const job = ++state.job;
  const current = (): boolean => job === state.job;
  if (!byId("work").hidden) workers.stop();
  byId("error").hidden = true;
  say("");
  try {
    await task(current);
  } catch (error) {
    if (current()) fail(error);
  } finally {
    if (current()) byId("work").hidden = true;
  }
}

async function open(file: File): Promise<void> {
  const start = new Uint8Array(await file.slice(0, 3).arrayBuffer());
  const isSfu = String.fromCharCode(...start) === "SFU" || /\.sfu$/i.test(file.name);
  if (!isSfu) return prepare(file);
  byId("encode").hidden = true;
  await work(() => stream(file.name, file.stream()));
}

/** Decodes a file while it comes in: every section that is complete makes a better preview. */
async function stream(name: string, body: ReadableStream<Uint8Array>): Promise<void> {
  state.original = null;
  let data = new Uint8Array();
  let shown = 1; // sections; the first shows nothing
  let drawing: Promise<void> | null = null;
  const reader = body.getReader();
  progress("Receiving", 0);
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    const more = new Uint8Array(data.length + next.value.length);
    more.set(data);
    more.set(next.value, data.length);
    data = more;
    const { header, sections, complete } = unpackPrefix(data);
    progress(header ? `Receiving, ${sections} of ${header.chunks + 1} sections` : "Receiving", header ? sections / (header.chunks + 1) : 0);
    if (complete || drawing || sections <= shown) continue;
    shown = sections;
    drawing = workers.decode(data.slice(), { partial: true, steps: 0, maxPixels: MAX_PIXELS })
      .then((reply) => show(name, reply, data.length, true))
      .finally(() => { drawing = null; });
    drawing.catch(() => {}); // the whole file will say what is wrong
  }
  await Promise.resolve(drawing).catch(() => {});
  const reply = await workers.decode(data.slice(), { partial: true, maxPixels: MAX_PIXELS }, progress);
  show(name, reply, data.length, false);
  offerSave(name, null);
}

function unpackPrefix(data: Uint8Array) {
  try {
    const file = unpack(data, true);
    return { header: file.header, sections: file.sections.length, complete: file.complete };
  } catch (error) {
    if (data.length >= 64) throw error;
    return { header: null, sections: 0, complete: false };
  }
}

function setImage(image: HTMLImageElement, png: Uint8Array): void {
  const before = image.src;
  image.src = URL.createObjectURL(new Blob([png as BlobPart], { type: "image/png" }));
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
}

function show(name: string, { png, facts }: DecodeReply, bytes: number, preview: boolean): void {
  const image = byId<HTMLImageElement>("image");
  setImage(image, png);
  image.alt = preview ? `Preview of ${name}` : `The image in ${name}`;
  byId("result").hidden = false;
  byId("comparison").hidden = true;
  const size = `${facts.width} × ${facts.height} pixels`;
  byId("caption").textContent = preview ? `Preview: ${facts.shown} of ${facts.sections.length} sections` : `${name}, ${size}`;
  list(facts, bytes);
  if (preview) return;
  state.shown = { name, png, bytes, width: facts.width, height: facts.height };
  const remarks = facts.remarks.length ? ` ${facts.remarks.join("; ")}.` : "";
  say(`${name} is shown: ${size}, decoded in ${facts.seconds.toFixed(1)} seconds.${remarks}`);
}

function list(facts: Facts, bytes: number): void {
  const bpp = (8 * bytes) / (facts.width * facts.height);
  const rows: [string, string][] = [
    ["Size", `${facts.width} × ${facts.height} pixels${facts.grey ? ", grey" : ""}${facts.alpha ? ", with alpha" : ""}`],
    ["File", `${number(bytes)} bytes, ${bpp.toFixed(3)} bits per pixel`],
    ["Quality", `${((100 * facts.q) / 255).toFixed(0)} of 100`],
    ["Model", facts.model],
    ["Sections", facts.sections.map(({ name, bytes: size }) => `${name} ${number(size)}`).join(", ") + " bytes"],
    ...(facts.metadata.length ? [["Metadata", facts.metadata.join(", ")] as [string, string]] : []),
    ...(facts.remarks.length ? [["Note", facts.remarks.join("; ")] as [string, string]] : []),
    ["Decoded in", `${facts.seconds.toFixed(2)} s`],
  ];
  byId("facts").replaceChildren(...rows.flatMap(([term, text]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = term;
    dd.textContent = text;
    return [dt, dd];
  }));
}

function offer(link: HTMLAnchorElement, name: string, data: Uint8Array, type: string): void {
  if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([data as BlobPart], { type }));
  link.download = name;
  link.hidden = false;
}

function offerSave(name: string, file: Uint8Array | null): void {
  const stem = name.replace(/\.[^.]*$/, "") || "image";
  offer(byId<HTMLAnchorElement>("save-png"), `${stem}.png`, state.shown!.png, "image/png");
  byId("save-sfu").hidden = !file;
  if (file) offer(byId<HTMLAnchorElement>("save-sfu"), `${stem}.sfu`, file, "image/x-sfumato");
  byId("compare-original").hidden = !state.original;
}

function prepare(file: File): void {
  state.source = file;
  byId("encode").hidden = false;
  byId("source-name").textContent = file.name;
  byId("error").hidden = true;
  say(`${file.name} is ready to be encoded.`);
  byId("quality").focus();
}

async function encode(): Promise<void> {
  const { source } = state;
  if (!source) return;
  const bySize = byId<HTMLInputElement>("by-size").checked;
  const limit = byId<HTMLInputElement>("size").valueAsNumber;
  if (bySize && !(limit >= 1)) return fail(new Error("the size has to be a number of bytes"));
  const goal = bySize ? { limit } : { quality: byId<HTMLInputElement>("quality").valueAsNumber };
  await work(async () => {
    progress("Reading", 0);
    const data = new Uint8Array(await source.arrayBuffer());
    const { file, original, remarks, tries, seconds } = await workers.encode({ data, type: source.type, ...goal }, progress);
    const name = `${source.name.replace(/\.[^.]*$/, "") || "image"}.sfu`;
    const reply = await workers.decode(file.slice(), {}, progress);
    show(name, reply, file.length, false);
    const pixels = reply.facts.width * reply.facts.height;
    state.original = version("original", source.name, original, source.size, pixels);
    offerSave(name, file);
    say(`${name} has ${number(file.length)} bytes, encoded in ${seconds.toFixed(1)} seconds${tries > 1 ? ` and ${tries} tries` : ""}. ${remarks.join(" ")}`);
    byId("result-title").focus();
  });
}

function version(label: string, codec: string, data: Uint8Array, bytes: number, pixels: number, mime = "image/png"): Version {
  return { label, codec, mime, bytes, bpp: ((8 * bytes) / pixels).toFixed(4), figures: [], data };
}

async function compareWith(original: Version): Promise<void> {
  const shown = state.shown!;
  const mine = version(shown.name, "sfumato", shown.png, shown.bytes, shown.width * shown.height);
  byId("comparison").hidden = false;
  await compare(byId<HTMLIFrameElement>("viewer"), { name: shown.name, versions: [original, mine] });
  byId("comparison-title").focus();
}

async function compareFile(file: File): Promise<void> {
  const shown = state.shown;
  if (!shown) return;
  await work(async () => {
    const data = new Uint8Array(await file.arrayBuffer());
    const pixels = shown.width * shown.height;
    if (String.fromCharCode(...data.subarray(0, 3)) === "SFU") {
      const { png } = await workers.decode(data.slice(), {}, progress);
      await compareWith(version(file.name, file.name, png, data.length, pixels));
    } else {
      await compareWith(version(file.name, file.name, data, data.length, pixels, file.type || "image/png"));
    }
  });
}

function listen(): void {
  const drop = byId("drop");
  const chosen = (input: HTMLInputElement, then: (file: File) => Promise<void>): void => {
    input.addEventListener("change", () => {
      const file = input.files?.[0];
      input.value = "";
      if (file) void then(file);
    });
  };
  chosen(byId<HTMLInputElement>("file"), open);
  chosen(byId<HTMLInputElement>("other"), compareFile);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const file = event.dataTransfer?.files[0];
    if (file) void open(file);
  });
  byId("stop").addEventListener("click", () => workers.stop());
  byId("sample").addEventListener("click", () => void fromUrl("sample.sfu"));
  byId("encode").addEventListener("submit", (event) => {
    event.preventDefault();
    void encode();
  });
  byId("quality").addEventListener("input", () => {
    byId("quality-value").textContent = byId<HTMLInputElement>("quality").value;
    byId<HTMLInputElement>("by-quality").checked = true;
  });
  byId("size").addEventListener("input", () => { byId<HTMLInputElement>("by-size").checked = true; });
  byId("compare-original").addEventListener("click", () => { if (state.original) void compareWith(state.original); });
}

async function fromUrl(url: string): Promise<void> {
  byId("encode").hidden = true;
  await work(async () => {
    const response = await fetch(url);
    if (!response.ok || !response.body) throw new Error(`${url}: ${response.status} ${response.statusText}`);
    await stream(url.split("/").at(-1)!, response.body);
  });
}

listen();
const asked = new URLSearchParams(location.search).get("src");
if (asked) void fromUrl(asked);
if ("serviceWorker" in navigator) {
  navigator.serviceWorker.register("sfumato-sw.js?page")
    .then(() => navigator.serviceWorker.ready)
    .then(() => { byId("offline").textContent = "This page is kept on your machine and works without a network."; })
    .catch(() => {}); // from a file:// address, or where it is not allowed: the page works all the same
}
