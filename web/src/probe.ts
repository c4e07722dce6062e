// A file of one pixel (tests/golden/pixel.sfu), by which a browser shows whether it knows the type.
// prettier-ignore
export const NATIVE_PROBE = Uint8Array.of(
  83, 70, 85, 48, 1, 1, 100, 5, 137, 148, 60, 123, 3, 213, 248, 127, 134, 185, 8, 60, 63, 0, 111, 57,
  170, 45, 121, 155, 128, 1, 36, 173, 128, 1, 36, 173, 128, 1, 36, 173, 128, 1, 36, 173, 179, 66, 128,
);
