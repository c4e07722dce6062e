// The bytes of a file in; header, range-coded sections, alpha and metadata out, every field checked; and back.
// FORMAT.md, sections 1, 2, 3, 6 and 8.
import { FormatError } from "./errors.js";

export const VERSION = 3;
export const MAX_PIXELS = 89_478_485; // padding included: what is decoded at most
const OLD_VERSIONS: Record<number, string> = { 1: "0.0.1", 2: "0.1" };
const SIDE_MAX = 65535;
const PIXELS_MAX = 2 ** 27;
const CHUNKS_MAX = 16;
const SECTION_MAX = 2 ** 28;
const METADATA_MAX = 2 ** 24;
const METADATA_STORED_MAX = METADATA_MAX + 2 ** 16;
const HEADER_MAX = 64;
const [SEED, METADATA, ALPHA, GREY] = [1, 2, 4, 8] as const;

export interface Header {
  width: number;
  height: number;
  q: number; // 0 .. 255
  model: string; // 8 hexadecimal digits
  seed: number | null;
  grey: boolean;
  chunks: number; // 0 of a file of pixels, which has no latent
}

export interface Section {
  payload: Uint8Array;
  check: number;
}

export interface File {
  header: Header;
  sections: Section[];
  complete: boolean; // false for a prefix
  alpha: Uint8Array | null; // its stream; empty if it was cut off
  metadata: Uint8Array | null; // deflated
}

class Ended extends FormatError {}

class Reader {
  at = 0;
  constructor(readonly data: Uint8Array) {}

  take(size: number, what: string): Uint8Array {
    if (size > this.data.length - this.at)
      throw new Ended(`the file ends at byte ${this.data.length}, inside ${what}`);
    this.at += size;
    return this.data.subarray(this.at - size, this.at);
  }

  uint(size: number, what: string): number {
    return this.take(size, what).reduceRight((value, byte) => value * 256 + byte, 0);
  }

  varint(what: string): number {
    let value = 0;
    for (let i = 0; i < 5; i++) {
      const byte = this.uint(1, what);
      value += (byte & 127) * 128 ** i;
      if (byte < 128) {
        if (!byte && i) throw new FormatError(`${what}: ${value} is not in the shortest form`);
        return value;
      }
    }
    throw new FormatError(`${what}: varint of more than 5 bytes`);
  }

  length(what: string, limit: number): number {
    const value = this.varint(`${what}'s length`);
    if (value > limit) throw new FormatError(`${what}: length ${value}, the limit is ${limit}`);
    return value;
  }
}

export function sectionName(number: number, holdsPixels = false): string {
  return holdsPixels ? "image" : number ? `chunk ${number}` : "z";
}

/** Bytes of the check of a section. */
export function checkSize(header: Header, number: number): number {
  return number === header.chunks ? 4 : 2;
}

export function cells(side: number): number {
  return Math.ceil(side / 64);
}

export function paddedPixels(width: number, height: number): number {
  return cells(width) * cells(height) * 4096;
}

/** Header, sections, alpha and metadata, or FormatError.  `partial`: any prefix from the header on will do. */
export function unpack(data: Uint8Array, partial = false): File {
  const reader = new Reader(data);
  const { header, flags } = readHeader(reader);
  const file: File = {
    header,
    sections: [],
    complete: false,
    alpha: flags & ALPHA ? new Uint8Array() : null,
    metadata: null,
  };
  try {
    const holdsPixels = !header.chunks;
    const bytes = holdsPixels ? 4 * header.width * header.height : 8 * paddedPixels(header.width, header.height);
    const limit = Math.min(SECTION_MAX, bytes + 2 ** 16);
    for (let number = 0; number <= header.chunks; number++) {
      const name = sectionName(number, holdsPixels);
      const length = reader.length(name, limit);
      const check = reader.uint(checkSize(header, number), `${name}'s check`);
      const payload = reader.take(length, `${name}'s payload`);
      const found = holdsPixels ? crc32(payload, crc32(packHeader(header))) : check;
      if (found !== check)
        throw new FormatError(`${name}: check is ${hex(found)}, the file says ${hex(check)}`);
      file.sections.push({ check, payload });
    }
    if (flags & ALPHA) {
      file.alpha = checked(
        reader,
        "alpha",
        Math.min(SECTION_MAX, 2 * header.width * header.height + 2 ** 16),
      );
    }
    if (flags & METADATA) file.metadata = checked(reader, "metadata", METADATA_STORED_MAX);
  } catch (error) {
    if (!(error instanceof Ended)) throw error;
    if (partial) return file;
    throw new FormatError(
      `${error.message}; ${file.sections.length} of ${header.chunks + 1} sections are whole`,
    );
  }
  if (reader.at < data.length)
    throw new FormatError(`${data.length - reader.at} bytes follow the end of the file at byte ${reader.at}`);
  file.complete = true;
  return file;
}

/** The header of a file's beginning; null if more bytes are needed.  FormatError for a bad one. */
export function peek(data: Uint8Array): Header | null {
  try {
    return readHeader(new Reader(data)).header;
  } catch (error) {
    if (error instanceof Ended && data.length < HEADER_MAX) return null;
    throw error;
  }
}

function checked(reader: Reader, what: string, limit: number): Uint8Array {
  const length = reader.length(what, limit);
  const crc = reader.uint(4, `the CRC of ${what}`);
  const payload = reader.take(length, what);
  const found = crc32(payload);
  if (found !== crc) throw new FormatError(`${what}: CRC is ${hex(found)}, the file says ${hex(crc)}`);
  if (!length) throw new FormatError(`${what}: length 0; a file without ${what} has no such section`);
  return payload;
}

function readHeader(reader: Reader): { header: Header; flags: number } {
  const magic = String.fromCharCode(...reader.take(3, "the magic"));
  if (magic !== "SFU")
    throw new FormatError(`not a sfumato file: it starts with ${JSON.stringify(magic)}, not "SFU"`);
  const byte = reader.uint(1, "the version");
  const [version, flags] = [byte >> 4, byte & 15];
  if (OLD_VERSIONS[version]) {
    throw new FormatError(
      `version ${version}, written by sfumato ${OLD_VERSIONS[version]}, is not read any more; this reader knows ${VERSION}`,
    );
  }
  if (version !== VERSION)
    throw new FormatError(`version ${version} is unknown; this reader knows ${VERSION}`);
  const [width, height] = [reader.varint("the width"), reader.varint("the height")];
  const [q, chunks] = [reader.uint(1, "q"), reader.uint(1, "the number of chunks")];
  const model = hex(reader.uint(4, "the model id"));
  const seed = flags & SEED ? reader.uint(4, "the seed") : null;
  for (const [name, value, least, most] of [
    ["width", width, 1, SIDE_MAX],
    ["height", height, 1, SIDE_MAX],
    ["chunks", chunks, 0, CHUNKS_MAX],
  ] as const) {
    if (value < least || value > most)
      throw new FormatError(`header: ${name} is ${value}, not in ${least}..${most}`);
  }
  if (!chunks && (model !== "00000000" || seed !== null))
    throw new FormatError(
      `header: model ${model} and seed ${seed} of a file without a latent, not 00000000, null`,
    );
  if (width * height > PIXELS_MAX)
    throw new FormatError(`header: ${width} x ${height} pixels are more than ${PIXELS_MAX}`);
  return { header: { width, height, q, model, seed, grey: Boolean(flags & GREY), chunks }, flags };
}

/** The plain header: what checks and the seed are computed on. */
export function packHeader(header: Header, more = 0): Uint8Array {
  const flags = more | (header.seed === null ? 0 : SEED) | (header.grey ? GREY : 0);
  return Uint8Array.from([
    0x53,
    0x46,
    0x55,
    (VERSION << 4) | flags,
    ...varint(header.width),
    ...varint(header.height),
    header.q,
    header.chunks,
    ...uint(parseInt(header.model, 16), 4),
    ...(header.seed === null ? [] : uint(header.seed, 4)),
  ]);
}

export function noiseSeed(header: Header): number {
  return header.seed ?? crc32(packHeader(header));
}

export function pack(
  header: Header,
  sections: Section[],
  alpha: Uint8Array | null,
  metadata: Uint8Array | null,
): Uint8Array {
  const parts: ArrayLike<number>[] = [packHeader(header, (alpha ? ALPHA : 0) | (metadata ? METADATA : 0))];
  sections.forEach(({ payload, check }, number) => {
    parts.push(varint(payload.length), uint(check, checkSize(header, number)), payload);
  });
  for (const extra of [alpha, metadata])
    if (extra) parts.push(varint(extra.length), uint(crc32(extra), 4), extra);
  return concat(parts);
}

/** The section of an image in several tiles; of one tile, that tile. */
export function join(header: Header, number: number, tiles: Section[]): Section {
  if (tiles.length === 1) return tiles[0]!;
  const size = checkSize(header, number);
  const table = concat(tiles.flatMap(({ payload, check }) => [varint(payload.length), uint(check, size)]));
  return {
    check: crc32(table) % 2 ** (8 * size),
    payload: concat([table, ...tiles.map(({ payload }) => payload)]),
  };
}

export function splitTiles(header: Header, number: number, section: Section, count: number): Section[] {
  if (count === 1) return [section];
  const [name, size] = [sectionName(number), checkSize(header, number)];
  const reader = new Reader(section.payload);
  try {
    const table = Array.from(
      { length: count },
      (_, tile) =>
        [
          reader.length(`${name}, tile ${tile}`, SECTION_MAX),
          reader.uint(size, `${name}, tile ${tile}`),
        ] as const,
    );
    const found = crc32(section.payload.subarray(0, reader.at)) % 2 ** (8 * size);
    if (found !== section.check)
      throw new FormatError(`${name}: table's check is ${hex(found)}, the file says ${hex(section.check)}`);
    const tiles = table.map(([length, check], tile) => ({
      check,
      payload: reader.take(length, `${name}, tile ${tile}`),
    }));
    if (reader.at < section.payload.length)
      throw new FormatError(`${name}: ${section.payload.length - reader.at} bytes follow the last tile`);
    return tiles;
  } catch (error) {
    if (error instanceof Ended)
      throw new FormatError(`${name}: ${count} tiles do not fit into ${section.payload.length} bytes`);
    throw error;
  }
}

/** The entries of the metadata: tag -> bytes. */
export async function readMetadata(deflated: Uint8Array | null): Promise<Map<string, Uint8Array>> {
  const entries = new Map<string, Uint8Array>();
  if (!deflated) return entries;
  const payload = await inflate(deflated);
  const reader = new Reader(payload);
  while (reader.at < payload.length) {
    try {
      const tag = String.fromCharCode(...reader.take(4, "a tag"));
      if (!/^[ -~]{4}$/.test(tag) || entries.has(tag))
        throw new FormatError(`metadata: bad or repeated tag ${JSON.stringify(tag)}`);
      entries.set(tag, reader.take(reader.length(`entry ${tag}`, METADATA_MAX), `entry ${tag}`));
    } catch (error) {
      if (error instanceof Ended)
        throw new FormatError(`metadata: an entry passes the end at ${payload.length}`);
      throw error;
    }
  }
  return entries;
}

async function inflate(deflated: Uint8Array): Promise<Uint8Array> {
  const stream = new DecompressionStream("deflate-raw");
  const writer = stream.writable.getWriter();
  writer.write(deflated as BufferSource).catch(() => {});
  writer.close().catch(() => {});
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    const reader = stream.readable.getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      parts.push(next.value);
      size += next.value.length;
      if (size > METADATA_MAX) {
        await reader.cancel();
        throw new FormatError(`metadata: over ${METADATA_MAX} bytes when inflated`);
      }
    }
  } catch (error) {
    if (error instanceof FormatError) throw error;
    throw new FormatError(`metadata: cannot be inflated: ${error instanceof Error ? error.message : error}`);
  }
  if (!size)
    throw new FormatError(
      `metadata: ${deflated.length} bytes are not one whole stream of DEFLATE with entries`,
    );
  return concat(parts);
}

export async function packMetadata(entries: Map<string, Uint8Array>): Promise<Uint8Array | null> {
  if (!entries.size) return null;
  const parts: ArrayLike<number>[] = [];
  for (const [tag, value] of entries) parts.push(new TextEncoder().encode(tag), varint(value.length), value);
  const stream = new Blob([concat(parts) as BlobPart])
    .stream()
    .pipeThrough(new CompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function concat(parts: ArrayLike<number>[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function varint(value: number): number[] {
  const out = [];
  for (; value > 127; value = Math.floor(value / 128)) out.push((value & 127) | 128);
  return [...out, value];
}

function uint(value: number, size: number): number[] {
  return Array.from({ length: size }, (_, i) => Math.floor(value / 256 ** i) & 255);
}

export function hex(value: number): string {
  return value.toString(16).padStart(8, "0");
}

const TABLE = Uint32Array.from({ length: 256 }, (_, i) => {
  for (let bit = 0; bit < 8; bit++) i = i & 1 ? 0xedb88320 ^ (i >>> 1) : i >>> 1;
  return i;
});

/** zlib's CRC-32, continued from `crc`; u32. */
export function crc32(data: Uint8Array, crc = 0): number {
  crc = ~crc;
  for (const byte of data) crc = TABLE[(crc ^ byte) & 255]! ^ (crc >>> 8);
  return ~crc >>> 0;
}
