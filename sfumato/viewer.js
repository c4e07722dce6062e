// Which pictures: scenes from the page's JSON in, two versions of one picture and words about them out.
// The three files of the viewer are one script: this one, viewer_place.js (where the pictures lie) and viewer_input.js
// (pointers and keys).  All that is shown follows from `state`; input changes it and calls `show` or `place`.
"use strict";

const byId = (id) => document.getElementById(id);
const scenes = JSON.parse(byId("scenes").textContent);
const stage = byId("stage");
const divider = byId("divider");
const viewer = byId("viewer");

const state = {
  scene: 0,
  left: 0, // index into the scene's versions; 0 is the original
  right: 0,
  width: 0, // of the picture, its own pixels; 0 until one was decoded
  height: 0,
  fit: true,
  scale: 1, // device pixels a picture pixel
  x: 0.5, // what lies in the middle of the stage, as a part of the picture
  y: 0.5,
  divider: 0.5, // part of the picture's visible width that shows the left version
  difference: 0,
  original: false, // held
};

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const versions = () => scenes[state.scene].versions;
const bytes = (count) => count.toLocaleString("en") + " bytes";

// A layer holds one <img>; the one before stays until the next is decoded, so that nothing flickers.
function layer(name) {
  const box = byId("layer-" + name);
  let wanted = "";
  return {
    box,
    image: () => box.firstElementChild,
    async set(index) {
      const key = state.scene + "-" + index;
      if (wanted === key) return;
      wanted = key;
      const version = versions()[index];
      const image = new Image();
      image.alt = `${scenes[state.scene].name}, ${version.label}`;
      image.draggable = false;
      image.src = `data:${version.mime};base64,${byId("p" + key).textContent}`;
      let fault = "";
      try {
        await image.decode();
      } catch {
        fault = `This browser cannot show ${version.label} (${version.mime}).`;
      }
      if (wanted !== key) return; // another was chosen meanwhile
      box.replaceChildren(...(fault ? [] : [image]));
      box.dataset.fault = fault;
      byId("fault").textContent = ["layer-left", "layer-right"].map((id) => byId(id).dataset.fault || "").join(" ").trim();
      byId("fault").hidden = !byId("fault").textContent;
      if (!fault) {
        state.width = image.naturalWidth;
        state.height = image.naturalHeight;
      }
      place();
    },
    clear() {
      wanted = "";
      box.replaceChildren();
    },
  };
}

const layers = { left: layer("left"), right: layer("right"), original: layer("original") };

// The index of the version nearest in bytes among those that `accept` admits; -1 without any.
function nearest(size, accept) {
  let best = -1;
  const distance = (index) => Math.abs(Math.log((versions()[index].bytes + 1) / (size + 1)));
  versions().forEach((version, index) => {
    if (index > 0 && accept(version) && (best < 0 || distance(index) < distance(best))) best = index;
  });
  return best;
}

// With the box ticked, the right side takes the version of its own codec, or else of another than the left's,
// that is nearest to the left one in bytes.
function follow() {
  if (!byId("equal").checked || !state.left || !state.right) return;
  const { codec, bytes: size } = versions()[state.left];
  const same = versions()[state.right].codec;
  const accept = same === codec ? (version) => version.codec !== codec : (version) => version.codec === same;
  const partner = nearest(size, accept);
  if (partner > 0) state.right = partner;
}

function chooseLeft(index) {
  state.left = index;
  follow();
  show();
}

function chooseRight(index) {
  state.right = index;
  show();
}

// Another picture: both sides keep their codec and come as near as they can to the size they had.
function chooseScene(index) {
  const before = [state.left, state.right].map((side) => versions()[side]);
  const wasOriginal = [state.left, state.right].map((side) => side === 0);
  state.scene = (index + scenes.length) % scenes.length;
  const [left, right] = before.map((old, side) => {
    if (wasOriginal[side]) return 0;
    const same = versions().findIndex((version) => version.label === old.label);
    return same > 0 ? same : Math.max(0, nearest(old.bytes, (version) => version.codec === old.codec));
  });
  state.left = left;
  state.right = right;
  follow();
  state.x = state.y = 0.5;
  layers.original.clear();
  fillVersions();
  show();
}

function cycle(side, step) {
  const count = versions().length;
  const next = (state[side] + step + count) % count;
  (side === "left" ? chooseLeft : chooseRight)(next);
}

// What a newcomer sees: the first codec, and beside it another at about equal size.
function begin() {
  const first = versions()[1];
  state.left = nearest(first.bytes, (version) => version.codec !== first.codec);
  state.right = 1;
  if (state.left < 0) state.left = 0;
}

function fillVersions() {
  for (const side of ["left", "right"]) {
    const select = byId(side);
    const groups = new Map();
    versions().forEach((version, index) => {
      const option = new Option(index ? `${version.label}, ${bytes(version.bytes)}` : version.label, index);
      groups.set(version.codec, [...(groups.get(version.codec) || []), option]);
    });
    select.replaceChildren();
    for (const [codec, options] of groups) {
      if (options.length === 1) {
        select.append(options[0]);
      } else {
        const group = document.createElement("optgroup");
        group.label = codec;
        group.append(...options);
        select.append(group);
      }
    }
  }
}

function cell(kind, text, scope) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (scope) made.scope = scope;
  return made;
}

function captions() {
  const sides = [versions()[state.left], versions()[state.right]];
  const row = (name, texts) => {
    const line = document.createElement("tr");
    line.append(cell("th", name, "row"), ...texts.map((text) => cell("td", text)));
    return line;
  };
  const head = document.createElement("tr");
  head.append(cell("td", ""), cell("th", `Left: ${sides[0].label}`, "col"), cell("th", `Right: ${sides[1].label}`, "col"));
  const figures = sides.map((version) => new Map(version.figures));
  const names = [...new Set([...figures[0].keys(), ...figures[1].keys()])];
  byId("captions").replaceChildren(
    head,
    row("bytes", sides.map((version) => version.bytes.toLocaleString("en"))),
    row("bits per pixel", sides.map((version) => version.bpp)),
    ...names.map((name) => row(name, figures.map((values) => values.get(name) ?? "–"))),
  );
}

function label() {
  const [left, right] = [versions()[state.left], versions()[state.right]];
  const tag = (version) => `${version.label} · ${bytes(version.bytes)}`;
  byId("tag-left").textContent = state.original ? "original" : state.difference ? `difference ×${state.difference}` : tag(left);
  byId("tag-right").textContent = tag(right);
  byId("tag-right").hidden = state.original || state.difference > 0;
  const { name } = scenes[state.scene];
  byId("status").textContent = state.original
    ? `${name}: the original`
    : `${name}: ${state.difference ? "difference of " : "left "}${left.label}, ${bytes(left.bytes)}; ` +
      `${state.difference ? "and " : "right "}${right.label}, ${bytes(right.bytes)}`;
}

function show() {
  byId("scene").value = state.scene;
  byId("left").value = state.left;
  byId("right").value = state.right;
  captions();
  label();
  layers.left.set(state.left);
  layers.right.set(state.right);
  if (state.original) layers.original.set(0);
  place();
}
