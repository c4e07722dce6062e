// The library in Node: the same symbols and images as Python, bad files refused, files written and read back.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { before, test } from "node:test";
import { convert } from "../scripts/weights.mjs";
import { goldenChecks, largestDifference, library, open, reference, root } from "./tools/node.mjs";

const { complete, completeLossless, FormatError, hex, readPng, unpack, writePng } = library;
const golden = (name) => readFileSync(path.join(root, "tests", "golden", `${name}.sfu`));
let codec;
let engine;
before(async () => ({ codec, engine } = await open(undefined, true)));

for (const [name, crc] of Object.entries(goldenChecks())) {
  test(`golden file ${name} decodes to its symbols, and to Python's image`, (t) => {
    const decoded = codec.decode(golden(name), { fingerprint: true });
    assert.equal(hex(decoded.latent), crc);
    const expected = reference(name);
    if (!expected) return t.diagnostic("the image was not compared: SFUMATO_REFERENCE names no folder");
    assert.ok(largestDifference(decoded.pixels, expected) <= 1);
  });
}

test("files of the toy weights, a second preset, decode to their symbols", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "sfumato-"));
  try {
    convert([path.join(root, "fuzz", "toy.safetensors")], folder);
    const toy = await open(folder);
    const lines = readFileSync(path.join(root, "fuzz", "corpus", "latents.txt"), "utf8")
      .trim()
      .split("\n");
    for (const [name, crc] of lines.map((line) => line.split(" "))) {
      const decoded = toy.codec.decode(readFileSync(path.join(root, "fuzz", "corpus", `${name}.sfu`)), {
        fingerprint: true,
      });
      assert.equal(hex(decoded.latent), crc.padStart(8, "0"), name);
    }
    const flat = readFileSync(path.join(root, "fuzz", "corpus", "flat.sfu"));
    const cut = toy.codec.decode(flat.subarray(0, -1), { partial: true });
    assert.equal(cut.sections, 6);
    assert.deepEqual((await complete(cut)).warnings, ["cut short: 6 of 6 sections are shown"], "no metadata");
    assert.deepEqual((await complete(toy.codec.decode(flat))).warnings, []);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("every prefix is an error or a preview, and every flipped bit an error", () => {
  const whole = golden("low");
  for (let size = 0; size < whole.length; size++) {
    const cut = whole.subarray(0, size);
    assert.throws(() => codec.decode(cut), FormatError);
    if (size % 48) continue;
    try {
      assert.ok(codec.decode(cut, { partial: true }).sections < 6);
    } catch (error) {
      assert.ok(error instanceof FormatError, error);
    }
  }
  for (let bit = 0; bit < 8 * whole.length; bit += 97) {
    const bad = Uint8Array.from(whole);
    bad[bit >> 3] ^= 1 << (bit & 7);
    assert.throws(() => codec.decode(bad), FormatError);
  }
});

test("memory is given back after errors and after work", () => {
  codec.decode(golden("low"));
  const before = engine.bytes;
  for (let i = 0; i < 5; i++) {
    assert.throws(() => codec.decode(golden("x_symbols")), FormatError);
    codec.decode(golden("low"));
  }
  assert.equal(engine.bytes, before);
});

test("a file of more pixels than are allowed is refused before anything is allocated", () => {
  const id = golden("low").subarray(9, 13);
  const huge = Uint8Array.from([
    0x53, 0x46, 0x55, 0x30, 0xff, 0xff, 3, 0x80, 0x10, 100, 5, ...id, 0, 0, 0,
  ]);
  const before = engine.bytes;
  assert.throws(
    () => codec.decode(huge, { partial: true }),
    /65535x2048 pixels, 134217728 when padded, are more than 89478485/,
  );
  assert.equal(engine.bytes, before);
});

test(
  "an image in several tiles decodes to Python's",
  { skip: !reference("tiles") && "SFUMATO_REFERENCE names no folder" },
  () => {
    const file = readFileSync(path.join(process.env.SFUMATO_REFERENCE, "tiles.sfu"));
    const decoded = codec.decode(file, { steps: 0 });
    assert.ok(largestDifference(decoded.pixels, reference("tiles")) <= 1);
  },
);

test("what is encoded here is decoded here, and close to what was encoded", async () => {
  const { width, height, pixels } = await readPng(readFileSync(path.join(root, "examples", "chelsea.png")));
  const analysis = codec.analyse(pixels, width, height);
  const sizes = [40, 160].map((q) => {
    const file = codec.encode(analysis, q);
    const decoded = codec.decode(file, { steps: 0 });
    const error = pixels.reduce((sum, value, i) => sum + (value - decoded.pixels[i]) ** 2, 0) / pixels.length;
    assert.ok(10 * Math.log10(255 ** 2 / error) > (q > 100 ? 30 : 26));
    return file.length;
  });
  assert.ok(sizes[0] < sizes[1]);
});

test("an image in a PNG comes back from it, with alpha and without", async () => {
  const [width, height] = [9, 7];
  for (const channels of [1, 3]) {
    for (const alpha of [null, Uint8Array.from({ length: 63 }, (_, i) => 3 * i)]) {
      const pixels = Uint8Array.from({ length: width * height * channels }, (_, i) => (i * 37) & 255);
      const image = { width, height, channels, pixels, alpha };
      assert.deepEqual(await readPng(await writePng(image)), image);
    }
  }
});

test("alpha of another size, and metadata that is no DEFLATE, are refused", async () => {
  const decoded = codec.decode(golden("pixel"));
  const png = await writePng({ width: 2, height: 1, channels: 1, pixels: new Uint8Array(2), alpha: null });
  await assert.rejects(complete({ ...decoded, file: { ...decoded.file, alpha: png } }), FormatError);
  await assert.rejects(
    complete({ ...decoded, file: { ...decoded.file, alpha: Uint8Array.of(1, 2, 3) } }),
    FormatError,
  );
  await assert.rejects(
    complete({ ...decoded, file: { ...decoded.file, metadata: Uint8Array.of(255, 2, 3) } }),
    FormatError,
  );
});

test("the lossless file of FORMAT.md is read without weights, and a changed one refused", async () => {
  const text = readFileSync(path.join(root, "FORMAT.md"), "utf8");
  const [, first, rest] =
    /^    lossless ((?:[0-9a-f]{2} ?)+)\n((?:             (?:[0-9a-f]{2} ?)+\n?)+)/m.exec(text);
  const data = Uint8Array.from(`${first} ${rest}`.trim().split(/\s+/), (byte) => parseInt(byte, 16));
  const image = await completeLossless(unpack(data), 4096);
  assert.deepEqual([...image.pixels], [255, 0, 0, 0, 0, 255]);
  await assert.rejects(completeLossless(unpack(data), 4095), FormatError);
  for (let i = 0; i < data.length; i++) {
    const bad = Uint8Array.from(data);
    bad[i] ^= 1;
    assert.throws(() => codec.decode(bad), FormatError);
  }
});

test("the header and sections of a file are read without weights", () => {
  const { header, sections, complete: whole } = unpack(golden("high"));
  assert.deepEqual(
    [header.width, header.height, header.q, header.seed, sections.length, whole],
    [64, 64, 255, 7, 6, true],
  );
});
