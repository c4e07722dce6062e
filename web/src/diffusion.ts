// The blurring diffusion of the decoder: the noise of a file, the blur, the steps.
import type { Engine } from "./engine.js";
import type { Map32 } from "./graph.js";
import type { Config } from "./weights.js";

const REACH_MAX = 56; // pixels
const TAIL = 5e-4;
const PERIOD = 4096; // pixels of the row on which kernels are made

/** Predicts x of the noisy z_t at time t. */
export type Denoiser = (z: Map32, t: number) => Map32;

export function times(config: Config, steps: number): number[] {
  return Array.from({ length: steps + 1 }, (_, k) => config.t0 * (1 - k / steps) ** config.times_power);
}

/** a_t and sigma_t of the cosine schedule. */
export function factors(config: Config, t: number): [number, number] {
  const first = Math.atan(Math.exp(-config.logsnr_max / 2));
  const last = Math.atan(Math.exp(-config.logsnr_min / 2));
  const angle = first + (last - first) * t;
  return [Math.cos(angle), Math.sin(angle)];
}

/** What dissipation to the time t does to one pixel of an endless row; null where it goes too far. */
export function heatKernel(config: Config, t: number): Float32Array | null {
  const sigma = config.sigma_b_max * Math.sin((t * Math.PI) / 2) ** 2;
  const tau = sigma ** 2 / 2;
  const weights = Float64Array.from({ length: PERIOD / 2 + 1 }, (_, k) => {
    const w = Math.exp(-(((k * 2 * Math.PI) / PERIOD) ** 2) * tau) / PERIOD;
    return k === 0 || k === PERIOD / 2 ? w : 2 * w;
  });
  // far enough: where a kernel is still large here, its reach is too large anyway
  const half = Float64Array.from({ length: 4 * REACH_MAX }, (_, n) =>
    weights.reduce((sum, w, k) => sum + w * Math.cos((2 * Math.PI * ((k * n) % PERIOD)) / PERIOD), 0),
  );
  let beyond = 0;
  let r = half.length - 1;
  for (; r >= 0; r--) {
    beyond += 2 * half[r]! ** 2;
    if (Math.sqrt(beyond) >= TAIL) break;
  }
  r = Math.max(0, r);
  if (r > REACH_MAX) return null;
  const sum = half[0]! + 2 * half.slice(1, r + 1).reduce((a, b) => a + b, 0);
  return Float32Array.from({ length: 2 * r + 1 }, (_, i) => half[Math.abs(i - r)]! / sum);
}

/** Pixels around a part of the image that the steps look at, a multiple of 64; null: all of them. */
export function halo(config: Config, steps: number): number | null {
  if (!steps) return 0;
  const reach = config.halos.denoiser ?? null;
  const blurs = times(config, steps)
    .slice(0, -1)
    .map((t) => heatKernel(config, t));
  if (reach === null || config.t0 === 1 || blurs.includes(null)) return null;
  const radii = blurs.map((kernel) => kernel!.length >> 1);
  const total = radii[0]! + radii.slice(0, -1).reduce((sum, r) => sum + reach + r, 0) + reach;
  return Math.ceil(total / 64) * 64;
}

export class Diffusion {
  constructor(
    private readonly engine: Engine,
    private readonly config: Config,
  ) {}

  /** x_base and noise [height, width, 3] -> the image after the steps; the caller releases it. */
  run(xBase: Map32, noise: Map32, steps: number, denoise: Denoiser): Map32 {
    const { engine, config } = this;
    const ts = times(config, steps);
    const [a, sigma] = factors(config, ts[0]!);
    const blurred = this.dissipate(xBase, ts[0]!);
    let z = this.mix(blurred, a, noise, sigma);
    engine.release(blurred.at);
    for (let k = 0; k < steps; k++) {
      const [t, s] = [ts[k]!, ts[k + 1]!];
      const x = denoise(z, t);
      if (k === steps - 1) {
        engine.release(z.at);
        return x;
      }
      const [[at, sigmaT], [as, sigmaS]] = [factors(config, t), factors(config, s)];
      const share = sigmaS / sigmaT;
      const [near, far] = [this.dissipate(x, s), this.dissipate(x, t)];
      const pulled = this.mix(near, as, far, -share * at);
      const next = this.mix(z, share, pulled, 1);
      for (const map of [x, near, far, pulled, z]) engine.release(map.at);
      z = next;
    }
    throw new RangeError("no steps");
  }

  private mix(x: Map32, a: number, y: Map32, b: number): Map32 {
    const count = x.height * x.width * x.channels;
    const at = this.engine.alloc(count * 4);
    this.engine.call.mix!(x.at, a, y.at, b, count, at);
    return { ...x, at };
  }

  private dissipate(x: Map32, t: number): Map32 {
    const { engine, config } = this;
    const kernel = heatKernel(config, t)!;
    const r = kernel.length >> 1;
    const { height, width, channels } = x;
    const size = height * width * channels * 4;
    const taps = engine.put(kernel);
    const line = engine.alloc((width + 2 * r) * channels * 4);
    const [along, out] = [engine.alloc(size), engine.alloc(size)];
    engine.call.blurRows!(x.at, height, width, channels, taps, r, line, along);
    engine.call.blurColumns!(along, height, width * channels, taps, r, out);
    engine.call.mix!(out, 1 - config.d_min, x.at, config.d_min, height * width * channels, out);
    for (const at of [taps, line, along]) engine.release(at);
    return { ...x, at: out };
  }

  /** The rows top .. top + height of the noise of an image [rows, width] of 3 channels. */
  noise(seed: number, rows: number, width: number, top: number, height: number): Map32 {
    const { engine } = this;
    const count = height * width;
    const out = engine.alloc(count * 3 * 4);
    const words = engine.alloc(count * 4);
    for (let channel = 0; channel < 3; channel++) {
      const skip = ((channel * rows + top) * width) / 2; // even: the sides are multiples of 64
      (engine.call.philox as unknown as (...given: (number | bigint)[]) => void)(
        seed | 0,
        BigInt(skip),
        count / 2,
        words,
      );
      const halves = engine.u32(words, count);
      const values = engine.f32(out, count * 3);
      for (let i = 0; i < count; i += 2) {
        const u1 = (halves[i + 1]! + 0.5) * 2 ** -32;
        const u2 = (halves[i]! + 0.5) * 2 ** -32;
        const radius = Math.sqrt(-2 * Math.log(u1));
        values[3 * i + channel] = radius * Math.cos(2 * Math.PI * u2);
        values[3 * i + 3 + channel] = radius * Math.sin(2 * Math.PI * u2);
      }
    }
    engine.release(words);
    return { at: out, height, width, channels: 3 };
  }
}
