// Messages between pages and workers.
import type { Strip } from "./codec.js";
import type { Header } from "./container.js";

export interface Facts {
  width: number;
  height: number;
  q: number;
  model: string;
  grey: boolean;
  lossless: boolean;
  alpha: boolean;
  complete: boolean;
  sections: { name: string; bytes: number }[];
  shown: number;
  metadata: string[];
  bytes: number;
  remarks: string[];
  seconds: number;
}

/** A strip of an image, for another worker. */
export interface StripRequest {
  kind: "strip";
  header: Header;
  rows: Float32Array;
  strip: Strip;
  steps: number;
}

export interface StripReply {
  pixels: Uint8Array;
}

export type Request =
  | StripRequest
  | { kind: "decode"; data: Uint8Array; partial?: boolean; steps?: number; maxPixels?: number }
  | { kind: "encode"; data: Uint8Array; type: string; quality?: number; limit?: number };

export interface DecodeReply {
  png: Uint8Array;
  facts: Facts;
}

export interface EncodeReply {
  file: Uint8Array;
  q: number;
  tries: number;
  seconds: number;
  original: Uint8Array; // a PNG of what was encoded
  remarks: string[];
}

export type Reply = { number: number } & (
  | { progress: number; what: string }
  | { error: string; name: string }
  | { result: DecodeReply | EncodeReply | StripReply }
);
