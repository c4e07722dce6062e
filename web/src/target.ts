// A size in bytes in; the best file that is no larger out, by a search over the 256 qualities.

const LAST = 255;
const GROWTH = 0.0125; // of the logarithm of a size from one quality to the next, to begin with

/** The largest file of at most `limit` bytes; RangeError where even the smallest is larger. */
export function largestWithin(
  limit: number,
  encode: (q: number) => Uint8Array,
): { data: Uint8Array; q: number; tries: number } {
  const tried = new Map<number, Uint8Array>();
  let [low, high] = [-1, LAST + 1]; // low fits, high does not
  let next = 128;
  while (high - low > 1) {
    const data = encode(next);
    tried.set(next, data);
    if (data.length <= limit) low = next;
    else high = next;
    if (high - low <= 1) break;
    next = guess(tried, limit, low, high);
  }
  const best = tried.get(low);
  if (!best)
    throw new RangeError(
      `the smallest file of this image has ${tried.get(0)!.length} bytes, more than ${limit}`,
    );
  return { data: best, q: low, tries: tried.size };
}

/** Where the size's logarithm, taken for straight through the nearest tries, meets the limit. */
function guess(tried: Map<number, Uint8Array>, limit: number, low: number, high: number): number {
  const size = (q: number): number => Math.log(tried.get(q)!.length / limit);
  let expected: number;
  if (tried.size > 6) expected = (low + high) / 2;
  else if (tried.has(low) && tried.has(high)) {
    const slope = (size(high) - size(low)) / (high - low);
    expected = low - size(low) / (slope || GROWTH);
  } else {
    const known = tried.has(low) ? low : high;
    expected = known - size(known) / GROWTH;
  }
  return Math.min(Math.max(Math.floor(expected), low + 1), high - 1);
}
