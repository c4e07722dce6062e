// WebAssembly kernels and the memory they work on.  Maps lie in that memory; the rest of the program holds
// their addresses.

type Kernel = (...numbers: number[]) => number;

export interface Kernels {
  memory: WebAssembly.Memory;
  [name: string]: Kernel | WebAssembly.Memory;
}

const PAGE = 65536;
const ALIGN = 16;

export class Engine {
  readonly call: Record<string, Kernel>;
  private readonly memory: WebAssembly.Memory;
  private free: { at: number; size: number }[] = [];
  private readonly used = new Map<number, { size: number; number: number }>();
  private top: number;
  private count = 0;

  constructor(instance: WebAssembly.Instance) {
    const { memory } = instance.exports as unknown as Kernels;
    this.memory = memory;
    this.call = instance.exports as unknown as Record<string, Kernel>;
    this.top = align(this.call.heapBase!());
  }

  static async start(wasm: BufferSource | Promise<BufferSource>): Promise<Engine> {
    const { instance } = await WebAssembly.instantiate(await wasm, {
      env: {
        abort: () => {
          throw new Error("the kernels gave up");
        },
      },
    });
    return new Engine(instance);
  }

  /** Address of `size` bytes, a multiple of 16; what is in them is undefined. RangeError without memory. */
  alloc(size: number): number {
    size = align(Math.max(size, 1));
    for (const [i, block] of this.free.entries()) {
      if (block.size < size) continue;
      const at = block.at;
      block.at += size;
      block.size -= size;
      if (!block.size) this.free.splice(i, 1);
      this.used.set(at, { size, number: this.count++ });
      return at;
    }
    const at = this.top;
    const needed = at + size - this.memory.buffer.byteLength;
    if (needed > 0) {
      try {
        this.memory.grow(Math.ceil(Math.max(needed, PAGE * 64) / PAGE));
      } catch {
        throw new RangeError(`no memory for ${size} bytes more than ${this.memory.buffer.byteLength}`);
      }
    }
    this.top += size;
    this.used.set(at, { size, number: this.count++ });
    return at;
  }

  release(at: number): void {
    const block = this.used.get(at);
    if (!block) throw new Error(`address ${at} is not in use`);
    this.used.delete(at);
    let i = this.free.findIndex((other) => other.at > at);
    if (i < 0) i = this.free.length;
    this.free.splice(i, 0, { at, size: block.size });
    for (const j of [i, i - 1]) {
      const [a, b] = [this.free[j], this.free[j + 1]];
      if (a && b && a.at + a.size === b.at) {
        a.size += b.size;
        this.free.splice(j + 1, 1);
      }
    }
    const last = this.free.at(-1);
    if (last && last.at + last.size === this.top) {
      this.top = last.at;
      this.free.pop();
    }
  }

  /** Runs `work`, then frees whatever it has left allocated, also if it throws. */
  scope<T>(work: () => T): T {
    const first = this.count;
    try {
      return work();
    } finally {
      for (const [at, { number }] of [...this.used]) if (number >= first) this.release(at);
    }
  }

  /** Bytes of memory so far, used or not. */
  get bytes(): number {
    return this.memory.buffer.byteLength;
  }

  u8(at: number, count: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, at, count);
  }
  i16(at: number, count: number): Int16Array {
    return new Int16Array(this.memory.buffer, at, count);
  }
  u32(at: number, count: number): Uint32Array {
    return new Uint32Array(this.memory.buffer, at, count);
  }
  f32(at: number, count: number): Float32Array {
    return new Float32Array(this.memory.buffer, at, count);
  }
  f64(at: number, count: number): Float64Array {
    return new Float64Array(this.memory.buffer, at, count);
  }

  /** A copy of the values in the engine's memory. */
  put(values: Uint8Array | Uint32Array | Float32Array | Float64Array | Int16Array): number {
    const at = this.alloc(values.byteLength);
    this.u8(at, values.byteLength).set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    return at;
  }
}

function align(size: number): number {
  return Math.ceil(size / ALIGN) * ALIGN;
}
