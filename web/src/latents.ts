// Latents in, the range-coded sections of a file out; and back.  Large images are coded tile by tile.
import {
  cells,
  checkSize,
  crc32,
  hex,
  join,
  packHeader,
  sectionName,
  splitTiles,
  type Header,
  type Section,
} from "./container.js";
import type { Engine } from "./engine.js";
import type { EntropyModel, SymbolCoder } from "./entropy.js";
import { FormatError } from "./errors.js";
import type { Map64 } from "./exact.js";
import type { Map32 } from "./graph.js";
import { RangeCoder } from "./range-coder.js";
import type { NamedArray } from "./weights.js";

export const RATIO = 4; // cells of y for one of z, a side
const WHOLE = 2 ** 22; // pixels, padding included, up to which an image is one tile
const SIDE = 16; // cells of z a side of a tile otherwise
const LEVELS = 64;
const FAULTS = ["", "payload holds a point that belongs to no symbol", "a symbol is beyond 1048576"];

interface Rectangle {
  top: number;
  left: number;
  height: number;
  width: number;
}

interface Tile extends Rectangle {
  number: number;
}

export function tilesOf(header: Header): Tile[] {
  const [rows, columns] = [cells(header.height), cells(header.width)];
  if (rows * columns * 4096 <= WHOLE) return [{ number: 0, top: 0, left: 0, height: rows, width: columns }];
  const tiles: Tile[] = [];
  for (let top = 0; top < rows; top += SIDE) {
    for (let left = 0; left < columns; left += SIDE) {
      tiles.push({
        number: tiles.length,
        top,
        left,
        height: Math.min(SIDE, rows - top),
        width: Math.min(SIDE, columns - left),
      });
    }
  }
  return tiles;
}

/** Where four tiles meet: cells of z to look at, and the cells of y in them that may change. */
function cornersOf(
  tiles: Tile[],
  places: Map<string, Tile>,
  context: number,
  rim: number,
): { place: Tile; inner: Rectangle }[] {
  return tiles.flatMap((tile) => {
    const [row, column] = [tile.top + tile.height, tile.left + tile.width];
    const after = places.get(`${row},${column}`);
    if (!after || !places.has(`${tile.top},${column}`) || !places.has(`${row},${tile.left}`)) return [];
    const [above, below, before, behind] = [tile.height, after.height, tile.width, after.width].map((side) =>
      Math.min(context, side),
    ) as [number, number, number, number];
    const place = {
      number: 0,
      top: row - above,
      left: column - before,
      height: above + below,
      width: before + behind,
    };
    const near = (cells: number): number => Math.min(rim, cells * RATIO);
    const inner = {
      top: row * RATIO - near(above),
      left: column * RATIO - near(before),
      height: near(above) + near(below),
      width: near(before) + near(behind),
    };
    return [{ place, inner }];
  });
}

export class LatentCoder {
  private readonly tables: number;

  constructor(
    private readonly engine: Engine,
    private readonly model: EntropyModel,
    counts: NamedArray,
    widths: NamedArray,
  ) {
    const entries = new Uint32Array(2 * LEVELS);
    let from = 0;
    for (let level = 0; level < LEVELS; level++) {
      const width = widths.values[level]!;
      const sums = new Uint32Array(2 * width + 3);
      for (let i = 0; i < 2 * width + 2; i++) sums[i + 1] = sums[i]! + counts.values[from + i]!;
      if (sums.at(-1) !== 2 ** 24) throw new Error(`counts of level ${level} add up to ${sums.at(-1)}`);
      entries[2 * level] = engine.put(sums);
      entries[2 * level + 1] = width;
      from += 2 * width + 2;
    }
    this.tables = engine.put(entries);
  }

  /** y_hat [h, w, M], float32, in the domain of the gains; what is missing takes its expected value. */
  read(header: Header, sections: Section[], progress: (part: number) => void = () => {}): Map32 {
    const { engine, model } = this;
    const [rows, columns] = [cells(header.height), cells(header.width)];
    const tiles = tilesOf(header);
    const pieces = sections.map((section, number) => splitTiles(header, number, section, tiles.length));
    const y: Map32 = this.map32(RATIO * rows, RATIO * columns, model.channels);
    const z: Map64 = this.map64(rows, columns, model.zChannels);
    const q = header.q / 255;
    for (const tile of tiles) {
      engine.scope(() => {
        const mine = pieces.map((piece) => piece[tile.number]!);
        const coders = mine.map(({ payload }) => new RangeCoder(engine, payload));
        const done = (section: number, crc: number): void => {
          const found = crc % 2 ** (8 * checkSize(header, section));
          const { check } = mine[section]!;
          const name = sectionName(section);
          if (found !== check)
            throw new FormatError(`${name}: check is ${hex(found)}, the file says ${hex(check)}`);
          coders[section]!.verify(name);
          progress((tile.number + (section + 1) / sections.length) / tiles.length);
        };
        const code = this.coder(header, tiles.length > 1 ? tile.number : null, coders, done);
        const found = model.pass(code, q, tile.height, tile.width, null, null, sections.length - 1);
        this.place(found.y, y, tile, RATIO);
        this.place64(found.z, z, tile);
      });
    }
    if (tiles.length > 1) this.smooth(q, y, z, tiles, sections.length - 1);
    engine.release(z.at);
    return y;
  }

  /** All sections of a file. y [h, w, M] and z [h / 4, w / 4, N] are float32, in the domain of the gains. */
  write(header: Header, y: Map32, z: Map32, progress: (part: number) => void = () => {}): Section[] {
    const { engine, model } = this;
    const tiles = tilesOf(header);
    const pieces: Section[][] = Array.from({ length: header.chunks + 1 }, () => []);
    for (const tile of tiles) {
      engine.scope(() => {
        const coders = pieces.map(() => new RangeCoder(engine, null));
        const done = (section: number, crc: number): void => {
          const check = crc % 2 ** (8 * checkSize(header, section));
          pieces[section]!.push({ check, payload: coders[section]!.finish() });
          progress((tile.number + (section + 1) / pieces.length) / tiles.length);
        };
        const code = this.coder(header, tiles.length > 1 ? tile.number : null, coders, done);
        const part = (x: Map32, scale: number) =>
          this.cut(x, tile.top * scale, tile.left * scale, tile.height * scale, tile.width * scale);
        model.pass(code, header.q / 255, tile.height, tile.width, part(z, 1), part(y, RATIO));
      });
    }
    return pieces.map((parts, number) => join(header, number, parts));
  }

  private coder(
    header: Header,
    tile: number | null,
    coders: RangeCoder[],
    done: (section: number, crc: number) => void,
  ): SymbolCoder {
    const { engine } = this;
    const start = [...packHeader(header), ...(tile === null ? [] : [tile & 255, tile >> 8])];
    const crc = engine.put(Uint32Array.of(crc32(Uint8Array.from(start))));
    return (section, last, parameters, values) => {
      const count = parameters.height * parameters.width;
      const channels = parameters.channels / 2;
      const coder = coders[section]!;
      coder.reserve(count * channels + 1);
      const hat = engine.alloc(count * channels * 8);
      const scratch = engine.alloc(13 * (count * channels + 1));
      const fault = engine.call.codePass!(
        coder.state,
        parameters.at,
        count,
        channels,
        values,
        hat,
        this.tables,
        scratch,
        crc,
      );
      engine.release(scratch);
      if (fault) throw new FormatError(`${sectionName(section)}: ${FAULTS[fault]}`);
      if (last) done(section, engine.u32(crc, 1)[0]!);
      return hat;
    };
  }

  /** Mends y along the borders of tiles; it changes no symbol (FORMAT.md, section 6). */
  private smooth(q: number, y: Map32, z: Map64, tiles: Tile[], chunks: number): void {
    const [context, rim] = [2, 4]; // cells of z looked at, and of y that may change, on each side
    const places = new Map(tiles.map((tile) => [`${tile.top},${tile.left}`, tile]));
    const corners = cornersOf(tiles, places, context, rim).map((corner) => ({
      ...corner,
      coded: this.values(y, corner.inner),
    }));
    for (const across of [true, false]) {
      for (const tile of tiles) {
        const border = across ? tile.left + tile.width : tile.top + tile.height;
        const other = places.get(across ? `${tile.top},${border}` : `${border},${tile.left}`);
        if (!other) continue;
        const sizes = [tile, other].map((t) => Math.min(context, across ? t.width : t.height)) as [
          number,
          number,
        ];
        const from = border - sizes[0];
        const size = sizes[0] + sizes[1];
        const place = across
          ? { number: 0, top: tile.top, left: from, height: tile.height, width: size }
          : { number: 0, top: from, left: tile.left, height: size, width: tile.width };
        this.engine.scope(() => {
          const found = this.asOne(q, y, z, place, chunks);
          const before = sizes[0] * RATIO;
          const near = Math.min(rim, before, sizes[1] * RATIO);
          this.placeRim(found, y, place, across, before - near, 2 * near);
        });
      }
    }
    for (const { place, inner, coded } of corners) {
      this.engine.scope(() => {
        const found = this.asOne(q, y, z, place, chunks);
        const mended = this.engine.f64(found.at, found.height * found.width * found.channels);
        this.eachCell(y, inner, (at, row, column, index) => {
          const from =
            ((row - place.top * RATIO) * found.width + column - place.left * RATIO) * found.channels;
          for (let c = 0; c < y.channels; c++) {
            const was = coded[index * y.channels + c]!;
            at[c] = Math.max(was - 0.5, Math.min(was + 0.5, mended[from + c]!));
          }
        });
      });
    }
  }

  /** Calls for every cell of a rectangle with its values, its row and column, and its number. */
  private eachCell(
    y: Map32,
    { top, left, height, width }: Rectangle,
    call: (at: Float32Array, row: number, column: number, index: number) => void,
  ): void {
    for (let i = 0; i < height * width; i++) {
      const [row, column] = [top + Math.floor(i / width), left + (i % width)];
      call(this.engine.f32(y.at + (row * y.width + column) * y.channels * 4, y.channels), row, column, i);
    }
  }

  private values(y: Map32, place: Rectangle): Float32Array {
    const out = new Float32Array(place.height * place.width * y.channels);
    this.eachCell(y, place, (at, _row, _column, index) => out.set(at, index * y.channels));
    return out;
  }

  private asOne(q: number, y: Map32, z: Map64, place: Tile, chunks: number): Map64 {
    const { engine, model } = this;
    const values = this.cut(
      y,
      place.top * RATIO,
      place.left * RATIO,
      place.height * RATIO,
      place.width * RATIO,
    );
    const zValues = this.map64(place.height, place.width, z.channels);
    const from = z.at + (place.top * z.width + place.left) * z.channels * 8;
    engine.call.copyRows!(
      from,
      z.width * z.channels * 8,
      place.height,
      place.width * z.channels * 8,
      zValues.at,
      place.width * z.channels * 8,
    );
    const code: SymbolCoder = (section, _last, parameters, given) => {
      const count = parameters.height * parameters.width;
      const channels = parameters.channels / 2;
      const out = engine.alloc(count * channels * 8);
      if (section) engine.call.mend!(parameters.at, count, channels, given, out);
      else engine.call.copyRows!(given, 8, count * channels, 8, out, 8);
      return out;
    };
    return model.pass(code, q, place.height, place.width, zValues, values, chunks).y;
  }

  private placeRim(found: Map64, y: Map32, place: Tile, across: boolean, first: number, count: number): void {
    const { engine } = this;
    const floats = engine.alloc(found.height * found.width * found.channels * 4);
    engine.call.toFloat!(found.at, found.height * found.width * found.channels, floats);
    const cell = y.channels * 4;
    const [row, column] = across ? [0, first] : [first, 0];
    const [rows, columns] = across ? [found.height, count] : [count, found.width];
    const to = y.at + ((place.top * RATIO + row) * y.width + place.left * RATIO + column) * cell;
    engine.call.copyRows!(
      floats + (row * found.width + column) * cell,
      found.width * cell,
      rows,
      columns * cell,
      to,
      y.width * cell,
    );
  }

  private map32(height: number, width: number, channels: number): Map32 {
    return { at: this.engine.alloc(height * width * channels * 4), height, width, channels };
  }

  private map64(height: number, width: number, channels: number): Map64 {
    return { at: this.engine.alloc(height * width * channels * 8), height, width, channels };
  }

  /** A part of a float32 map, in float64. */
  private cut(x: Map32, top: number, left: number, height: number, width: number): Map64 {
    const { engine } = this;
    const part = engine.alloc(height * width * x.channels * 4);
    const line = width * x.channels * 4;
    engine.call.copyRows!(
      x.at + (top * x.width + left) * x.channels * 4,
      x.width * x.channels * 4,
      height,
      line,
      part,
      line,
    );
    const out = this.map64(height, width, x.channels);
    engine.call.toDouble!(part, height * width * x.channels, out.at);
    engine.release(part);
    return out;
  }

  private place(from: Map64, to: Map32, tile: Tile, scale: number): void {
    const { engine } = this;
    const floats = engine.alloc(from.height * from.width * from.channels * 4);
    engine.call.toFloat!(from.at, from.height * from.width * from.channels, floats);
    const line = from.width * from.channels * 4;
    const at = to.at + (tile.top * scale * to.width + tile.left * scale) * to.channels * 4;
    engine.call.copyRows!(floats, line, from.height, line, at, to.width * to.channels * 4);
    engine.release(floats);
  }

  private place64(from: Map64, to: Map64, tile: Tile): void {
    const line = from.width * from.channels * 8;
    const at = to.at + (tile.top * to.width + tile.left) * to.channels * 8;
    this.engine.call.copyRows!(from.at, line, from.height, line, at, to.width * to.channels * 8);
  }
}
