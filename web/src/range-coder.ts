// A range coder (FORMAT.md, section 5) whose state lies in the engine's memory, where `codePass` works on it.
import type { Engine } from "./engine.js";
import { FormatError } from "./errors.js";

const STATE = 64; // bytes of a coder
const [CODER_LOW, CODER_RANGE, CODER_WORDS, CODER_COUNT] = [24, 32, 48, 52];

/** A range coder in the engine's memory, with room for what it puts out. */
export class RangeCoder {
  readonly state: number;
  private words: number;
  private room: number; // words

  constructor(
    private readonly engine: Engine,
    private readonly payload: Uint8Array | null,
  ) {
    this.state = engine.alloc(STATE);
    this.room = 64;
    this.words = engine.alloc(4 * this.room);
    const at = payload ? engine.put(payload) : 0;
    engine.call.startCoder!(this.state, at, payload?.length ?? 0, this.words);
  }

  /** Room for so many symbols more: each may take two words. */
  reserve(symbols: number): void {
    const { engine, state } = this;
    const count = engine.u32(state + CODER_COUNT, 1)[0]!;
    if (count + 2 * symbols + 8 <= this.room) return;
    const room = count + 2 * symbols + 8;
    const words = engine.alloc(4 * room);
    engine.u8(words, 4 * count).set(engine.u8(this.words, 4 * count));
    engine.release(this.words);
    [this.words, this.room] = [words, room];
    engine.u32(state + CODER_WORDS, 1)[0] = words;
  }

  /** The payload: the shortest bytes that decode to all that was coded (FORMAT.md, section 5). */
  finish(): Uint8Array {
    const { engine, state } = this;
    const count = engine.u32(state + CODER_COUNT, 1)[0]!;
    const low = new Uint32Array(count + 2);
    low.set(engine.u32(this.words, count));
    [low[count + 1], low[count]] = engine.u32(state + CODER_LOW, 2) as unknown as [number, number];
    const [rangeLow, rangeHigh] = engine.u32(state + CODER_RANGE, 2);
    return shortest(low, rangeHigh!, rangeLow!);
  }

  /** FormatError unless the payload is the one of the symbols that were read. */
  verify(name: string): void {
    const wanted = this.finish();
    const given = this.payload!;
    if (wanted.length !== given.length || wanted.some((byte, i) => byte !== given[i])) {
      throw new FormatError(
        `${name}: payload holds ${given.length} bytes, its symbols take ${wanted.length}: it does not end where they end`,
      );
    }
  }
}

/**
 * The shortest bytes of a point in [low, low + range): the one with the most zeros at its end.
 *
 * `low` in words, the highest first.  Not as a BigInt, of which engines take 2^20 bits: a payload may be longer.
 */
export function shortest(low: Uint32Array, rangeHigh: number, rangeLow: number): Uint8Array {
  if (low.every((word) => !word)) return new Uint8Array();
  const below = low.slice(); // low - 1
  for (let i = below.length - 1; i >= 0; i--) if (below[i]!-- !== 0) break;
  const top = low.slice(); // low + range - 1
  const added = rangeLow ? [rangeLow - 1, rangeHigh] : [0xffffffff, rangeHigh - 1];
  for (let i = top.length - 1, carry = 0; i >= 0; i--) {
    const sum = top[i]! + (added[top.length - 1 - i] ?? 0) + carry;
    top[i] = sum;
    carry = sum > 0xffffffff ? 1 : 0;
  }
  const at = top.findIndex((word, i) => word !== below[i]);
  const bit = 31 - Math.clz32(top[at]! ^ below[at]!);
  top[at] = (top[at]! >>> bit) << bit;
  top.fill(0, at + 1);
  const bytes = new Uint8Array(4 * top.length);
  const view = new DataView(bytes.buffer);
  top.forEach((word, i) => view.setUint32(4 * i, word));
  let size = bytes.length;
  while (size && !bytes[size - 1]) size--;
  return bytes.slice(0, size);
}
