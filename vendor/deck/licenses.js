// Writes the licenses of all packages that are in deck.js beside it.

const fs = require("fs");
const path = require("path");

const page = path.join(__dirname, "..", "..", "src", "s2r2", "search", "page");
const inputs = Object.values(require("./build/meta.json").outputs)[0].inputs;
const packages = new Set(Object.keys(inputs).map((file) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file)?.[1]).filter(Boolean));
const texts = [...packages].sort().map((name) => {
  const folder = path.join(__dirname, "node_modules", name);
  const about = JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8"));
  const license = fs.readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
  const text = license ? fs.readFileSync(path.join(folder, license), "utf8").trim() : "";
  return `${name} ${about.version} (${about.license})\n\n${text || "(its package holds no license text)"}\n`;
});
fs.writeFileSync(path.join(page, "deck.LICENSE.txt"), `deck.js holds these packages, minified by esbuild:\n\n${texts.join("\n----\n\n")}`);
