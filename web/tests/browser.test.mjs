// The library, the page, the polyfill and the service worker in real browsers without windows.
// SFUMATO_BROWSERS names those to use (chromium, firefox; both that are there otherwise); SFUMATO_SHOTS a folder
// for screenshots; with SFUMATO_SLOW also what takes longest runs.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { found, launch } from "./tools/browsers.mjs";
import { dist, goldenChecks, largestDifference, library, open, reference, root, web } from "./tools/node.mjs";
import { serve } from "./tools/serve.mjs";

const asked = process.env.SFUMATO_BROWSERS?.split(",") ?? ["chromium", "firefox"];
const shots = process.env.SFUMATO_SHOTS;
const SLOW = { skip: process.env.SFUMATO_SLOW ? false : "SFUMATO_SLOW is not set" };
const WAIT = { timeout: Number(process.env.SFUMATO_WAIT ?? 120) * 1000, polling: 100 };
const golden = path.join(root, "tests", "golden");
const folders = { "/dist/": dist, "/golden/": golden, "/pages/": path.join(web, "tests", "pages") };
// For pages and scripts alike: a worker has the policy of its own answer.
const STRICT =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self' blob:; worker-src 'self'";

for (const name of asked) {
  describe(name, { skip: found(name) ? false : `${name} is not installed` }, () => suite(name));
}

function suite(name) {
  let started;
  let server;
  let scratch;
  let codec;
  before(async () => {
    ({ codec } = await open());
    scratch = mkdtempSync(path.join(tmpdir(), "sfumato-"));
    started = await launch(name);
    server = await serve(folders);
  });
  after(async () => {
    await started?.close();
    await server?.close();
    rmSync(scratch, { recursive: true, force: true });
  });

  async function visit(address, origin = server.origin) {
    const page = await started.browser.newPage();
    page.setDefaultTimeout(WAIT.timeout);
    page.messages = [];
    page.on("console", (message) => page.messages.push(message.text()));
    page.on("pageerror", (error) => page.messages.push(`error: ${error.message}`));
    await page.setViewport({ width: 1100, height: 900 });
    await page.goto(origin + address);
    return page;
  }
  async function shot(page, title) {
    if (!shots) return;
    mkdirSync(shots, { recursive: true });
    await page.screenshot({ path: path.join(shots, `${name}-${title}.png`), fullPage: title !== "compare" });
  }
  async function choose(page, input, file) {
    const handle = await page.$(input);
    await handle.uploadFile(file);
    await handle.dispose();
  }
  const text = (page, selector) => page.$eval(selector, (element) => element.textContent);
  async function bytesOf(page, selector) {
    const encoded = await page.$eval(selector, async (link) => {
      const data = new Uint8Array(await (await fetch(link.href ?? link.src)).arrayBuffer());
      return btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
    });
    return new Uint8Array(Buffer.from(encoded, "base64"));
  }

  test("golden files decode to their symbols and to Python's images", async (t) => {
    const page = await visit("/pages/plain.html");
    const results = await page.evaluate(async (names) => {
      const { Codec, Engine, readWeights } = await import("/dist/index.js");
      const load = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());
      const [entry] = Object.values(await (await fetch("/dist/weights/models.json")).json());
      const codec = new Codec(
        await Engine.start(await load("/dist/kernels.wasm")),
        await readWeights(await load(`/dist/weights/${entry.decode.file}`)),
      );
      const found = {};
      for (const file of names) {
        const { latent, pixels } = codec.decode(await load(`/golden/${file}.sfu`), { fingerprint: true });
        found[file] = { latent: latent.toString(16).padStart(8, "0"), pixels: Array.from(pixels) };
      }
      return found;
    }, Object.keys(goldenChecks()));
    for (const [file, crc] of Object.entries(goldenChecks())) {
      assert.equal(results[file].latent, crc, file);
      const expected = reference(file);
      const most = expected && largestDifference(results[file].pixels, expected);
      t.diagnostic(
        `${file}: CRC of symbols ${crc}, ${expected ? `largest difference ${most}` : "image not compared"}`,
      );
      if (expected) assert.ok(most <= 1, `${file} differs by ${most}`);
    }
    await page.close();
  });

  test("the page shows a file, its facts, and saves it as PNG", async () => {
    const page = await visit("/dist/");
    await choose(page, "#file", path.join(dist, "sample.sfu"));
    await page.waitForFunction(
      () => document.getElementById("status").textContent.includes("is shown"),
      WAIT,
    );
    await page.waitForFunction(
      () =>
        document.getElementById("image").complete && document.getElementById("image").naturalWidth === 451,
      WAIT,
    );
    assert.match(await text(page, "#facts"), /451 × 300 pixels/);
    const image = await library.readPng(await bytesOf(page, "#save-png"));
    const expected = codec.decode(new Uint8Array(readFileSync(path.join(dist, "sample.sfu"))));
    assert.ok(largestDifference(image.pixels, expected.pixels) <= 1);
    assert.equal(await page.$eval("#save-png", (link) => link.download), "sample.png");
    assert.deepEqual(page.messages, []);
    await shot(page, "decode");
    await page.close();
  });

  test("a preview grows while bytes arrive", SLOW, async () => {
    const page = await visit("/dist/?src=/slow/dist/sample.sfu");
    await page.waitForFunction(
      () => document.getElementById("caption").textContent.startsWith("Preview"),
      WAIT,
    );
    assert.equal(await page.$eval("#save-png", (link) => link.hasAttribute("href")), false);
    await page.waitForFunction(
      () => document.getElementById("status").textContent.includes("is shown"),
      WAIT,
    );
    await page.close();
  });

  test("a large image is decoded by several workers, and comes out the same", SLOW, async () => {
    const [width, height] = [512, 2050];
    const rgb = Uint8Array.from(
      { length: width * height * 3 },
      (_, i) => 128 + 90 * Math.sin(i / 9001) + 30 * Math.cos((i % (3 * width)) / 40),
    );
    const encoder = await open(undefined, true);
    const data = encoder.codec.encode(encoder.codec.analyse(rgb, width, height), 60);
    const file = path.join(scratch, "large.sfu");
    writeFileSync(file, data);
    const page = await visit("/dist/?threads=2");
    await page.evaluate(() => {
      window.asked = [];
      const post = Worker.prototype.postMessage;
      Worker.prototype.postMessage = function (message, ...more) {
        window.asked.push(message.request.kind);
        return post.call(this, message, ...more);
      };
    });
    await choose(page, "#file", file);
    await page.waitForFunction(
      () => document.getElementById("status").textContent.includes("is shown"),
      WAIT,
    );
    const image = await library.readPng(await bytesOf(page, "#save-png"));
    assert.ok(largestDifference(image.pixels, codec.decode(data).pixels) <= 1);
    const asked = await page.evaluate(() => window.asked);
    assert.deepEqual(asked.slice(-4), ["prepare", "strip", "strip", "finish"]);
    await page.close();
  });

  test("the page encodes a photograph by quality and to a size, and compares", async () => {
    const page = await visit("/dist/");
    await choose(page, "#file", path.join(root, "examples", "chelsea.png"));
    await page.waitForSelector("#encode:not([hidden])");
    await page.click("#encode button[type=submit]");
    await page.waitForFunction(
      () => /chelsea\.sfu has/.test(document.getElementById("status").textContent),
      WAIT,
    );
    const byQuality = await bytesOf(page, "#save-sfu");
    assert.equal(codec.decode(byQuality).width, 451);

    await page.$eval("#size", (input) => {
      input.value = "1500";
      input.dispatchEvent(new Event("input"));
    });
    await page.click("#encode button[type=submit]");
    await page.waitForFunction(
      () => /and \d tries/.test(document.getElementById("status").textContent),
      WAIT,
    );
    const bySize = await bytesOf(page, "#save-sfu");
    assert.ok(bySize.length <= 1500 && bySize.length > 1400, `${bySize.length} bytes`);
    await shot(page, "encode");

    await page.click("#compare-original");
    await page.waitForFunction(
      () =>
        [...document.querySelectorAll(".layer img")].filter((image) => image.naturalWidth === 451).length ===
        2,
      WAIT,
    );
    const place = () => page.$eval(".divider", (divider) => Number(divider.getAttribute("aria-valuenow")));
    const start = await place();
    await page.focus(".divider");
    await page.keyboard.press("ArrowRight");
    assert.ok((await place()) > start);
    assert.deepEqual(page.messages, []);
    await page.$eval("#comparison", (section) => section.scrollIntoView());
    await shot(page, "compare");
    await page.close();
  });

  test("alpha survives the page's encoder and decoder", SLOW, async () => {
    const [width, height] = [70, 40];
    const pixels = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i / 40) & 255);
    const alpha = Uint8Array.from({ length: width * height }, (_, i) =>
      i % width < 20 ? 0 : (i * 3) & 255 || 1,
    );
    const file = path.join(scratch, "veil.png");
    writeFileSync(file, await library.writePng({ width, height, channels: 3, pixels, alpha }));
    const page = await visit("/dist/");
    await choose(page, "#file", file);
    await page.waitForSelector("#encode:not([hidden])");
    await page.click("#encode button[type=submit]");
    await page.waitForFunction(
      () => /veil\.sfu has/.test(document.getElementById("status").textContent),
      WAIT,
    );
    assert.deepEqual((await library.readPng(await bytesOf(page, "#save-png"))).alpha, alpha);
    await page.close();
  });

  test("hostile files get a message, at once, and run nothing", async () => {
    const whole = readFileSync(path.join(golden, "low.sfu"));
    const huge = Buffer.from([
      0x53, 0x46, 0x55, 0x30, 0xff, 0xff, 3, 0x80, 0x10, 100, 5, ...whole.subarray(9, 13), 1, 0, 0, 0,
    ]);
    const cases = {
      "flipped.sfu": [Buffer.from(whole.map((byte, i) => (i === 30 ? byte ^ 8 : byte))), /check is|payload/],
      "huge.sfu": [huge, /134217728 when padded, are more than/],
      "version.sfu": [readFileSync(path.join(golden, "x_version.sfu")), /version 15 is unknown/],
      "script.sfu": [Buffer.from("<script>document.title = 'taken'</script>"), /not a sfumato file/],
      "model.sfu": [Buffer.from(whole.map((byte, i) => (i === 10 ? byte ^ 1 : byte))), /written by model/],
      "empty.sfu": [Buffer.alloc(0), /cut short/],
    };
    const page = await visit("/dist/");
    for (const [title, [data, message]] of Object.entries(cases)) {
      const file = path.join(scratch, title);
      writeFileSync(file, data);
      await choose(page, "#file", file);
      await page.waitForFunction(
        (pattern) => {
          const error = document.getElementById("error");
          return !error.hidden && new RegExp(pattern).test(error.textContent);
        },
        WAIT,
        message.source,
      );
      if (title === "huge.sfu") await shot(page, "hostile");
    }
    assert.equal(await page.title(), "sfumato: see and make .sfu images");
    await page.close();
  });

  test("<img>, srcset, <picture>, data: and blob: URLs and later images show under a strict policy", async () => {
    const strict = await serve(folders, { "content-security-policy": STRICT });
    const page = await visit("/pages/images.html", strict.origin);
    await page.evaluate(async () => {
      const data = new Uint8Array(await (await fetch("/golden/high.sfu")).arrayBuffer());
      document.getElementById("data").src =
        `data:image/x-sfumato;base64,${btoa(String.fromCharCode(...data))}`;
      document.getElementById("blob").src = URL.createObjectURL(
        new Blob([data], { type: "image/x-sfumato" }),
      );
      const late = new Image();
      late.id = "late";
      late.src = "/golden/middle.sfu";
      document.querySelector("main").append(late);
    });
    const sizes = {
      src: 160,
      again: 160,
      srcset: 160,
      widths: 150,
      picture: 160,
      data: 64,
      blob: 64,
      query: 63,
      lazy: 64,
      sample: 451,
      png: 1,
      late: 63,
    };
    for (const [id, width] of Object.entries(sizes)) {
      await page.waitForFunction(
        (image, wanted) => {
          const { complete, naturalWidth, currentSrc } = document.getElementById(image);
          return (
            complete &&
            Math.abs(naturalWidth - wanted) <= 1 &&
            !document.getElementById(image).hasAttribute("aria-busy") &&
            currentSrc
          );
        },
        WAIT,
        id,
        width,
      );
    }
    await page.waitForFunction(
      () =>
        document.getElementById("bad").naturalWidth === 0 &&
        !document.getElementById("bad").hasAttribute("aria-busy"),
      WAIT,
    );
    assert.equal(await page.$eval("#bad", (image) => image.getAttribute("src")), "/golden/x_symbols.sfu");
    assert.match(await page.$eval("#png", (image) => image.currentSrc), /dot\.png$/);
    const errors = page.messages.filter((message) => /polic|error:/i.test(message));
    assert.deepEqual(errors, []);
    await shot(page, "images");

    // the second visit takes the images from the cache: no worker is started
    strict.requests.length = 0;
    await page.reload();
    await page.waitForFunction(
      () =>
        document.getElementById("sample").naturalWidth === 451 &&
        !document.getElementById("sample").hasAttribute("aria-busy"),
      WAIT,
    );
    await page.close();
    await strict.close();
  });

  test("nothing is done where the browser knows the type", async () => {
    const page = await visit("/pages/native.html");
    await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 500)));
    assert.equal(await page.$eval("#src", (image) => image.getAttribute("src")), "/golden/low.sfu");
    assert.ok(
      !server.requests.some(({ name: asked }) => asked.endsWith("worker.js") && asked.includes("native")),
    );
    await page.close();
  });

  test("an image that is changed while its file is decoded stays changed", async () => {
    const page = await visit("/pages/images.html");
    await page.evaluate(async () => {
      const image = new Image();
      image.id = "changed";
      image.src = "/dist/sample.sfu?changed";
      document.querySelector("main").append(image);
      await new Promise((resolve) => setTimeout(resolve, 60));
      image.src = "/pages/dot.png";
      const next = new Image();
      next.id = "next";
      next.src = "/dist/sample.sfu?next"; // decoded after the other one
      document.querySelector("main").append(next);
    });
    await page.waitForFunction(() => document.getElementById("next").naturalWidth === 451, WAIT);
    assert.equal(await page.$eval("#changed", (image) => image.getAttribute("src")), "/pages/dot.png");
    assert.ok(!(await page.$eval("#changed", (image) => image.hasAttribute("aria-busy"))));
    await page.close();
  });

  test("the service worker answers for images, in style sheets too", SLOW, async () => {
    // its folder is /dist/; a page elsewhere is out of its scope unless the server allows more
    const allowed = await serve(folders, { "service-worker-allowed": "/" });
    const second = await visit("/pages/worker.html", allowed.origin);
    await second.evaluate(() => navigator.serviceWorker.ready);
    await second.goto(`${allowed.origin}/pages/worker.html`);
    await second.waitForFunction(() => document.getElementById("src").naturalWidth === 160, WAIT);
    assert.match(await second.$eval("#src", (image) => image.currentSrc), /low\.sfu$/);
    // what the worker cannot answer is still the script's
    await second.evaluate(() => {
      const source = `<source srcset="/golden/middle.sfu" type="image/x-sfumato">`;
      document.body.insertAdjacentHTML("beforeend", `<picture>${source}<img id="picture"></picture>`);
    });
    await second.waitForFunction(() => document.getElementById("picture").naturalWidth === 63, WAIT);
    const size = await second.evaluate(async () => {
      const image = new Image();
      image.src = getComputedStyle(document.getElementById("background")).backgroundImage.slice(5, -2);
      await image.decode();
      return image.naturalWidth;
    });
    assert.equal(size, 160);
    await second.close();
    await allowed.close();
  });

  test("the page works without a network after the first visit", async () => {
    const once = await serve({ "/": dist });
    const page = await visit("/", once.origin);
    await page.waitForFunction(() => document.getElementById("offline").textContent, WAIT);
    await page.waitForFunction(() => navigator.serviceWorker.controller, WAIT);
    const { origin } = once;
    await once.close();
    await page.goto(`${origin}/`);
    await page.click("#sample");
    await page.waitForFunction(
      () => document.getElementById("status").textContent.includes("is shown"),
      WAIT,
    );
    assert.ok(
      await page.evaluate(async () => {
        const kept = await (await caches.open("sfumato-weights")).keys();
        return kept.length === 2; // to decode, and to encode
      }),
    );
    await page.close();
  });

  test("every control has a name, and the keyboard reaches them all", async () => {
    const page = await visit("/dist/");
    const names = await page.$$eval("button, a.button, input, progress", (controls) =>
      controls.map(
        (control) =>
          control.getAttribute("aria-label") ||
          control.title ||
          control.textContent.trim() ||
          [...(control.labels ?? [])].map((label) => label.textContent.trim()).join(),
      ),
    );
    assert.ok(names.every(Boolean), names.join("|"));
    const reached = [];
    for (let i = 0; i < 3; i++) {
      await page.keyboard.press("Tab");
      reached.push(await page.evaluate(() => document.activeElement.id));
    }
    assert.deepEqual(reached.slice(0, 2), ["file", "sample"]);
    await page.close();
  });
}
