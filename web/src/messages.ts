// Messages between pages and workers.
import type { Strip } from "./codec.js";
import type { Header } from "./container.js";

export interface Facts {
  width: number;
  height: number;
  q: number;
  model: string;
  grey: boolean;
  chunks: number;
  lossless: boolean;
  alpha: boolean;
  complete: boolean;
  sections: { name: string; bytes: number }[];
  shown: number;
  metadata: string[];
  bytes: number;
  warnings: string[];
  seconds: number;
}

export interface DecodeRequest {
  kind: "decode";
  data: Uint8Array;
  partial?: boolean;
  steps?: number;
  maxPixels?: number;
}

/** A large image is decoded by several workers: one prepares it, each makes strips of it, one finishes it. */
export interface PrepareRequest extends Omit<DecodeRequest, "kind"> {
  kind: "prepare";
  shares: number;
}

export interface PrepareReply {
  shares: { rows: Float32Array; strip: Strip }[];
  steps: number;
  sections: number;
  seconds: number;
}

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

export interface FinishRequest extends Omit<DecodeRequest, "kind"> {
  kind: "finish";
  pixels: Uint8Array;
  sections: number;
  seconds: number;
}

export interface EncodeRequest {
  kind: "encode";
  data: Uint8Array;
  type: string;
  quality?: number;
  limit?: number;
}

export type Request = DecodeRequest | PrepareRequest | StripRequest | FinishRequest | EncodeRequest;
export type Result = DecodeReply | PrepareReply | StripReply | EncodeReply;

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
  warnings: string[];
}

export type Reply = { number: number } & (
  { progress: number; what: string } | { error: string; name: string } | { result: Result }
);
