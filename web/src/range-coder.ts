// A range coder (FORMAT.md, section 5) whose state lies in the engine's memory, where `codePass` works on it.
import { hex } from "./container.js";
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
    const words = engine.u32(this.words, count);
    const u64 = (at: number): bigint => {
      const [low, high] = engine.u32(state + at, 2);
      return (BigInt(high!) << 32n) | BigInt(low!);
    };
    const digits = Array.from(words, hex).join("");
    const low = (BigInt(`0x0${digits}`) << 64n) | u64(CODER_LOW);
    if (!count && u64(CODER_LOW) === 0n && u64(CODER_RANGE) === 2n ** 64n - 1n) return new Uint8Array();
    if (low === 0n) return new Uint8Array();
    const top = low + u64(CODER_RANGE) - 1n;
    const b = BigInt(((low - 1n) ^ top).toString(2).length - 1);
    const text = ((top >> b) << b).toString(16).padStart(2 * (4 * count + 8), "0");
    const bytes = Uint8Array.from({ length: text.length / 2 }, (_, i) =>
      parseInt(text.slice(2 * i, 2 * i + 2), 16),
    );
    let size = bytes.length;
    while (size && !bytes[size - 1]) size--;
    return bytes.slice(0, size);
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
