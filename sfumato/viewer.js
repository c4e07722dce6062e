// <image-compare>: two images of one size, one over the other, with a divider, zoom and pan.
//
//   <image-compare name="parrots" left="a.avif" right="b.webp" left-label="AVIF 35" right-label="sfumato 0.4"></image-compare>
//
// name                     of what is shown, for alternative texts; a new name centres the view
// left, right              addresses of the images (data: and blob: too); the one before stays until the next is decoded
// left-label, right-label  texts over the two sides
// original                 address of a third image, decoded and shown while the attribute `hold` is set, as by the key o
// difference               1 or more: shows the absolute difference, multiplied by it, in place of the two sides
//
// The event `change` follows every change of what is visible. Load this file as a module, beside viewer.css.
// The second part, `controls`, runs what viewer.html puts around the element.
const ZOOM_LEVELS = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16]; // device pixels an image pixel
const WHEEL_STEP = 100; // of deltaY for one zoom level: a notch of a mouse, a stroke on a trackpad
const GRIP = 28; // CSS pixels around the divider that drag it
const PANS = { ArrowLeft: [48, 0], ArrowRight: [-48, 0], ArrowUp: [0, 48], ArrowDown: [0, -48] }; // CSS pixels
const MOVES = { ArrowLeft: -0.02, ArrowRight: 0.02, PageUp: 0.1, PageDown: -0.1, Home: -1, End: 1 }; // of the width
const TEMPLATE = `<div class="viewport" role="group" aria-label="The two images, one over the other">
<div class="layers"><div class="layer right"></div><div class="layer left"></div><div class="layer original" hidden></div></div>
<p class="tag left" aria-hidden="true"></p><p class="tag right" aria-hidden="true"></p>
<div class="divider" role="slider" tabindex="0" aria-label="Divider between left and right" aria-orientation="horizontal"
 aria-valuemin="0" aria-valuemax="100"><span class="grip" aria-hidden="true"></span></div>
<p class="error" role="alert" hidden></p></div>`;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

class ImageCompare extends HTMLElement {
  static observedAttributes = ["name", "left-label", "right-label", "left", "right", "original", "difference", "hold"];
  view = { fit: true, scale: 1, centre: [0.5, 0.5], divider: 0.5 }; // the centre and the divider as parts of the image
  pointers = new Map(); // that are down: id -> [x, y] in CSS pixels of the viewport
  turned = 0; // of the wheel, towards the next zoom level

  connectedCallback() {
    if (this.viewport) return; // moved, not new
    this.innerHTML = TEMPLATE;
    for (const name of ["viewport", "layers", "divider", "error"]) this[name] = this.querySelector("." + name);
    for (const name of ["left", "right", "hold"]) if (this.hasAttribute(name)) this.attributeChangedCallback(name);
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel", "wheel"]) {
      this.viewport.addEventListener(kind, (event) => this.geometry && this[kind](event), { passive: false });
    }
    this.addEventListener("keydown", (event) => this.key(event, (key, shift) => this.act(key, shift)));
    document.addEventListener("keyup", (event) => event.key.toLowerCase() === "o" && this.removeAttribute("hold"));
    window.addEventListener("blur", () => this.removeAttribute("hold"));
    new ResizeObserver(() => this.place()).observe(this.viewport);
  }
  attributeChangedCallback(name, before) {
    if (!this.viewport || before === this.getAttribute(name)) return;
    if (name === "name") this.view.centre = [0.5, 0.5];
    if (name === "left" || name === "right") this.load(name);
    if (this.hasAttribute("hold") && (name === "hold" || name === "original")) this.load("original");
    this.place();
  }
  layer = (side) => this.layers.querySelector("." + side);
  label = (side) => this.getAttribute(side + "-label") ?? side;
  async load(side) {
    const src = this.getAttribute(side);
    const image = Object.assign(new Image(), { alt: `${this.getAttribute("name")}, ${this.label(side)}`, draggable: false, src });
    const error = await image.decode().then(() => "", () => `This browser cannot show ${this.label(side)}. `);
    if (this.getAttribute(side) !== src) return; // another was chosen meanwhile
    this.layer(side).replaceChildren(...(error ? [] : [image]));
    this.layer(side).dataset.error = error;
    this.error.textContent = [...this.layers.children].map((layer) => layer.dataset.error ?? "").join("");
    this.error.hidden = !this.error.textContent;
    if (!error) this.natural = [image.naturalWidth, image.naturalHeight];
    this.place();
  }
  // Everything visible follows from the attributes and `view`, of which `change` has new values.
  place(change = {}) {
    const { view, viewport, divider, natural } = Object.assign(this, { view: { ...this.view, ...change } });
    const [difference, hold] = [Number(this.getAttribute("difference")), this.hasAttribute("hold")];
    this.querySelector(".tag.left").textContent = hold ? "original" : difference ? `difference ×${difference}` : this.label("left");
    this.querySelector(".tag.right").textContent = hold || difference ? "" : this.label("right");
    this.layer("original").hidden = !hold || this.layer("original").firstChild?.src !== this.getAttribute("original");
    if (!natural || !viewport.clientWidth || !viewport.clientHeight) return; // nothing to show, or hidden
    viewport.style.setProperty("--aspect", natural[1] / natural[0]);
    const [ratio, space] = [window.devicePixelRatio, [viewport.clientWidth, viewport.clientHeight]];
    const largest = ratio * Math.min(space[0] / natural[0], space[1] / natural[1]);
    const steps = Math.floor(Math.max(1, ratio)); // above 1:1 in whole steps, or halves where device pixels are that small
    const fit = largest > 1 ? Math.floor(largest * steps) / steps : largest;
    if (view.fit) view.scale = fit;
    const size = natural.map((side) => (side * view.scale) / ratio);
    const box = viewport.getBoundingClientRect();
    const edge = [box.left + viewport.clientLeft, box.top + viewport.clientTop].map((origin, axis) => {
      const margin = Math.min(0.5, space[axis] / (2 * size[axis])); // no edge comes inside the viewport; or all is centred
      view.centre[axis] = clamp(view.centre[axis], margin, 1 - margin);
      // Whole device pixels, counted from the window's corner: only then does 1:1 copy pixels and not resample.
      return Math.round((space[axis] / 2 - view.centre[axis] * size[axis] + origin) * ratio) / ratio - origin;
    });
    const track = [Math.max(0, edge[0]), Math.min(space[0], edge[0] + size[0])]; // which the divider moves through
    const cut = track[0] + view.divider * (track[1] - track[0]);
    const pans = size[0] > space[0] + 1 || size[1] > space[1] + 1;
    this.geometry = { space, size, edge, fit, track, cut, pans }; // in CSS pixels of the viewport
    const lengths = { "--x": edge[0], "--y": edge[1], "--cut": cut, "--rest": space[0] - cut }; // for viewer.css
    for (const [name, length] of Object.entries(lengths)) viewport.style.setProperty(name, length + "px");
    viewport.style.setProperty("--scale", size[0] / natural[0]);
    viewport.style.setProperty("--gain", Math.max(1, difference));
    for (const [name, on] of Object.entries({ difference, pans, pixels: view.scale >= 1 })) viewport.classList.toggle(name, on);
    divider.ariaValueNow = Math.round(100 * view.divider);
    divider.ariaValueText = `${divider.ariaValueNow} % ${this.label("left")}, the rest ${this.label("right")}`;
    this.dispatchEvent(new Event("change"));
  }
  fit = () => this.place({ fit: true, centre: [0.5, 0.5] });
  moveDivider = (part) => this.place({ divider: clamp(part, 0, 1) });
  pan = (...by) => this.place({ centre: this.view.centre.map((at, axis) => at - by[axis] / this.geometry.size[axis]) });
  zoom(scale, point = this.geometry.space.map((side) => side / 2)) {
    const { space, size, edge, fit } = this.geometry;
    const by = clamp(scale, Math.min(fit, 1), Math.max(fit, ZOOM_LEVELS.at(-1))) / this.view.scale;
    const centre = point.map((at, axis) => (at - edge[axis] + (space[axis] / 2 - at) / by) / size[axis]); // the point stays
    this.place({ fit: false, scale: this.view.scale * by, centre });
  }
  zoomStep(step, point) {
    const levels = [...ZOOM_LEVELS, this.geometry.fit].sort((a, b) => step * (a - b));
    const next = levels.find((level) => step * (level - this.view.scale) > 1e-6);
    if (next) this.zoom(next, point);
  }
  // The viewport's children let pointers through, so that an event's offset is always from the viewport's corner.
  pointerdown(event) {
    if (event.button > 0) return;
    const near = Math.abs(event.offsetX - this.geometry.cut) < GRIP;
    this.divides = !Number(this.getAttribute("difference")) && (near || !this.geometry.pans);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.viewport.setPointerCapture(event.pointerId);
    if (!near && event.pointerType !== "touch") this.pointermove(event); // a click fetches the divider
    this.divider.focus({ preventScroll: true });
    event.preventDefault();
  }
  pointermove(event) {
    const [now, before, { track }] = [[event.offsetX, event.offsetY], this.pointers.get(event.pointerId), this.geometry];
    if (!before) return;
    this.pointers.set(event.pointerId, now);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (!other && this.divides) this.moveDivider((now[0] - track[0]) / (track[1] - track[0]));
    else this.pan(...now.map((at, axis) => (at - before[axis]) / this.pointers.size)); // of two fingers: their middle
    if (!other) return;
    this.divides = false; // nor does the finger that stays move the divider
    const span = (at) => Math.max(1, Math.hypot(at[0] - other[0], at[1] - other[1]));
    this.zoom(this.view.scale * (span(now) / span(before)), now.map((at, axis) => (at + other[axis]) / 2));
  }
  pointerup = (event) => this.pointers.delete(event.pointerId);
  pointercancel = this.pointerup;
  wheel(event) {
    // Without the focus the wheel belongs to the page; a pinch on a trackpad arrives as ctrl + wheel.
    if (!event.ctrlKey && !this.contains(document.activeElement)) return;
    event.preventDefault();
    this.turned -= (event.deltaY * (event.deltaMode ? 33 : 1) * (event.ctrlKey ? 4 : 1)) / WHEEL_STEP;
    for (; Math.abs(this.turned) >= 1; this.turned -= Math.sign(this.turned)) {
      this.zoomStep(Math.sign(this.turned), [event.offsetX, event.offsetY]);
    }
  }
  // Does what a key stands for, with or without Shift; false for a key that means nothing here.
  act(key, shift) {
    if (!this.geometry) return false; // nothing is shown yet
    if (this.geometry.pans && PANS[key] && (shift || !MOVES[key])) this.pan(...PANS[key]);
    else if (MOVES[key]) this.moveDivider(this.view.divider + MOVES[key]);
    else if (["+", "=", "-"].includes(key)) this.zoomStep(key === "-" ? -1 : 1);
    else if (["1", "2", "4"].includes(key)) this.zoom(Number(key));
    else if (key === "0") this.fit();
    else if (key.toLowerCase() === "o") this.setAttribute("hold", "");
    else return false;
    return true;
  }
  key(event, act) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!event.target.closest("select, summary") && act(event.key, event.shiftKey)) event.preventDefault();
  }
}
customElements.define("image-compare", ImageCompare);

// The controls: which two renditions of which image are compared. `comparisons` is the JSON that viewer.py writes.
function controls(compare, viewer, comparisons) {
  const byId = (id) => document.getElementById(id);
  const renditions = () => comparisons[byId("comparison").selectedIndex].renditions;
  const sides = { left: renditions()[1].nearest[""] ?? 0, right: 1, original: 0 }; // which of the renditions; 0 is the original
  function show() {
    const { name, options, rows } = comparisons[byId("comparison").selectedIndex];
    compare.setAttribute("name", name);
    for (const [side, index] of Object.entries(sides)) {
      const { label, mime, data } = renditions()[index];
      compare.setAttribute(side + "-label", label);
      compare.setAttribute(side, `data:${mime};base64,${byId(data).textContent}`);
      if (side !== "original") Object.assign(byId(side), { innerHTML: options }).value = index;
    }
    const cells = (row) => [sides.left, sides.right].map((index) => `<td>${renditions()[index].values[row]}</td>`).join("");
    byId("captions").innerHTML = rows.map((head, row) => `<tr><th scope="row">${head}</th>${cells(row)}</tr>`).join("");
  }
  let before = renditions();
  function change(id) {
    if (id in sides) sides[id] = byId(id).selectedIndex;
    if (id === "difference") compare.setAttribute(id, byId(id).value);
    // Of another image both sides keep their codec and, if they can, its setting or the place among its settings.
    for (const side of id === "comparison" ? ["left", "right"] : []) {
      const old = before[sides[side]];
      const fits = (it, key) => it.codec === old.codec && it[key] === old[key];
      const found = ["setting", "place", "codec"].map((key) => renditions().findIndex((it) => fits(it, key)));
      sides[side] = found.find((index) => index >= 0) ?? 0;
    }
    // The right side takes the size of the left: of its own codec or, if both are of one, of another.
    const [left, { codec }] = [renditions()[sides.left], renditions()[sides.right]];
    if ((id === "left" || id === "comparison") && byId("equal").checked && sides.left && sides.right) {
      sides.right = left.nearest[codec === left.codec ? "" : codec] ?? sides.right;
    }
    before = renditions();
    show();
  }
  function step(id, by) {
    byId(id).selectedIndex = (byId(id).selectedIndex + by + byId(id).length) % byId(id).length;
    change(id);
  }
  const keys = {
    n: () => step("comparison", 1),
    p: () => step("comparison", -1),
    l: (shift) => step("left", shift ? -1 : 1),
    r: (shift) => step("right", shift ? -1 : 1),
    d: () => step("difference", 1),
    f: () => (document.fullscreenElement ? document.exitFullscreen() : viewer.requestFullscreen()),
    s: () => show(([sides.left, sides.right] = [sides.right, sides.left])),
  };
  function act(key, shift) {
    if (compare.act(key, shift)) return true;
    keys[key.toLowerCase()]?.(shift);
    return key.toLowerCase() in keys;
  }
  const hold = byId("hold");
  compare.addEventListener("change", () => {
    const { scale, fit } = compare.view;
    byId("zoom").textContent = scale < 1 ? `1:${+(1 / scale).toFixed(2)}` : `${+scale.toFixed(2)}:1`;
    for (const it of viewer.querySelectorAll("[data-scale]")) it.ariaPressed = it.dataset.scale === (fit ? "fit" : `${scale}`);
    hold.ariaPressed = compare.hasAttribute("hold");
    const shown = [...compare.querySelectorAll(".tag:not(:empty)")].map((tag) => tag.textContent).join("; ");
    const status = `${compare.getAttribute("name")}: ${shown}`;
    if (byId("status").textContent !== status) byId("status").textContent = status; // else it would be read out again
  });
  const holds = { pointerdown: true, pointerup: false, pointerleave: false, keydown: true, keyup: false };
  for (const [kind, on] of Object.entries(holds)) {
    hold.addEventListener(kind, (event) => {
      if (!["Enter", " ", undefined].includes(event.key)) return;
      if (event.key) event.preventDefault(); // else a click would follow
      compare.toggleAttribute("hold", on);
    });
  }
  hold.addEventListener("click", (event) => event.detail || compare.toggleAttribute("hold")); // by an aid that cannot hold
  viewer.addEventListener("click", (event) => event.target.dataset.key && act(event.target.dataset.key));
  viewer.addEventListener("keydown", (event) => compare.key(event, act));
  viewer.addEventListener("change", (event) => change(event.target.id));
  byId("full").hidden = !document.fullscreenEnabled;
  byId("previous").hidden = byId("next").hidden = comparisons.length < 2;
  show();
}
const comparisons = document.getElementById("comparisons");
if (comparisons) controls(document.querySelector("image-compare"), document.getElementById("viewer"), JSON.parse(comparisons.textContent));
