// A lossless file of one pixel, by which a browser shows whether it knows the type: it needs no weights.
// prettier-ignore
export const NATIVE_PROBE = Uint8Array.of(
  83, 70, 85, 56, 1, 1, 255, 0, 0, 0, 0, 0, 34, 33, 208, 63, 52, 82, 73, 70, 70, 26, 0, 0, 0, 87, 69, 66,
  80, 86, 80, 56, 76, 14, 0, 0, 0, 47, 0, 0, 0, 0, 7, 16, 17, 253, 15, 68, 68, 255, 3,
);
