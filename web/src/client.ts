// A page's side of the workers: requests in, promises of replies out.
import type { DecodeReply, EncodeReply, Reply, Request, StripReply, StripRequest } from "./messages.js";

export type Progress = (what: string, part: number) => void;
type Result = DecodeReply | EncodeReply | StripReply;

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

  constructor(private readonly url: string | URL, private readonly most: number) {}

  decode(data: Uint8Array, options: { partial?: boolean; steps?: number; maxPixels?: number } = {}, progress: Progress = () => {}) {
    return this.ask({ kind: "decode", data, ...options }, progress) as Promise<DecodeReply>;
  }

  encode(request: Omit<Request & { kind: "encode" }, "kind">, progress: Progress = () => {}) {
    return this.ask({ kind: "encode", ...request }, progress) as Promise<EncodeReply>;
  }

  strip(request: Omit<StripRequest, "kind">) {
    return this.ask({ kind: "strip", ...request }, () => {}) as Promise<StripReply>;
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
      else if ("error" in data) finish((job) => job.reject(Object.assign(new Error(data.error), { name: data.name })));
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
