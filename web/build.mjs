// Builds the page: src into ../mcrd/web/static. SPDX-License-Identifier: GPL-3.0-or-later

import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const out = process.argv[2] || "../mcrd/web/static";
mkdirSync(out, { recursive: true });
await build({
  entryPoints: { app: "src/app.js" }, outdir: out, bundle: true, minify: true, format: "esm",
  target: ["chrome109", "firefox115"], legalComments: "none", charset: "utf8",
  banner: { js: "/* mcrd-web: GPL-3.0-or-later. With d3-sankey, d3-shape, d3-array, d3-path, uPlot: see licences.txt */" },
});
for (const name of ["index.html", "icon.svg"]) copyFileSync(`src/${name}`, `${out}/${name}`);
const bundled = ["d3-array", "d3-path", "d3-sankey", "d3-shape", "internmap", "uplot"];
const licences = bundled.map((name) => {
  const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  return `${name} ${version}\n\n${readFileSync(`node_modules/${name}/LICENSE`, "utf8").trim()}\n`;
});
writeFileSync(`${out}/licences.txt`, licences.join("\n\n"));
const hash = createHash("sha256");
for (const name of [...readdirSync("src").sort().map((each) => `src/${each}`), "build.mjs", "package-lock.json"]) {
  hash.update(readFileSync(name));
}
writeFileSync(`${out}/built-from`, `${hash.digest("hex")}\n`);
