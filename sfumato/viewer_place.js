// Where: the state's zoom, middle and divider in, places of pictures and divider on the stage out.

const LADDER = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16]; // device pixels a picture pixel

const ratio = () => window.devicePixelRatio || 1;

// Fills the stage; above 1:1 in whole steps, so that all pixels stay equally large.  Where a CSS pixel is two or three
// device pixels nobody sees that they do not, and the steps are a half or a third.
function fitScale() {
  const scale = Math.min((stage.clientWidth * ratio()) / state.width, (stage.clientHeight * ratio()) / state.height);
  const grain = Math.max(1, Math.floor(ratio()));
  return scale > 1 ? Math.floor(scale * grain) / grain : scale;
}

const least = () => Math.min(fitScale(), LADDER[LADDER.length - 1], 1);
const most = () => Math.max(fitScale(), LADDER[LADDER.length - 1]);

// Left and top edge and size of the picture in CSS pixels of the stage.
function frame() {
  const shown = state.scale / ratio();
  const width = state.width * shown;
  const height = state.height * shown;
  return { left: stage.clientWidth / 2 - state.x * width, top: stage.clientHeight / 2 - state.y * height, width, height };
}

// The picture's edges stay at or beyond the stage's, or the picture in its middle.
function keepInside() {
  const half = (size, picture) => (picture > size ? size / (2 * picture) : 0.5);
  const { width, height } = frame();
  const marginX = half(stage.clientWidth, width);
  const marginY = half(stage.clientHeight, height);
  state.x = clamp(state.x, marginX, 1 - marginX);
  state.y = clamp(state.y, marginY, 1 - marginY);
}

// The part of the stage, in CSS pixels, that the divider moves through.
function range() {
  const { left, width } = frame();
  return [Math.max(0, left), Math.min(stage.clientWidth, left + width)];
}

const pans = () => {
  const { width, height } = frame();
  return width > stage.clientWidth + 1 || height > stage.clientHeight + 1;
};

function place() {
  if (!state.width) return;
  viewer.style.setProperty("--aspect", state.height / state.width);
  if (state.fit) state.scale = fitScale();
  keepInside();
  const { left, top, width } = frame();
  // Whole device pixels, counted from the window's corner: only then 1:1 copies pixels and does not resample.
  const box = stage.getBoundingClientRect();
  const snap = (edge, origin) => Math.round((edge + origin) * ratio()) / ratio() - origin;
  const x = snap(left, box.left + stage.clientLeft);
  const y = snap(top, box.top + stage.clientTop);
  for (const { image } of Object.values(layers)) {
    const shown = image();
    if (!shown) continue;
    shown.style.transform = `translate(${x}px, ${y}px) scale(${width / shown.naturalWidth})`;
    shown.classList.toggle("pixels", state.scale >= 1);
  }
  const [low, high] = range();
  const cut = low + state.divider * (high - low);
  layers.left.box.style.clipPath = state.difference ? "none" : `inset(0 ${stage.clientWidth - cut}px 0 0)`;
  divider.style.transform = `translateX(${cut}px)`;
  divider.setAttribute("aria-disabled", state.difference > 0);
  stage.classList.toggle("difference", state.difference > 0);
  byId("pictures").style.filter = state.difference > 1 ? `brightness(${state.difference})` : "";
  stage.classList.toggle("pans", pans());
  layers.original.box.hidden = !(state.original && layers.original.image());
  const percent = Math.round(100 * state.divider);
  divider.setAttribute("aria-valuenow", percent);
  divider.setAttribute("aria-valuetext", `${percent} % ${versions()[state.left].label}, the rest ${versions()[state.right].label}`);
  byId("zoom").textContent = scaleText();
  byId("fit").setAttribute("aria-pressed", state.fit);
  for (const button of viewer.querySelectorAll("[data-scale]")) {
    button.setAttribute("aria-pressed", !state.fit && state.scale === Number(button.dataset.scale));
  }
}

function scaleText() {
  const { scale } = state;
  if (Number.isInteger(scale)) return `${scale}:1`;
  if (Number.isInteger(1 / scale)) return `1:${1 / scale}`;
  return `${Math.round(100 * scale)} %`;
}

// Zooms so that the point (CSS pixels of the stage) stays where it is.
function zoom(scale, pointX = stage.clientWidth / 2, pointY = stage.clientHeight / 2) {
  if (!state.width) return;
  const before = frame();
  const u = (pointX - before.left) / before.width;
  const v = (pointY - before.top) / before.height;
  state.fit = false;
  state.scale = clamp(scale, least(), most());
  const { width, height } = frame();
  state.x = u + (stage.clientWidth / 2 - pointX) / width;
  state.y = v + (stage.clientHeight / 2 - pointY) / height;
  place();
}

function zoomStep(step, pointX, pointY) {
  const rungs = [...LADDER, fitScale()].filter((rung) => rung >= least()).sort((a, b) => a - b);
  const near = 1e-6;
  const next = step > 0 ? rungs.find((r) => r > state.scale + near) : rungs.reverse().find((r) => r < state.scale - near);
  if (next) zoom(next, pointX, pointY);
}

function fit() {
  state.fit = true;
  state.x = state.y = 0.5;
  place();
}

function pan(dx, dy) {
  const { width, height } = frame();
  state.x -= dx / width;
  state.y -= dy / height;
  place();
}

function moveDivider(part) {
  state.divider = clamp(part, 0, 1);
  place();
}

function setDifference(gain) {
  state.difference = gain;
  byId("difference").value = gain;
  label();
  place();
}

async function holdOriginal(held) {
  if (state.original === held) return;
  state.original = held;
  byId("original").setAttribute("aria-pressed", held);
  label();
  if (held) await layers.original.set(0);
  place();
}
