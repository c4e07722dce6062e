/** Bytes that are no file of this format, or one that this reader refuses. */
export class FormatError extends Error {
  override name = "FormatError";
}
