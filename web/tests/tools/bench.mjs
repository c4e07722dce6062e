// npm run bench -- [IMAGE.png] [-o FILE.csv]: time, transfer and memory of the decoder in Node and in browsers.
//
// The image is mirrored or cut to 768x512; without one it is the example of the repository.  Python decodes the
// same file before and after each engine, with one thread; PYTHON names its interpreter.  Every time is the least
// of several, with Python's own beside it.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { found, launch } from "./browsers.mjs";
import { dist, library, open, root } from "./node.mjs";
import { serve } from "./serve.mjs";

const [WIDTH, HEIGHT] = [768, 512];
const REPEATS = 4;
const given = process.argv.slice(2);
const out = given.includes("-o")
  ? given.splice(given.indexOf("-o"), 2)[1]
  : path.join(root, "results", "0.2.0", "web.csv");
const source = given[0] ?? path.join(root, "examples", "chelsea.png");
const python = process.env.PYTHON ?? "python3";
const engines = (process.env.SFUMATO_BROWSERS ?? "chromium,firefox").split(",");
const rows = ["engine,measure,value,unit,python_seconds,ratio"];

function row(engine, measure, value, unit, reference = null) {
  const ratio = reference === null ? "," : `${reference.toFixed(3)},${(value / reference).toFixed(2)}`;
  rows.push(`${engine},${measure},${value.toFixed(3)},${unit},${ratio}`);
  console.log(rows.at(-1));
}

/** The left upper part of an image, mirrored at its borders where it is too small. */
function fitted({ width, height, pixels }, columns, lines, left = 0, top = 0) {
  const fold = (i, side) => (Math.floor(i / side) % 2 ? side - 1 - (i % side) : i % side);
  return Uint8Array.from({ length: columns * lines * 3 }, (_, i) => {
    const cell = Math.floor(i / 3);
    return pixels[
      (fold(top + Math.floor(cell / columns), height) * width + fold(left + (cell % columns), width)) * 3 +
        (i % 3)
    ];
  });
}

const SCRIPT = `
import sys, time, sfumato
data = open(sys.argv[1], "rb").read()
codec = sfumato.load(threads=1)
best = 1e9
for _ in range(${REPEATS}):
    begun = time.perf_counter()
    codec.decode(data)
    best = min(best, time.perf_counter() - begun)
print(best)
`;
const pythonSeconds = (file) =>
  Number(
    execFileSync(python, ["-c", SCRIPT, file], {
      env: { ...process.env, OMP_NUM_THREADS: "1", PYTHONPATH: root },
    }),
  );

const scratch = mkdtempSync(path.join(tmpdir(), "sfumato-"));
try {
  const { codec, engine } = await open(undefined, true);
  const image = await library.readPng(readFileSync(source));
  const file = path.join(scratch, "photo.sfu");
  writeFileSync(file, codec.encode(codec.analyse(fitted(image, WIDTH, HEIGHT), WIDTH, HEIGHT), 51));
  for (let i = 0; i < 10; i++) {
    const crop = fitted(image, 192, 128, 37 * i, 23 * i);
    writeFileSync(path.join(scratch, `${i}.sfu`), codec.encode(codec.analyse(crop, 192, 128), 76));
  }
  const images = Array.from({ length: 10 }, (_, i) => `<img src="/files/${i}.sfu" alt="">`).join("");
  writeFileSync(
    path.join(scratch, "ten.html"),
    `<!doctype html><meta charset="utf-8"><title>Ten</title><script src="/dist/sfumato.js"></script>${images}`,
  );

  const before = pythonSeconds(file);
  let [least, cpu] = [Infinity, Infinity];
  for (let i = 0; i <= REPEATS; i++) {
    const [start, used] = [performance.now(), process.cpuUsage()];
    codec.decode(readFileSync(file));
    const { user, system } = process.cpuUsage(used);
    [least, cpu] = [
      Math.min(least, (performance.now() - start) / 1000),
      Math.min(cpu, (user + system) / 1e6),
    ];
  }
  row("node", `decode ${WIDTH}x${HEIGHT}`, least, "s", Math.min(before, pythonSeconds(file)));
  row("node", `decode ${WIDTH}x${HEIGHT}: processor time`, cpu, "s");
  row("node", `memory of the kernels after ${WIDTH}x${HEIGHT}`, engine.bytes / 1e6, "MB");
  row("all", "kernels", readFileSync(path.join(dist, "kernels.wasm")).length / 1e6, "MB");
  row("all", "kernels gzipped", gzipSync(readFileSync(path.join(dist, "kernels.wasm"))).length / 1e6, "MB");

  for (const name of engines.filter(found)) {
    const started = await launch(name);
    const server = await serve({ "/": dist, "/dist/": dist, "/files/": scratch });
    const sum = () => server.requests.splice(0).reduce((total, { bytes }) => total + bytes, 0) / 1e6;
    const visit = async (address) => {
      const page = await started.browser.newPage();
      page.setDefaultTimeout(600_000);
      await page.goto(server.origin + address);
      return page;
    };
    try {
      // images by the polyfill, in a profile that has seen nothing yet
      for (const visitNumber of ["first", "later"]) {
        const start = performance.now();
        const page = await visit("/files/ten.html");
        await page.waitForFunction(
          () =>
            [...document.images].every(
              (image) => image.naturalWidth === 192 && !image.hasAttribute("aria-busy"),
            ),
          { timeout: 600_000, polling: 50 },
        );
        row(name, `ten images of 192x128, ${visitNumber} visit`, (performance.now() - start) / 1000, "s");
        row(name, `ten images of 192x128, ${visitNumber} visit: transfer`, sum(), "MB");
        await page.close();
      }
      // the page, on another origin so that nothing is kept from above
      const other = await serve({ "/": dist, "/files/": scratch });
      const total = () => other.requests.splice(0).reduce((bytes, request) => bytes + request.bytes, 0) / 1e6;
      const page = await started.browser.newPage();
      page.setDefaultTimeout(600_000);
      await page.goto(`${other.origin}/`);
      await page.waitForFunction(() => document.getElementById("offline").textContent, { timeout: 600_000 });
      row(name, "page, first visit, all of it kept for later: transfer", total(), "MB");
      const earlier = pythonSeconds(file);
      let best = Infinity;
      for (let i = 0; i <= REPEATS; i++) {
        await page.goto(`${other.origin}/?src=files/photo.sfu&visit=${i}`);
        await page.waitForFunction(() => document.getElementById("status").textContent.includes("is shown"), {
          timeout: 600_000,
        });
        const handle = await page.$("#file");
        await handle.uploadFile(file); // once more, in a worker that is warm
        await page.waitForFunction(
          () => document.getElementById("status").textContent.startsWith("photo.sfu is shown"),
          { timeout: 600_000 },
        );
        best = Math.min(
          best,
          Number(/([\d.]+) s$/.exec(await page.$eval("#facts", (facts) => facts.textContent))[1]),
        );
      }
      row(name, `decode ${WIDTH}x${HEIGHT}`, best, "s", Math.min(earlier, pythonSeconds(file)));
      total();
      await page.goto(`${other.origin}/?later`);
      await page.waitForFunction(() => document.getElementById("offline").textContent, { timeout: 600_000 });
      row(name, "page, later visit: transfer", total(), "MB");
      await other.close();
    } finally {
      await server.close();
      await started.close();
    }
  }
  writeFileSync(out, `${rows.join("\n")}\n`);
  console.log(`${out}: written`);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
