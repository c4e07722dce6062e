// The comparison page's frame: fills the project's viewer with the images that the page sends, then starts it.
import type { Comparison } from "./compare.js";

addEventListener("message", ({ data, origin, source }: MessageEvent<Comparison>) => {
  if (origin !== location.origin || source !== parent || document.getElementById("p0-0")) return;
  const add = (type: string, id: string, text: string): void => {
    const block = document.createElement("script");
    block.type = type; // data: never run
    block.id = id;
    block.textContent = text;
    document.body.append(block);
  };
  const { name, versions } = data;
  add("application/json", "scenes", JSON.stringify([{ name, versions: versions.map(({ data: _, ...version }) => version) }]));
  versions.forEach((version, i) => add("text/plain", `p0-${i}`, base64(version.data)));
  const viewer = document.createElement("script");
  viewer.src = "viewer.js";
  document.body.append(viewer);
}, { once: false });
parent.postMessage("viewer ready", location.origin);

function base64(data: Uint8Array): string {
  let text = "";
  for (let at = 0; at < data.length; at += 32768) text += String.fromCharCode(...data.subarray(at, at + 32768));
  return btoa(text);
}
