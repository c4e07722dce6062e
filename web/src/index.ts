// The library: weights and kernels in, a codec out; no browser needed.
export { Codec, type Analysis, type Decoded, type DecodeOptions } from "./codec.js";
export { MAX_PIXELS, peek, unpack, readMetadata, crc32, hex, type File, type Header } from "./container.js";
export { Engine } from "./engine.js";
export { FormatError } from "./errors.js";
export { readWeights } from "./weights.js";
export { complete, completeLossless, type DecodedImage } from "./image.js";
export { readPng, writePng, type Pixels } from "./png.js";
