// A server of static folders on a free port of this machine; `/slow/` in front of a path makes it come in pieces.
import { createServer } from "node:http";
import { readFileSync, statSync } from "node:fs";
import path from "node:path";

const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
  ".json": "application/json",
  ".png": "image/png",
  ".jpg": "image/jpeg",
  ".sfu": "image/x-sfumato",
};

/** folders: prefix of the path -> folder.  headers: added to every answer. */
export async function serve(folders, headers = {}) {
  const requests = [];
  const server = createServer(async (request, response) => {
    let name = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const slow = name.startsWith("/slow/");
    if (slow) name = name.slice(5);
    const prefix = Object.keys(folders)
      .filter((key) => name.startsWith(key))
      .sort((a, b) => b.length - a.length)[0];
    let file = prefix && path.join(folders[prefix], name.slice(prefix.length));
    let body;
    try {
      if (statSync(file).isDirectory()) file = path.join(file, "index.html");
      body = readFileSync(file);
    } catch {
      response.writeHead(404).end();
      return;
    }
    requests.push({ name, bytes: body.length, type: request.headers["sec-fetch-dest"] ?? "" });
    response.writeHead(200, {
      "content-type": TYPES[path.extname(file)] ?? "application/octet-stream",
      "content-length": body.length,
      ...headers,
    });
    if (!slow) return response.end(body);
    for (let at = 0; at < body.length; at += 200) {
      response.write(body.subarray(at, at + 200));
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
    response.end();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://localhost:${server.address().port}`,
    requests,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(resolve);
      }),
  };
}
