// Maps of latents rearranged: cells are runs of bytes, so this serves every type.

// Of the deviations that scale indexes stand for: log(128 / 0.11) / 63.
const LOG_STEP: f64 = 0.11205246312871965;

// The cells whose row + column has this parity, row by row: [h, w] -> [h, w / 2].  A cell of the input is
// `stride` bytes long, and `cell` of them, from `offset` on, are taken.
export function pack(
  x: usize, height: i32, width: i32, stride: usize, offset: usize, cell: usize, parity: i32, out: usize,
): void {
  for (let row: i32 = 0; row < height; row++) {
    let at = x + <usize>(row * width + ((row + parity) & 1)) * stride + offset;
    for (let column: i32 = 0; column < width; column += 2) {
      memory.copy(out, at, cell);
      at += 2 * stride;
      out += cell;
    }
  }
}

// The inverse, for one parity.
export function unpack(
  packed: usize, height: i32, width: i32, stride: usize, offset: usize, cell: usize, parity: i32, out: usize,
): void {
  for (let row: i32 = 0; row < height; row++) {
    let at = out + <usize>(row * width + ((row + parity) & 1)) * stride + offset;
    for (let column: i32 = 0; column < width; column += 2) {
      memory.copy(at, packed, cell);
      at += 2 * stride;
      packed += cell;
    }
  }
}

// For every non-anchor of a map [h, w] the 12 anchors among its 5x5 neighbours; zeros beyond the border.
// `packed` holds the anchors, [h, w / 2].
export function neighbours(packed: usize, height: i32, width: i32, cell: usize, out: usize): void {
  const half = width >> 1;
  for (let row: i32 = 0; row < height; row++) {
    for (let j: i32 = 0; j < half; j++) {
      const column = 2 * j + ((row + 1) & 1);
      for (let dy: i32 = -2; dy <= 2; dy++) {
        for (let dx: i32 = -2; dx <= 2; dx++) {
          if (((dy + dx) & 1) == 0) continue;
          const r = row + dy;
          const c = column + dx;
          if (r < 0 || r >= height || c < 0 || c >= width) memory.fill(out, 0, cell);
          else memory.copy(out, packed + <usize>(r * half + (c >> 1)) * cell, cell);
          out += cell;
        }
      }
    }
  }
}

// [h, w] -> windows of `rows` x `columns` that begin `top` and `left` cells before the map; zeros outside.
export function toWindows(
  x: usize, height: i32, width: i32, cell: usize, rows: i32, columns: i32, top: i32, left: i32, out: usize,
): void {
  const down = (height + top + rows - 1) / rows;
  const along = (width + left + columns - 1) / columns;
  for (let i: i32 = 0; i < down; i++) {
    for (let j: i32 = 0; j < along; j++) {
      for (let r: i32 = 0; r < rows; r++) {
        for (let c: i32 = 0; c < columns; c++) {
          const row = i * rows + r - top;
          const column = j * columns + c - left;
          if (row < 0 || row >= height || column < 0 || column >= width) memory.fill(out, 0, cell);
          else memory.copy(out, x + <usize>(row * width + column) * cell, cell);
          out += cell;
        }
      }
    }
  }
}

export function fromWindows(
  windows: usize, height: i32, width: i32, cell: usize, rows: i32, columns: i32, top: i32, left: i32, out: usize,
): void {
  const down = (height + top + rows - 1) / rows;
  const along = (width + left + columns - 1) / columns;
  for (let i: i32 = 0; i < down; i++) {
    for (let j: i32 = 0; j < along; j++) {
      for (let r: i32 = 0; r < rows; r++) {
        for (let c: i32 = 0; c < columns; c++) {
          const row = i * rows + r - top;
          const column = j * columns + c - left;
          if (row >= 0 && row < height && column >= 0 && column < width) {
            memory.copy(out + <usize>(row * width + column) * cell, windows, cell);
          }
          windows += cell;
        }
      }
    }
  }
}

// Rows of `size` bytes from one stride to another: parts of maps and of channels.
export function copyRows(x: usize, stride: usize, rows: usize, size: usize, out: usize, outStride: usize): void {
  for (let row: usize = 0; row < rows; row++) {
    memory.copy(out, x, size);
    x += stride;
    out += outStride;
  }
}

export function toFloat(x: usize, count: usize, out: usize): void {
  for (let i: usize = 0; i < count; i++) store<f32>(out + i * 4, <f32>load<f64>(x + i * 8));
}

export function toDouble(x: usize, count: usize, out: usize): void {
  for (let i: usize = 0; i < count; i++) store<f64>(out + i * 8, <f64>load<f32>(x + i * 4));
}

// A second look over the border of two tiles: the best linear estimate of a value from the coded one, whose error
// has variance 1/12, and the mean found there, within half a step of the coded one (FORMAT.md, section 6).
// parameters [cells, 2 channels], means and scale indexes divided by 8; values and out [cells, channels].
export function mend(parameters: usize, cells: usize, channels: usize, values: usize, out: usize): void {
  for (let p: usize = 0; p < cells; p++) {
    for (let c: usize = 0; c < channels; c++) {
      const at = (p * channels + c) * 8;
      const value = load<f64>(values + at);
      const off = load<f64>(parameters + (p * 2 * channels + c) * 8) - value;
      const index = max<f64>(0, min<f64>(63, 8 * load<f64>(parameters + (p * 2 * channels + channels + c) * 8)));
      const deviation = 0.11 * Math.exp(index * LOG_STEP);
      const towards = off / (1 + 12 * deviation * deviation);
      store<f64>(out + at, value + max<f64>(-0.5, min<f64>(0.5, towards)));
    }
  }
}
