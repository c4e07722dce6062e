// Input: pointers, wheel, keys and controls in, changes of the state out; and the start of it all.

const DIFFERENCES = [0, 1, 4, 16]; // gain of the difference; 0: no difference
const WHEEL_STEP = 100; // of deltaY for one rung: a notch of a mouse, a stroke on a trackpad
const SNAP = 0.06; // a pinch that ends this near to a rung takes it
const GRIP = 28; // CSS pixels around the divider that drag it
const PAN_STEP = 48; // CSS pixels for a key

const pointers = new Map(); // those that are down: id -> { x, y } in CSS pixels of the stage
let drag = ""; // "divider" or "pan"

function onStage(event) {
  const box = stage.getBoundingClientRect();
  return { x: event.clientX - box.left - stage.clientLeft, y: event.clientY - box.top - stage.clientTop };
}

function dividerTo(x) {
  const [low, high] = range();
  if (high > low) moveDivider((x - low) / (high - low));
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button > 0 || !state.width) return;
  const point = onStage(event);
  pointers.set(event.pointerId, point);
  stage.setPointerCapture(event.pointerId);
  const [low, high] = range();
  const near = Math.abs(point.x - (low + state.divider * (high - low))) < GRIP;
  drag = !state.difference && (near || !pans()) ? "divider" : "pan";
  if (drag === "divider" && !near && event.pointerType !== "touch") dividerTo(point.x); // nothing to pan: the divider comes to the finger
  divider.focus({ preventScroll: true });
  event.preventDefault();
});

stage.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const point = onStage(event);
  if (pointers.size === 1) {
    if (drag === "divider") dividerTo(point.x);
    else pan(point.x - before.x, point.y - before.y);
  } else if (pointers.size === 2) {
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const span = (p) => Math.hypot(p.x - other.x, p.y - other.y);
    const middle = (p) => ({ x: (p.x + other.x) / 2, y: (p.y + other.y) / 2 });
    const [from, to] = [middle(before), middle(point)];
    pan(to.x - from.x, to.y - from.y);
    if (span(before) > 0) zoom(state.scale * (span(point) / span(before)), to.x, to.y);
    drag = "pan"; // the finger that stays does not take the divider along
  }
  pointers.set(event.pointerId, point);
});

function release(event) {
  if (!pointers.delete(event.pointerId)) return;
  const rung = LADDER.find((r) => Math.abs(state.scale / r - 1) < SNAP);
  if (pointers.size === 1 && rung && !state.fit) zoom(rung);
}
stage.addEventListener("pointerup", release);
stage.addEventListener("pointercancel", release);

let turned = 0;
stage.addEventListener(
  "wheel",
  (event) => {
    // Without the focus the wheel belongs to the page; a pinch on a trackpad arrives as ctrl + wheel.
    if (!event.ctrlKey && !viewer.contains(document.activeElement)) return;
    event.preventDefault();
    turned += event.deltaY * (event.deltaMode ? 33 : 1) * (event.ctrlKey ? 4 : 1);
    const point = onStage(event);
    for (; Math.abs(turned) >= WHEEL_STEP; turned -= Math.sign(turned) * WHEEL_STEP) zoomStep(-turned, point.x, point.y);
  },
  { passive: false },
);

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (viewer.requestFullscreen) viewer.requestFullscreen();
}

const KEYS = {
  "+": () => zoomStep(1),
  "=": () => zoomStep(1),
  "-": () => zoomStep(-1),
  0: fit,
  1: () => zoom(1),
  2: () => zoom(2),
  4: () => zoom(4),
  n: () => chooseScene(state.scene + 1),
  p: () => chooseScene(state.scene - 1),
  l: () => cycle("left", 1),
  L: () => cycle("left", -1),
  r: () => cycle("right", 1),
  R: () => cycle("right", -1),
  o: () => holdOriginal(true),
  d: () => setDifference(DIFFERENCES[(DIFFERENCES.indexOf(state.difference) + 1) % DIFFERENCES.length]),
  s: swap,
  f: toggleFull,
  Home: () => moveDivider(0),
  End: () => moveDivider(1),
  PageUp: () => moveDivider(state.divider + 0.1),
  PageDown: () => moveDivider(state.divider - 0.1),
  ArrowLeft: () => moveDivider(state.divider - 0.02),
  ArrowRight: () => moveDivider(state.divider + 0.02),
};
const PANS = {
  ArrowLeft: () => pan(PAN_STEP, 0),
  ArrowRight: () => pan(-PAN_STEP, 0),
  ArrowUp: () => pan(0, PAN_STEP),
  ArrowDown: () => pan(0, -PAN_STEP),
};

function swap() {
  [state.left, state.right] = [state.right, state.left];
  show();
}

viewer.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, summary")) return;
  const aside = event.shiftKey || !(event.key in KEYS); // up and down are the page's where nothing can be panned
  const act = (aside && pans() && PANS[event.key]) || KEYS[event.key] || KEYS[event.key.toLowerCase()];
  if (!act || (event.repeat && "onpsdf".includes(event.key))) return;
  event.preventDefault();
  act();
});
// Wherever the focus went meanwhile, letting go ends the hold.
document.addEventListener("keyup", (event) => {
  if (event.key.toLowerCase() === "o") holdOriginal(false);
});
window.addEventListener("blur", () => holdOriginal(false));

const hold = byId("original");
let pressed = false; // by pointer or key, after which the click says nothing new
hold.addEventListener("pointerdown", () => {
  pressed = true;
  holdOriginal(true);
});
for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
  hold.addEventListener(end, () => pressed && holdOriginal(false));
}
hold.addEventListener("keydown", (event) => {
  if (event.key !== " " && event.key !== "Enter") return;
  event.preventDefault();
  holdOriginal(true);
});
hold.addEventListener("keyup", (event) => {
  if (event.key === " " || event.key === "Enter") holdOriginal(false);
});
// A click without either comes from an aid that cannot hold: it switches.
hold.addEventListener("click", () => {
  if (!pressed) holdOriginal(!state.original);
  pressed = false;
});

scenes.forEach((scene, index) => byId("scene").append(new Option(scene.name, index)));
byId("scene").addEventListener("change", (event) => chooseScene(Number(event.target.value)));
byId("previous").addEventListener("click", KEYS.p);
byId("next").addEventListener("click", KEYS.n);
byId("left").addEventListener("change", (event) => chooseLeft(Number(event.target.value)));
byId("right").addEventListener("change", (event) => chooseRight(Number(event.target.value)));
byId("in").addEventListener("click", KEYS["+"]);
byId("out").addEventListener("click", KEYS["-"]);
byId("fit").addEventListener("click", fit);
byId("difference").addEventListener("change", (event) => setDifference(Number(event.target.value)));
for (const button of viewer.querySelectorAll("[data-scale]")) {
  button.addEventListener("click", () => zoom(Number(button.dataset.scale)));
}
byId("full").hidden = !document.fullscreenEnabled;
byId("full").addEventListener("click", toggleFull);
document.addEventListener("fullscreenchange", () => {
  byId("full").setAttribute("aria-pressed", Boolean(document.fullscreenElement));
});
new ResizeObserver(place).observe(stage);
// Another screen, or the browser's own zoom, changes what a device pixel is.
(function watchRatio() {
  matchMedia(`(resolution: ${ratio()}dppx)`).addEventListener(
    "change",
    () => {
      place();
      watchRatio();
    },
    { once: true },
  );
})();

begin();
byId("previous").hidden = byId("next").hidden = scenes.length < 2;
fillVersions();
show();
