// The range coder and the symbols of one coding pass (FORMAT.md, sections 2, 4 to 6).
//
// A coder lies in memory: low, range, point (u64 each), the next byte and the end of the payload, the words put
// out (as u32) and their number, what went wrong.  Decoding also encodes what it finds, to tell where it ends.

const LOW: usize = 0;
const RANGE: usize = 8;
const POINT: usize = 16;
const ENCODER_LOW: usize = 24;
const ENCODER_RANGE: usize = 32;
const AT: usize = 40;
const END: usize = 44;
const WORDS: usize = 48;
const COUNT: usize = 52;

export const NO_SYMBOL: i32 = 1;
export const TOO_LARGE: i32 = 2;
const SYMBOL_MAX: i64 = 0x100000;
const CLASSES: u32 = 20;

export function startCoder(coder: usize, payload: usize, size: usize, words: usize): void {
  store<u64>(coder + LOW, 0);
  store<u64>(coder + RANGE, u64.MAX_VALUE);
  store<u64>(coder + ENCODER_LOW, 0);
  store<u64>(coder + ENCODER_RANGE, u64.MAX_VALUE);
  store<u32>(coder + AT, <u32>payload);
  store<u32>(coder + END, <u32>(payload + size));
  store<u32>(coder + WORDS, <u32>words);
  store<u32>(coder + COUNT, 0);
  const high = word(coder);
  store<u64>(coder + POINT, (high << 32) | word(coder));
}

function word(coder: usize): u64 {
  let value: u64 = 0;
  const end = <usize>load<u32>(coder + END);
  let at = <usize>load<u32>(coder + AT);
  for (let i = 0; i < 4; i++) {
    value = (value << 8) | (at < end ? <u64>load<u8>(at) : 0);
    at++;
  }
  store<u32>(coder + AT, <u32>min(at, end));
  return value;
}

// @ts-ignore: decorator
@inline
function encode(coder: usize, start: u64, count: u64): void {
  let low = load<u64>(coder + ENCODER_LOW);
  let range = load<u64>(coder + ENCODER_RANGE);
  const scale = range >> 24;
  const next = low + scale * start;
  if (next < low) carry(coder);
  low = next;
  range = scale * count;
  if (range < 0x100000000) {
    const n = load<u32>(coder + COUNT);
    store<u32>(<usize>load<u32>(coder + WORDS) + (<usize>n << 2), <u32>(low >> 32));
    store<u32>(coder + COUNT, n + 1);
    low <<= 32;
    range <<= 32;
  }
  store<u64>(coder + ENCODER_LOW, low);
  store<u64>(coder + ENCODER_RANGE, range);
}

function carry(coder: usize): void {
  let at = <usize>load<u32>(coder + WORDS) + (<usize>load<u32>(coder + COUNT) << 2);
  const first = <usize>load<u32>(coder + WORDS);
  while (at > first) {
    at -= 4;
    const value = load<u32>(at) + 1;
    store<u32>(at, value);
    if (value) return;
  }
}

// Where the point lies, 0 .. 2^24 - 1; more: it belongs to no symbol.
// @ts-ignore: decorator
@inline
function place(coder: usize): u64 {
  const scale = load<u64>(coder + RANGE) >> 24;
  return (load<u64>(coder + POINT) - load<u64>(coder + LOW)) / scale;
}

// @ts-ignore: decorator
@inline
function take(coder: usize, start: u64, count: u64): void {
  let range = load<u64>(coder + RANGE);
  const scale = range >> 24;
  let low = load<u64>(coder + LOW) + scale * start;
  range = scale * count;
  if (range < 0x100000000) {
    low <<= 32;
    range <<= 32;
    store<u64>(coder + POINT, (load<u64>(coder + POINT) << 32) | word(coder));
  }
  store<u64>(coder + LOW, low);
  store<u64>(coder + RANGE, range);
  encode(coder, start, count);
}

// A number of a table whose starts are `sums`, u32 [n + 1]; -1 for a point of no number.
function read(coder: usize, sums: usize, n: u32): i32 {
  const t = place(coder);
  if (t >= 1 << 24) return -1;
  let low: u32 = 0;
  let high = n;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (<u64>load<u32>(sums + (<usize>middle << 2)) <= t) low = middle;
    else high = middle;
  }
  const start = load<u32>(sums + (<usize>low << 2));
  take(coder, <u64>start, <u64>(load<u32>(sums + (<usize>(low + 1) << 2)) - start));
  return <i32>low;
}

function write(coder: usize, sums: usize, number: u32): void {
  const start = load<u32>(sums + (<usize>number << 2));
  encode(coder, <u64>start, <u64>(load<u32>(sums + (<usize>(number + 1) << 2)) - start));
}

// Start and count of class n of an escape's excess.
// @ts-ignore: decorator
@inline
function classStart(n: u64): u64 {
  return (<u64>1 << 24) - (<u64>1 << (24 - n));
}

// @ts-ignore: decorator
@inline
function classCount(n: u64): u64 {
  return n < CLASSES - 1 ? <u64>1 << (23 - n) : 32;
}

// One call: `count` symbols i32 whose levels (u8) are given.  `tables`: for each of the 64 levels the address of
// its sums and W, u32 each.  `order` has room for count u32.  Returns 0, NO_SYMBOL or TOO_LARGE.
export function call(
  coder: usize, decoding: i32, levels: usize, symbols: usize, count: usize, tables: usize, order: usize,
): i32 {
  let escapes: usize = 0;
  // by level, stable: `order` holds the places of the symbols
  const ends = memory.data(256 + 4);
  memory.fill(ends, 0, 260);
  for (let i: usize = 0; i < count; i++) {
    const at = ends + ((<usize>load<u8>(levels + i) + 1) << 2);
    store<u32>(at, load<u32>(at) + 1);
  }
  for (let k: usize = 1; k <= 64; k++) store<u32>(ends + (k << 2), load<u32>(ends + (k << 2)) + load<u32>(ends + ((k - 1) << 2)));
  for (let i: usize = 0; i < count; i++) {
    const at = ends + (<usize>load<u8>(levels + i) << 2);
    const to = load<u32>(at);
    store<u32>(order + (<usize>to << 2), <u32>i);
    store<u32>(at, to + 1);
  }
  for (let o: usize = 0; o < count; o++) {
    const i = <usize>load<u32>(order + (o << 2));
    const table = tables + (<usize>load<u8>(levels + i) << 3);
    const sums = <usize>load<u32>(table);
    const width = <i32>load<u32>(table, 4);
    if (decoding) {
      const number = read(coder, sums, 2 * width + 2);
      if (number < 0) return NO_SYMBOL;
      if (number > 2 * width) escapes++;
      store<i32>(symbols + (i << 2), number - width);
    } else {
      const symbol = load<i32>(symbols + (i << 2));
      const escaped = symbol > width || symbol < -width;
      if (escaped) escapes++;
      write(coder, sums, escaped ? 2 * width + 1 : symbol + width);
    }
  }
  if (!escapes) return 0;
  // classes of all escapes, then their rests, in the order of the list; `order` keeps the classes meanwhile
  for (let step = 0; step < 2; step++) {
    for (let i: usize = 0; i < count; i++) {
      const width = <i64>load<u32>(tables + (<usize>load<u8>(levels + i) << 3), 4);
      const symbol = <i64>load<i32>(symbols + (i << 2));
      if (decoding ? symbol <= width : symbol <= width && symbol >= -width) continue;
      if (step == 0) {
        let n: u64;
        if (decoding) {
          const t = place(coder);
          if (t >= 1 << 24) return NO_SYMBOL;
          n = 0;
          while (n < CLASSES - 1 && t >= classStart(n) + classCount(n)) n++;
          take(coder, classStart(n), classCount(n));
        } else {
          n = 63 - clz<u64>(<u64>(abs<i64>(symbol) - width));
          encode(coder, classStart(n), classCount(n));
        }
        store<u32>(order + (i << 2), <u32>n);
      } else {
        const n = <u64>load<u32>(order + (i << 2));
        const size: u64 = <u64>1 << (23 - n);
        if (decoding) {
          const t = place(coder);
          if (t >= 1 << 24) return NO_SYMBOL;
          const rest = t / size;
          take(coder, rest * size, size);
          const magnitude = width + <i64>(<u64>1 << n) + <i64>(rest >> 1);
          if (magnitude > SYMBOL_MAX) return TOO_LARGE;
          store<i32>(symbols + (i << 2), <i32>(rest & 1 ? -magnitude : magnitude));
        } else {
          const v = abs<i64>(symbol) - width;
          const rest = 2 * (<u64>v - (<u64>1 << n)) + (symbol < 0 ? 1 : 0);
          encode(coder, rest * size, size);
        }
      }
    }
  }
  return 0;
}

// One pass over the symbols of a chunk's anchors or non-anchors, or of z.
//
// parameters  float64 [cells, 2 channels]: means, then scale indexes divided by 8
// values      float64 [cells, channels] to encode, or 0 to decode
// hat         float64 [cells, channels]: the values after quantisation
// scratch     room for 13 bytes a symbol, a multiple of 4
// crc         u32, continued over the symbols
//
// Returns the faults of `call`.
export function codePass(
  coder: usize, parameters: usize, cells: usize, channels: usize, values: usize, hat: usize, tables: usize,
  scratch: usize, crc: usize,
): i32 {
  const count = cells * channels;
  const symbols = scratch;
  const order = symbols + count * 4;
  const places = order + count * 4;
  const levels = places + count * 4;
  let coded: usize = 0;
  let skipped: usize = 0;
  let flag = 0;
  // the order of the pass: channel after channel, in a channel the cells; first what is not of level 0, to the front
  for (let c: usize = 0; c < channels; c++) {
    for (let p: usize = 0; p < cells; p++) {
      const at = parameters + (p * 2 * channels + c) * 8;
      const mean = nearest<f64>(load<f64>(at) * 256) * 0.00390625;
      const level = <u32>max<f64>(0, min<f64>(63, nearest<f64>(load<f64>(at + channels * 8) * 8)));
      const to = hat + (p * channels + c) * 8;
      store<f64>(to, mean);
      if (!level) {
        skipped++;
        if (values && symbolOf(values, to - hat, mean)) flag = 1;
      }
    }
  }
  if (skipped) {
    store<u8>(levels, 0);
    store<i32>(symbols, flag);
    const fault = call(coder, values == 0, levels, symbols, 1, tables, order);
    if (fault) return fault;
    flag = <i32>(load<i32>(symbols) != 0);
  }
  for (let c: usize = 0; c < channels; c++) {
    for (let p: usize = 0; p < cells; p++) {
      const at = parameters + (p * 2 * channels + c) * 8;
      const level = <u32>max<f64>(0, min<f64>(63, nearest<f64>(load<f64>(at + channels * 8) * 8)));
      if (!level && !flag) continue;
      const index = (p * channels + c) * 8;
      store<u8>(levels + coded, <u8>level);
      store<u32>(places + (coded << 2), <u32>index);
      if (values) store<i32>(symbols + (coded << 2), symbolOf(values, index, load<f64>(hat + index)));
      coded++;
    }
  }
  const fault = call(coder, values == 0, levels, symbols, coded, tables, order);
  if (fault) return fault;
  for (let i: usize = 0; i < coded; i++) {
    const at = hat + <usize>load<u32>(places + (i << 2));
    store<f64>(at, load<f64>(at) + <f64>load<i32>(symbols + (i << 2)));
  }
  store<u32>(crc, crc32(load<u32>(crc), symbols, coded * 4));
  return 0;
}

function symbolOf(values: usize, index: usize, mean: f64): i32 {
  const limit = <f64>SYMBOL_MAX;
  return <i32>max<f64>(-limit, min<f64>(limit, nearest<f64>(load<f64>(values + index) - mean)));
}

const crcTable = memory.data(1024);
let ready = false;

// zlib's CRC-32 of bytes, continued from `crc`.
export function crc32(crc: u32, at: usize, size: usize): u32 {
  if (!ready) {
    for (let i: u32 = 0; i < 256; i++) {
      let c = i;
      for (let bit = 0; bit < 8; bit++) c = c & 1 ? 0xedb88320 ^ (c >> 1) : c >> 1;
      store<u32>(crcTable + (<usize>i << 2), c);
    }
    ready = true;
  }
  crc = ~crc;
  for (let i: usize = 0; i < size; i++) {
    crc = load<u32>(crcTable + (<usize>((crc ^ <u32>load<u8>(at + i)) & 255) << 2)) ^ (crc >> 8);
  }
  return ~crc;
}

// Words of Philox 4x64-10 with the key (seed, 0) as numpy draws them: `skip` words left out, then `count`.
export function philox(seed: u32, skip: u64, count: usize, out: usize): void {
  let counter = skip / 4;
  let word = <usize>(skip % 4);
  let done: usize = 0;
  const block = memory.data(32);
  while (done < count) {
    counter++;
    let a = counter, b: u64 = 0, c: u64 = 0, d: u64 = 0;
    let k0 = <u64>seed, k1: u64 = 0;
    for (let round = 0; round < 10; round++) {
      const m0: u64 = 0xd2e7470ee14c6c93;
      const m1: u64 = 0xca5a826395121157;
      const high0 = mulHigh(m0, a), low0 = m0 * a;
      const high1 = mulHigh(m1, c), low1 = m1 * c;
      a = high1 ^ b ^ k0;
      c = high0 ^ d ^ k1;
      b = low1;
      d = low0;
      k0 += 0x9e3779b97f4a7c15;
      k1 += 0xbb67ae8584caa73b;
    }
    store<u64>(block, a);
    store<u64>(block, b, 8);
    store<u64>(block, c, 16);
    store<u64>(block, d, 24);
    for (; word < 4 && done < count; word++) {
      store<u64>(out + (done << 3), load<u64>(block + (word << 3)));
      done++;
    }
    word = 0;
  }
}

function mulHigh(a: u64, b: u64): u64 {
  const a0 = a & 0xffffffff, a1 = a >> 32, b0 = b & 0xffffffff, b1 = b >> 32;
  const low = a0 * b0;
  const middle = a1 * b0 + (low >> 32);
  const other = a0 * b1 + (middle & 0xffffffff);
  return a1 * b1 + (middle >> 32) + (other >> 32);
}
