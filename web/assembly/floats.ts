// Float maps [height, width, channels] in, float maps out: the transforms and the denoiser.
// Fixed-width SIMD only: multiplication and addition stay apart, so every engine gives the same floats.

const TILE: usize = 64; // pixels whose inputs stay in the cache while one panel of weights passes

export const LEAKY: i32 = 1;
export const GELU: i32 = 2;

// x / sqrt(2) -> erf, a rational function (Eigen's), to 3e-7
// @ts-ignore: decorator
@inline
function erf4(x: v128): v128 {
  x = f32x4.max(f32x4.min(x, f32x4.splat(4)), f32x4.splat(-4));
  const s = f32x4.mul(x, x);
  let p = f32x4.splat(-2.72614225801306e-10);
  p = f32x4.add(f32x4.mul(p, s), f32x4.splat(2.77068142495902e-8));
  p = f32x4.add(f32x4.mul(p, s), f32x4.splat(-2.10102402082508e-6));
  p = f32x4.add(f32x4.mul(p, s), f32x4.splat(-5.69250639462346e-5));
  p = f32x4.add(f32x4.mul(p, s), f32x4.splat(-7.34990630326855e-4));
  p = f32x4.add(f32x4.mul(p, s), f32x4.splat(-2.9545998085402e-3));
  p = f32x4.add(f32x4.mul(p, s), f32x4.splat(-1.60960333262415e-2));
  let q = f32x4.splat(-1.45660718464996e-5);
  q = f32x4.add(f32x4.mul(q, s), f32x4.splat(-2.13374055278905e-4));
  q = f32x4.add(f32x4.mul(q, s), f32x4.splat(-1.68282697438203e-3));
  q = f32x4.add(f32x4.mul(q, s), f32x4.splat(-7.37332916720468e-3));
  q = f32x4.add(f32x4.mul(q, s), f32x4.splat(-1.42647390514189e-2));
  return f32x4.div(f32x4.mul(x, p), q);
}

// @ts-ignore: decorator
@inline
function activate(x: v128, act: i32): v128 {
  if (act == LEAKY) return f32x4.max(x, f32x4.mul(x, f32x4.splat(0.1)));
  if (act == GELU) {
    const e = erf4(f32x4.mul(x, f32x4.splat(0.7071067811865476)));
    return f32x4.mul(f32x4.mul(x, f32x4.splat(0.5)), f32x4.add(e, f32x4.splat(1)));
  }
  return x;
}

// out[p, n] = act(sum_k x[p, k] w[k, n] + bias[n]) (+ residual[p, n]).  Weights lie in panels of 8 outputs,
// [n / 8][k][8]; n is a multiple of 8, and so is the bias's length.
export function gemm(
  x: usize, ldx: usize, pixels: usize, k: usize, w: usize, n: usize, bias: usize, out: usize, ldo: usize,
  act: i32, residual: usize,
): void {
  for (let from: usize = 0; from < pixels; from += TILE) {
    const to = min(from + TILE, pixels);
    for (let j: usize = 0; j < n; j += 8) {
      const panel = w + j * k * 4;
      const b0 = v128.load(bias + j * 4);
      const b1 = v128.load(bias + j * 4, 16);
      let p = from;
      for (; p + 4 <= to; p += 4) {
        let x0 = x + p * ldx * 4;
        let x1 = x0 + ldx * 4;
        let x2 = x1 + ldx * 4;
        let x3 = x2 + ldx * 4;
        let a0 = b0, a1 = b1, c0 = b0, c1 = b1, d0 = b0, d1 = b1, e0 = b0, e1 = b1;
        let at = panel;
        const end = panel + k * 32;
        for (; at < end; at += 32) {
          const w0 = v128.load(at);
          const w1 = v128.load(at, 16);
          let s = v128.load32_splat(x0);
          a0 = f32x4.add(a0, f32x4.mul(s, w0));
          a1 = f32x4.add(a1, f32x4.mul(s, w1));
          s = v128.load32_splat(x1);
          c0 = f32x4.add(c0, f32x4.mul(s, w0));
          c1 = f32x4.add(c1, f32x4.mul(s, w1));
          s = v128.load32_splat(x2);
          d0 = f32x4.add(d0, f32x4.mul(s, w0));
          d1 = f32x4.add(d1, f32x4.mul(s, w1));
          s = v128.load32_splat(x3);
          e0 = f32x4.add(e0, f32x4.mul(s, w0));
          e1 = f32x4.add(e1, f32x4.mul(s, w1));
          x0 += 4;
          x1 += 4;
          x2 += 4;
          x3 += 4;
        }
        const o = (p * ldo + j) * 4;
        put(out, o, a0, a1, act, residual);
        put(out, o + ldo * 4, c0, c1, act, residual);
        put(out, o + ldo * 8, d0, d1, act, residual);
        put(out, o + ldo * 12, e0, e1, act, residual);
      }
      for (; p < to; p++) {
        let x0 = x + p * ldx * 4;
        let a0 = b0, a1 = b1;
        const end = panel + k * 32;
        for (let at = panel; at < end; at += 32) {
          const s = v128.load32_splat(x0);
          a0 = f32x4.add(a0, f32x4.mul(s, v128.load(at)));
          a1 = f32x4.add(a1, f32x4.mul(s, v128.load(at, 16)));
          x0 += 4;
        }
        put(out, (p * ldo + j) * 4, a0, a1, act, residual);
      }
    }
  }
}

// @ts-ignore: decorator
@inline
function put(out: usize, offset: usize, a: v128, b: v128, act: i32, residual: usize): void {
  a = activate(a, act);
  b = activate(b, act);
  if (residual) {
    a = f32x4.add(a, v128.load(residual + offset));
    b = f32x4.add(b, v128.load(residual + offset, 16));
  }
  v128.store(out + offset, a);
  v128.store(out + offset, b, 16);
}

// Depthwise 3x3; beyond the border the nearest cell is repeated (edge), or lie zeros.  w [9][channels]; channels
// a multiple of 4.
export function depthwise3(
  x: usize, height: i32, width: i32, channels: usize, w: usize, bias: usize, edge: i32, out: usize,
): void {
  const cell = channels * 4;
  const line = <usize>width * cell;
  for (let row: i32 = 0; row < height; row++) {
    const r0 = x + <usize>max(row - 1, 0) * line;
    const r1 = x + <usize>row * line;
    const r2 = x + <usize>min(row + 1, height - 1) * line;
    for (let column: i32 = 0; column < width; column++) {
      const before = <usize>max(column - 1, 0) * cell;
      const here = <usize>column * cell;
      const after = <usize>min(column + 1, width - 1) * cell;
      const to = out + <usize>row * line + here;
      const up = edge || row > 0, down = edge || row + 1 < height;
      const left = edge || column > 0, right = edge || column + 1 < width;
      const inside = up && down && left && right;
      for (let c: usize = 0; c < cell; c += 16) {
        let sum = v128.load(bias + c);
        const t = w + c;
        if (inside || (up && left)) sum = tap(sum, r0 + before + c, t);
        if (inside || up) sum = tap(sum, r0 + here + c, t + cell);
        if (inside || (up && right)) sum = tap(sum, r0 + after + c, t + 2 * cell);
        if (inside || left) sum = tap(sum, r1 + before + c, t + 3 * cell);
        sum = tap(sum, r1 + here + c, t + 4 * cell);
        if (inside || right) sum = tap(sum, r1 + after + c, t + 5 * cell);
        if (inside || (down && left)) sum = tap(sum, r2 + before + c, t + 6 * cell);
        if (inside || down) sum = tap(sum, r2 + here + c, t + 7 * cell);
        if (inside || (down && right)) sum = tap(sum, r2 + after + c, t + 8 * cell);
        v128.store(to + c, sum);
      }
    }
  }
}

// @ts-ignore: decorator
@inline
function tap(sum: v128, x: usize, w: usize): v128 {
  return f32x4.add(sum, f32x4.mul(v128.load(x), v128.load(w)));
}

// Rows from .. from + rows of the output of a kernel x kernel convolution with `stride`: what each cell sees,
// [rows * outputs, kernel * kernel * channels].  Beyond the border lies the nearest cell (edge) or zero.
export function windows(
  x: usize, height: i32, width: i32, cell: usize, kernel: i32, stride: i32, padding: i32, edge: i32,
  from: i32, rows: i32, columns: i32, out: usize,
): void {
  for (let i: i32 = 0; i < rows; i++) {
    for (let j: i32 = 0; j < columns; j++) {
      for (let dy: i32 = 0; dy < kernel; dy++) {
        let row = (from + i) * stride + dy - padding;
        for (let dx: i32 = 0; dx < kernel; dx++) {
          let column = j * stride + dx - padding;
          const outside = row < 0 || row >= height || column < 0 || column >= width;
          if (outside && !edge) {
            memory.fill(out, 0, cell);
          } else {
            const r = <usize>max(0, min(row, height - 1));
            const c = <usize>max(0, min(column, width - 1));
            memory.copy(out, x + (r * <usize>width + c) * cell, cell);
          }
          out += cell;
        }
      }
    }
  }
}

// [h, w, c b b] -> [h b, w b, c], blocks in the order of ONNX's CRD.
export function depthToSpace(x: usize, height: i32, width: i32, channels: i32, b: i32, out: usize): void {
  const line = width * b * channels;
  for (let row: i32 = 0; row < height; row++) {
    for (let column: i32 = 0; column < width; column++) {
      const from = x + (<usize>(row * width + column) * <usize>(channels * b * b)) * 4;
      for (let i: i32 = 0; i < b; i++) {
        let to = out + (<usize>(row * b + i) * <usize>line + <usize>(column * b * channels)) * 4;
        for (let j: i32 = 0; j < b; j++) {
          let at = from + <usize>(i * b + j) * 4;
          for (let c: i32 = 0; c < channels; c++) {
            store<f32>(to, load<f32>(at));
            at += <usize>(b * b) * 4;
            to += 4;
          }
        }
      }
    }
  }
}

// The inverse: [h b, w b, c] -> [h, w, c b b].
export function spaceToDepth(x: usize, height: i32, width: i32, channels: i32, b: i32, out: usize): void {
  const line = width * b * channels;
  for (let row: i32 = 0; row < height; row++) {
    for (let column: i32 = 0; column < width; column++) {
      const to = out + (<usize>(row * width + column) * <usize>(channels * b * b)) * 4;
      for (let i: i32 = 0; i < b; i++) {
        let from = x + (<usize>(row * b + i) * <usize>line + <usize>(column * b * channels)) * 4;
        for (let j: i32 = 0; j < b; j++) {
          let at = to + <usize>(i * b + j) * 4;
          for (let c: i32 = 0; c < channels; c++) {
            store<f32>(at, load<f32>(from));
            at += <usize>(b * b) * 4;
            from += 4;
          }
        }
      }
    }
  }
}

// Joins two maps along the channels.
export function join(a: usize, ca: usize, b: usize, cb: usize, pixels: usize, out: usize): void {
  for (let p: usize = 0; p < pixels; p++) {
    memory.copy(out, a + p * ca * 4, ca * 4);
    memory.copy(out + ca * 4, b + p * cb * 4, cb * 4);
    out += (ca + cb) * 4;
  }
}

export function add(a: usize, b: usize, count: usize, out: usize): void {
  let i: usize = 0;
  for (; i + 4 <= count; i += 4) v128.store(out + i * 4, f32x4.add(v128.load(a + i * 4), v128.load(b + i * 4)));
  for (; i < count; i++) store<f32>(out + i * 4, load<f32>(a + i * 4) + load<f32>(b + i * 4));
}

// out[p, c] = x[p, c] * factor[c] + term[c]; either may be 0 (left out).
export function affine(x: usize, pixels: usize, channels: usize, factor: usize, term: usize, out: usize): void {
  for (let p: usize = 0; p < pixels; p++) {
    const at = p * channels * 4;
    for (let c: usize = 0; c < channels * 4; c += 4) {
      let v = load<f32>(x + at + c);
      if (factor) v *= load<f32>(factor + c);
      if (term) v += load<f32>(term + c);
      store<f32>(out + at + c, v);
    }
  }
}

export function activation(x: usize, count: usize, act: i32, out: usize): void {
  for (let i: usize = 0; i < count * 4; i += 16) v128.store(out + i, activate(v128.load(x + i), act));
}

// A kernel of 2 r + 1 taps along the rows of [height, width, channels], borders reflected (half-sample).
export function blurRows(
  x: usize, height: i32, width: i32, channels: i32, kernel: usize, r: i32, line: usize, out: usize,
): void {
  const size = width * channels;
  for (let row: i32 = 0; row < height; row++) {
    const from = x + <usize>row * <usize>size * 4;
    // `line` holds the row with its reflections
    for (let column: i32 = -r; column < width + r; column++) {
      const at = column < 0 ? -1 - column : column >= width ? 2 * width - 1 - column : column;
      memory.copy(line + <usize>((column + r) * channels) * 4, from + <usize>(at * channels) * 4, <usize>channels * 4);
    }
    taps(line, <usize>channels * 4, kernel, r, <usize>size, out + <usize>row * <usize>size * 4);
  }
}

// The same along the columns; a row has `size` values.
export function blurColumns(
  x: usize, height: i32, size: usize, kernel: usize, r: i32, out: usize,
): void {
  for (let row: i32 = 0; row < height; row++) {
    const to = out + <usize>row * size * 4;
    memory.fill(to, 0, size * 4);
    for (let t: i32 = -r; t <= r; t++) {
      const near = row + t;
      const at = near < 0 ? -1 - near : near >= height ? 2 * height - 1 - near : near;
      const from = x + <usize>at * size * 4;
      const k = f32x4.splat(load<f32>(kernel + <usize>(t + r) * 4));
      let i: usize = 0;
      for (; i + 4 <= size; i += 4) {
        v128.store(to + i * 4, f32x4.add(v128.load(to + i * 4), f32x4.mul(k, v128.load(from + i * 4))));
      }
      for (; i < size; i++) {
        store<f32>(to + i * 4, load<f32>(to + i * 4) + f32x4.extract_lane(k, 0) * load<f32>(from + i * 4));
      }
    }
  }
}

function taps(line: usize, step: usize, kernel: usize, r: i32, count: usize, out: usize): void {
  let i: usize = 0;
  for (; i + 4 <= count; i += 4) {
    let sum = f32x4.splat(0);
    let at = line + i * 4;
    for (let t: i32 = 0; t <= 2 * r; t++) {
      sum = f32x4.add(sum, f32x4.mul(v128.load32_splat(kernel + <usize>t * 4), v128.load(at)));
      at += step;
    }
    v128.store(out + i * 4, sum);
  }
  for (; i < count; i++) {
    let sum: f32 = 0;
    let at = line + i * 4;
    for (let t: i32 = 0; t <= 2 * r; t++) {
      sum += load<f32>(kernel + <usize>t * 4) * load<f32>(at);
      at += step;
    }
    store<f32>(out + i * 4, sum);
  }
}

// out = a x + b y
export function mix(x: usize, a: f32, y: usize, b: f32, count: usize, out: usize): void {
  for (let i: usize = 0; i < count * 4; i += 4) store<f32>(out + i, a * load<f32>(x + i) + b * load<f32>(y + i));
}

// -1 .. 1 -> 0 .. 255: clamped, then rounded to the nearest, halves to even.
export function toBytes(x: usize, count: usize, out: usize): void {
  for (let i: usize = 0; i < count; i++) {
    const v = max<f32>(-1, min<f32>(1, load<f32>(x + i * 4)));
    store<u8>(out + i, <u8>nearest<f32>((v + 1) * 127.5));
  }
}
