// The page: files in, what they show and what is known of them out.  `state` holds what is shown.
import { Workers } from "./client.js";
import { MAX_PIXELS, unpack } from "./container.js";
import type { DecodeReply, Facts } from "./messages.js";

const byId = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const parameters = new URLSearchParams(location.search);
const most = Math.min(4, Math.max(1, (navigator.hardwareConcurrency || 2) - 1));
const threads = Math.min(16, Math.max(1, Math.floor(Number(parameters.get("threads"))) || most));
const workers = new Workers("worker.js", threads);
const number = (value: number): string => value.toLocaleString("en");

/** One side of a comparison. */
interface Version {
  label: string;
  data: Uint8Array;
  mime: string;
}

interface Shown {
  name: string;
  png: Uint8Array;
  bytes: number; // of the file
  width: number;
  height: number;
}

const state: { source: File | null; shown: Shown | null; original: Version | null; job: number } = {
  source: null,
  shown: null,
  original: null,
  job: 0,
};

function progress(what: string, part: number): void {
  byId("work").hidden = false;
  byId<HTMLProgressElement>("progress").value = part;
  byId("what").textContent = what;
}

function announce(text: string): void {
  byId("status").textContent = text;
}

function fail(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  if (message === "stopped") return announce("Stopped.");
  byId("error").hidden = false;
  byId("error").textContent =
    error instanceof Error && error.name === "FormatError"
      ? `This file cannot be shown: ${message}`
      : `This did not work: ${message}`;
}

/** Runs one piece of work at a time; a new one ends what is under way. */
async function work(task: (current: () => boolean) => Promise<void>): Promise<void> {
  const job = ++state.job;
  const current = (): boolean => job === state.job;
  if (!byId("work").hidden) stop();
  byId("error").hidden = true;
  announce("");
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
  await work((current) => stream(file.name, file.stream(), current));
}

/** Decodes a file while it comes in: every section that is complete makes a better preview. */
async function stream(
  name: string,
  body: ReadableStream<Uint8Array>,
  current: () => boolean,
): Promise<void> {
  state.original = null;
  let data = new Uint8Array();
  let shown = 1; // sections; the first shows nothing
  let drawing: Promise<void> | null = null;
  const reader = body.getReader();
  let stopped = false;
  receiving = () => {
    stopped = true;
    void reader.cancel().catch(() => {});
  };
  progress("Receiving", 0);
  try {
    for (let next = await reader.read(); !next.done && current(); next = await reader.read()) {
      const more = new Uint8Array(data.length + next.value.length);
      more.set(data);
      more.set(next.value, data.length);
      data = more;
      const { header, sections, complete } = unpackPrefix(data);
      progress(
        header ? `Receiving, ${sections} of ${header.chunks + 1} sections` : "Receiving",
        header ? sections / (header.chunks + 1) : 0,
      );
      if (complete || drawing || sections <= shown) continue;
      shown = sections;
      drawing = workers
        .decode(data.slice(), { partial: true, steps: 0, maxPixels: MAX_PIXELS })
        .then((reply) => {
          if (current()) show(name, reply, data.length, true);
        })
        .finally(() => {
          drawing = null;
        });
      drawing.catch(() => {}); // the whole file will say what is wrong
    }
  } finally {
    void reader.cancel().catch(() => {}); // also where what has come is no file
  }
  await Promise.resolve(drawing).catch(() => {});
  if (stopped || !current()) throw new Error("stopped");
  const reply = await workers.decode(data.slice(), { partial: true, maxPixels: MAX_PIXELS }, progress);
  if (!current()) return;
  show(name, reply, data.length, false);
  offerSave(name, null);
}

let receiving = (): void => {}; // ends what is being received

function stop(): void {
  receiving();
  workers.stop();
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
  byId("caption").textContent = preview
    ? `Preview: ${facts.shown} of ${facts.sections.length} sections`
    : `${name}, ${size}`;
  list(facts, bytes);
  if (preview) return;
  state.shown = { name, png, bytes, width: facts.width, height: facts.height };
  const warnings = facts.warnings.length ? ` ${facts.warnings.join("; ")}.` : "";
  announce(`${name} is shown: ${size}, decoded in ${facts.seconds.toFixed(1)} seconds.${warnings}`);
}

function list(facts: Facts, bytes: number): void {
  const bpp = (8 * bytes) / (facts.width * facts.height);
  const rows: [string, string][] = [
    [
      "Size",
      `${facts.width} × ${facts.height} pixels${facts.grey ? ", grey" : ""}${facts.alpha ? ", with alpha" : ""}`,
    ],
    ["File", `${number(bytes)} bytes, ${bpp.toFixed(3)} bits per pixel`],
    ["Quality", facts.lossless ? "lossless" : `${((100 * facts.q) / 255).toFixed(0)} of 100`],
    ...(facts.chunks ? [["Model", facts.model] as [string, string]] : []),
    [
      "Sections",
      facts.sections.map(({ name, bytes: size }) => `${name} ${number(size)}`).join(", ") + " bytes",
    ],
    ...(facts.metadata.length ? [["Metadata", facts.metadata.join(", ")] as [string, string]] : []),
    ...(facts.warnings.length ? [["Note", facts.warnings.join("; ")] as [string, string]] : []),
    ["Decoded in", `${facts.seconds.toFixed(2)} s`],
  ];
  byId("facts").replaceChildren(
    ...rows.flatMap(([term, text]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = term;
      dd.textContent = text;
      return [dt, dd];
    }),
  );
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
  announce(`${file.name} is ready to be encoded.`);
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
    const { file, original, warnings, tries, seconds } = await workers.encode(
      { data, type: source.type, ...goal },
      progress,
    );
    const name = `${source.name.replace(/\.[^.]*$/, "") || "image"}.sfu`;
    const reply = await workers.decode(file.slice(), {}, progress);
    show(name, reply, file.length, false);
    state.original = {
      label: `${source.name}, ${number(source.size)} bytes`,
      data: original,
      mime: "image/png",
    };
    offerSave(name, file);
    announce(
      `${name} has ${number(file.length)} bytes, encoded in ${seconds.toFixed(1)} seconds${tries > 1 ? ` and ${tries} tries` : ""}. ${warnings.join(" ")}`,
    );
    byId("result-title").focus();
  });
}

/** Shows two images in the project's viewer, one over the other with a divider. */
function compare(left: Version, right: Version): void {
  const element = byId("compare");
  for (const [side, { label, data, mime }] of [
    ["left", left],
    ["right", right],
  ] as const) {
    const before = element.getAttribute(side) ?? "";
    element.setAttribute(`${side}-label`, label);
    element.setAttribute(side, URL.createObjectURL(new Blob([data as BlobPart], { type: mime })));
    if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  }
  element.setAttribute("name", right.label);
  byId("comparison").hidden = false;
  byId("comparison-title").focus();
}

function compareWith(other: Version): void {
  const { name, png, bytes } = state.shown!;
  compare(other, { label: `${name}, ${number(bytes)} bytes`, data: png, mime: "image/png" });
}

async function compareFile(file: File): Promise<void> {
  if (!state.shown) return;
  await work(async () => {
    const data = new Uint8Array(await file.arrayBuffer());
    const label = `${file.name}, ${number(data.length)} bytes`;
    const isSfu = String.fromCharCode(...data.subarray(0, 3)) === "SFU";
    if (isSfu)
      compareWith({ label, data: (await workers.decode(data, {}, progress)).png, mime: "image/png" });
    else compareWith({ label, data, mime: file.type });
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
  byId("stop").addEventListener("click", stop);
  byId("sample").addEventListener("click", () => void fromUrl("sample.sfu"));
  byId("encode").addEventListener("submit", (event) => {
    event.preventDefault();
    void encode();
  });
  byId("quality").addEventListener("input", () => {
    byId("quality-value").textContent = byId<HTMLInputElement>("quality").value;
    byId<HTMLInputElement>("by-quality").checked = true;
  });
  byId("size").addEventListener("input", () => {
    byId<HTMLInputElement>("by-size").checked = true;
  });
  byId("compare-original").addEventListener("click", () => {
    if (state.original) compareWith(state.original);
  });
}

async function fromUrl(url: string): Promise<void> {
  byId("encode").hidden = true;
  await work(async (current) => {
    const response = await fetch(url);
    if (!response.ok || !response.body) throw new Error(`${url}: ${response.status} ${response.statusText}`);
    await stream(url.split("/").at(-1)!, response.body, current);
  });
}

listen();
const asked = parameters.get("src");
if (asked) void fromUrl(asked);
if ("serviceWorker" in navigator) {
  navigator.serviceWorker
    .register("sfumato-sw.js?page")
    .then(() => navigator.serviceWorker.ready)
    .then(() => {
      byId("offline").textContent = "This page is kept on your machine and works without a network.";
    })
    .catch(() => {}); // from a file:// address, or where it is not allowed: the page works all the same
}
