// The entropy model's layers in exact arithmetic (FORMAT.md, section 7): maps [cells, channels] of float64.
// Sums run over integers in 32-bit lanes whose bounds the caller has checked, everything else is single
// IEEE 754 operations in float64.

const MOST: f64 = 32767; // 2^15 - 1

// x times scale, rounded (halves to even) and bounded: int16.  Rows of `channels` values become rows of
// `stride`, filled up with zeros.
export function fix(x: usize, rows: usize, channels: usize, stride: usize, scale: f64, out: usize): void {
  for (let row: usize = 0; row < rows; row++) {
    const from = x + row * channels * 8;
    const to = out + row * stride * 2;
    for (let c: usize = 0; c < channels; c++) store<i16>(to + c * 2, <i16>fixed(load<f64>(from + c * 8), scale));
    for (let c = channels; c < stride; c++) store<i16>(to + c * 2, 0);
  }
}

// @ts-ignore: decorator
@inline
function fixed(x: f64, scale: f64): f64 {
  return max<f64>(-MOST, min<f64>(MOST, nearest<f64>(x * scale)));
}

// out[p, n] += sum over a segment of k of x[p, k] w[n, k].  `w` is cut into 256 high + low, with high and low in
// int16, and lies in panels of 4 outputs: [n / 4][k / 2][high of 4 outputs x 2 k, low of the same].
// No lane may pass 2^31: the caller cuts k into segments short enough.  The first segment sets `out`, the last
// multiplies by `unit`, adds `bias` (float64, or 0) and applies the leaky ReLU where `leaky` is set.
export function gemm16(
  x: usize, ldx: usize, cells: usize, pairs: usize, w: usize, n: usize, out: usize, first: i32, last: i32,
  unit: f64, bias: usize, leaky: i32,
): void {
  for (let j: usize = 0; j < n; j += 4) {
    const panel = w + j * pairs * 8;
    let p: usize = 0;
    for (; p + 2 <= cells; p += 2) {
      let x0 = x + p * ldx * 2;
      let x1 = x0 + ldx * 2;
      let h0 = i32x4.splat(0), l0 = h0, h1 = h0, l1 = h0;
      const end = panel + pairs * 32;
      for (let at = panel; at < end; at += 32) {
        const high = v128.load(at);
        const low = v128.load(at, 16);
        const s0 = v128.load32_splat(x0);
        const s1 = v128.load32_splat(x1);
        h0 = i32x4.add(h0, i32x4.dot_i16x8_s(s0, high));
        l0 = i32x4.add(l0, i32x4.dot_i16x8_s(s0, low));
        h1 = i32x4.add(h1, i32x4.dot_i16x8_s(s1, high));
        l1 = i32x4.add(l1, i32x4.dot_i16x8_s(s1, low));
        x0 += 4;
        x1 += 4;
      }
      finish(out, p * n + j, n - j, h0, l0, first, last, unit, bias + j * 8 * <usize>(bias != 0), bias != 0, leaky);
      finish(out, (p + 1) * n + j, n - j, h1, l1, first, last, unit, bias + j * 8 * <usize>(bias != 0), bias != 0, leaky);
    }
    for (; p < cells; p++) {
      let x0 = x + p * ldx * 2;
      let h0 = i32x4.splat(0), l0 = h0;
      const end = panel + pairs * 32;
      for (let at = panel; at < end; at += 32) {
        const s0 = v128.load32_splat(x0);
        h0 = i32x4.add(h0, i32x4.dot_i16x8_s(s0, v128.load(at)));
        l0 = i32x4.add(l0, i32x4.dot_i16x8_s(s0, v128.load(at, 16)));
        x0 += 4;
      }
      finish(out, p * n + j, n - j, h0, l0, first, last, unit, bias + j * 8 * <usize>(bias != 0), bias != 0, leaky);
    }
  }
}

// @ts-ignore: decorator
@inline
function finish(
  out: usize, index: usize, left: usize, high: v128, low: v128, first: i32, last: i32, unit: f64, bias: usize,
  biased: bool, leaky: i32,
): void {
  const at = out + index * 8;
  lane(at, <f64>i32x4.extract_lane(high, 0) * 256 + <f64>i32x4.extract_lane(low, 0), first, last, unit, bias, biased, leaky);
  if (left > 1) lane(at + 8, <f64>i32x4.extract_lane(high, 1) * 256 + <f64>i32x4.extract_lane(low, 1), first, last, unit, bias + 8, biased, leaky);
  if (left > 2) lane(at + 16, <f64>i32x4.extract_lane(high, 2) * 256 + <f64>i32x4.extract_lane(low, 2), first, last, unit, bias + 16, biased, leaky);
  if (left > 3) lane(at + 24, <f64>i32x4.extract_lane(high, 3) * 256 + <f64>i32x4.extract_lane(low, 3), first, last, unit, bias + 24, biased, leaky);
}

function lane(at: usize, sum: f64, first: i32, last: i32, unit: f64, bias: usize, biased: bool, leaky: i32): void {
  if (!first) sum += load<f64>(at);
  if (last) {
    sum *= unit;
    if (biased) sum += load<f64>(bias);
    if (leaky) sum = max<f64>(sum, sum * 0.1);
  }
  store<f64>(at, sum);
}

// floor(sqrt(x)) of an integer 0 .. 2^52
function floorRoot(x: f64): f64 {
  let root = floor<f64>(sqrt<f64>(x));
  if (root * root > x) root -= 1;
  if ((root + 1) * (root + 1) <= x) root += 1;
  return root;
}

export function layerNorm(
  x: usize, rows: usize, n: usize, scale: f64, eps: f64, weight: usize, bias: usize, out: usize,
): void {
  const count = <f64>n;
  for (let row: usize = 0; row < rows; row++) {
    const from = x + row * n * 8;
    const to = out + row * n * 8;
    let total: f64 = 0;
    let squares: f64 = 0;
    for (let c: usize = 0; c < n * 8; c += 8) {
      const v = fixed(load<f64>(from + c), scale);
      store<f64>(to + c, v);
      total += v;
      squares += v * v;
    }
    const deviation = floorRoot(16 * (count * squares - total * total + eps)) * 0.25;
    for (let c: usize = 0; c < n * 8; c += 8) {
      let v = load<f64>(to + c) * count - total;
      v = v / deviation;
      v = v * load<f64>(weight + c);
      store<f64>(to + c, v + load<f64>(bias + c));
    }
  }
}

// Attention within each window: qkv [windows, cells, 3 n] -> [windows, cells, n].  bias [cells, cells] float64,
// visible u8 [windows, cells], exp float64 [last + 1]; scratch has room for 3 n cells + cells float64.
export function attention(
  qkv: usize, count: usize, cells: usize, n: usize, heads: usize, scale: f64, bias: usize, visible: usize,
  exp: usize, last: f64, scratch: usize, out: usize,
): void {
  const d = n / heads;
  const root = 1 / sqrt<f64>(<f64>d);
  const square = 1 / (scale * scale);
  const back = 1 / scale;
  const logits = scratch + 3 * n * cells * 8;
  for (let window: usize = 0; window < count; window++) {
    const from = qkv + window * cells * 3 * n * 8;
    for (let i: usize = 0; i < cells * 3 * n * 8; i += 8) store<f64>(scratch + i, fixed(load<f64>(from + i), scale));
    for (let head: usize = 0; head < heads; head++) {
      for (let i: usize = 0; i < cells; i++) {
        const q = scratch + (i * 3 * n + head * d) * 8;
        let most: f64 = -Infinity;
        for (let j: usize = 0; j < cells; j++) {
          const k = scratch + (j * 3 * n + n + head * d) * 8;
          let sum: f64 = 0;
          for (let c: usize = 0; c < d * 8; c += 8) sum += load<f64>(q + c) * load<f64>(k + c);
          let logit = sum * square;
          logit = logit * root;
          logit = logit + load<f64>(bias + (i * cells + j) * 8);
          if (!load<u8>(visible + window * cells + j)) logit = -10000;
          store<f64>(logits + j * 8, logit);
          most = max<f64>(most, logit);
        }
        let total: f64 = 0;
        for (let j: usize = 0; j < cells; j++) {
          const below = min<f64>(nearest<f64>((most - load<f64>(logits + j * 8)) * 256), last);
          const weight = load<f64>(exp + (<usize>below) * 8);
          store<f64>(logits + j * 8, weight);
          total += weight;
        }
        const to = out + ((window * cells + i) * n + head * d) * 8;
        for (let c: usize = 0; c < d; c++) {
          let sum: f64 = 0;
          const v = scratch + (2 * n + head * d + c) * 8;
          for (let j: usize = 0; j < cells; j++) sum += load<f64>(logits + j * 8) * load<f64>(v + j * 3 * n * 8);
          sum = sum / total;
          store<f64>(to + c * 8, sum * back);
        }
      }
    }
  }
}

export function add64(a: usize, b: usize, count: usize, leaky: i32, out: usize): void {
  for (let i: usize = 0; i < count * 8; i += 8) {
    let sum = load<f64>(a + i) + load<f64>(b + i);
    if (leaky) sum = max<f64>(sum, sum * 0.1);
    store<f64>(out + i, sum);
  }
}

// Adds one vector [channels] to every cell, then the leaky ReLU.
export function addVector(x: usize, cells: usize, channels: usize, vector: usize, leaky: i32): void {
  for (let p: usize = 0; p < cells; p++) {
    for (let c: usize = 0; c < channels; c++) {
      const at = x + (p * channels + c) * 8;
      let sum = load<f64>(at) + load<f64>(vector + c * 8);
      if (leaky) sum = max<f64>(sum, sum * 0.1);
      store<f64>(at, sum);
    }
  }
}

// Depth to space by 2: [h, w, 4 c] -> [2 h, 2 w, c]
export function shuffle64(x: usize, height: usize, width: usize, channels: usize, out: usize): void {
  for (let row: usize = 0; row < 2 * height; row++) {
    for (let column: usize = 0; column < 2 * width; column++) {
      const from = x + ((row >> 1) * width + (column >> 1)) * 4 * channels * 8 + ((row & 1) * 2 + (column & 1)) * 8;
      const to = out + (row * 2 * width + column) * channels * 8;
      for (let c: usize = 0; c < channels; c++) store<f64>(to + c * 8, load<f64>(from + c * 32));
    }
  }
}
