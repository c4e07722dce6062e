// A page's side of the workers: requests in, promises of replies out.
import { paddedPixels, peek } from "./container.js";
import type {
  DecodeReply,
  DecodeRequest,
  EncodeReply,
  EncodeRequest,
  PrepareReply,
  Reply,
  Request,
  Result,
  StripReply,
} from "./messages.js";

export type Progress = (what: string, part: number) => void;

const LARGE = 2 ** 20; // pixels from which on an image is worth several workers

interface Job {
  request: Request;
  progress: Progress;
  resolve: (result: Result) => void;
  reject: (error: Error) => void;
}

interface Hand {
  worker: Worker;
  job: Job | null;
}

/** Up to `most` workers, started when they are needed, that share one queue. */
export class Workers {
  private readonly hands: Hand[] = [];
  private readonly queue: Job[] = [];
  private number = 0;

  constructor(
    private readonly url: string | URL,
    private readonly most: number,
  ) {}

  async decode(
    data: Uint8Array,
    options: Omit<DecodeRequest, "kind" | "data"> = {},
    progress: Progress = () => {},
  ): Promise<DecodeReply> {
    let large = false;
    try {
      const header = this.most > 1 ? peek(data) : null;
      large = Boolean(header?.chunks) && paddedPixels(header!.width, header!.height) >= LARGE;
    } catch {
      // a bad header: the worker says what is wrong with it
    }
    if (large) return this.together(data, options, progress);
    return this.ask({ kind: "decode", data, ...options }, progress) as Promise<DecodeReply>;
  }

  encode(request: Omit<EncodeRequest, "kind">, progress: Progress = () => {}): Promise<EncodeReply> {
    return this.ask({ kind: "encode", ...request }, progress) as Promise<EncodeReply>;
  }

  /** Decodes with all workers: the latent by one, then strips of the image by each. */
  private async together(
    data: Uint8Array,
    options: Omit<DecodeRequest, "kind" | "data">,
    progress: Progress,
  ): Promise<DecodeReply> {
    const header = peek(data)!;
    const request: Request = { kind: "prepare", data, shares: this.most, ...options };
    const { shares, steps, sections, seconds } = (await this.ask(request, progress)) as PrepareReply;
    const start = performance.now();
    const pixels = new Uint8Array(header.width * header.height * 3);
    let done = 0;
    await Promise.all(
      shares.map(async ({ rows, strip }) => {
        const found = (await this.ask({ kind: "strip", header, rows, strip, steps }, () => {})) as StripReply;
        pixels.set(found.pixels, strip.first * header.width * 3);
        progress("Decoding", (1 + ++done / shares.length) / 2);
      }),
    );
    const passed = seconds + (performance.now() - start) / 1000;
    return this.ask(
      { kind: "finish", data, pixels, sections, seconds: passed, ...options },
      progress,
    ) as Promise<DecodeReply>;
  }

  /** Ends all work; what was asked for is rejected. */
  stop(): void {
    const error = new Error("stopped");
    for (const job of this.queue.splice(0)) job.reject(error);
    for (const { worker, job } of this.hands.splice(0)) {
      worker.terminate();
      job?.reject(error);
    }
  }

  private ask(request: Request, progress: Progress): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.queue.push({ request, progress, resolve, reject });
      this.next();
    });
  }

  private next(): void {
    if (!this.queue.length) return;
    let hand = this.hands.find(({ job }) => !job);
    if (!hand && this.hands.length < this.most) {
      hand = this.start();
      this.hands.push(hand);
    }
    if (!hand) return;
    hand.job = this.queue.shift()!;
    hand.worker.postMessage({ number: ++this.number, request: hand.job.request });
  }

  private start(): Hand {
    const hand: Hand = { worker: new Worker(this.url), job: null };
    const finish = (done: (job: Job) => void): void => {
      const { job } = hand;
      hand.job = null;
      if (job) done(job);
      this.next();
    };
    hand.worker.onmessage = ({ data }: MessageEvent<Reply>) => {
      if ("progress" in data) hand.job?.progress(data.what, data.progress);
      else if ("error" in data)
        finish((job) => job.reject(Object.assign(new Error(data.error), { name: data.name })));
      else finish((job) => job.resolve(data.result));
    };
    hand.worker.onerror = (event) => {
      event.preventDefault();
      hand.worker.terminate();
      this.hands.splice(this.hands.indexOf(hand), 1);
      finish((job) => job.reject(new Error(event.message || "the worker could not be started")));
    };
    return hand;
  }
}
