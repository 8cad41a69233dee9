// What the points of the map are colored by: label, folder, date, or the group of copies that a photo is in.

import * as api from "./api.js";
import { element, visible } from "./photo.js";

// Told apart in every common kind of color vision (Okabe and Ito 2008), without black and yellow, which are lost on a light page.
const PALETTE = [[0, 114, 178], [230, 159, 0], [0, 158, 115], [213, 94, 0], [86, 180, 233], [204, 121, 167], [148, 103, 189], [140, 86, 75]];
const OTHERS = [140, 140, 148];
// Old to new: samples of viridis.
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [220, 210, 40]];

export function coloring(photos, form, legend) {
  const select = form.querySelector("select");
  const colors = new Uint8Array(4 * photos.count);
  const listeners = [];
  const style = (name) => getComputedStyle(legend).getPropertyValue(name).trim();
  const ink = () => rgb(style("--ink"));

  function paint(colorOf) {
    for (let row = 0; row < photos.count; row += 1) {
      const [red, green, blue] = colorOf(row);
      colors.set([red, green, blue, 255], 4 * row);
    }
  }

  function byName(codes, names) {
    const counts = new Map();
    for (const code of codes) counts.set(code, (counts.get(code) || 0) + 1);
    const order = [...counts].filter(([code]) => names(code))
      .sort((a, b) => b[1] - a[1] || names(a[0]).localeCompare(names(b[0])));
    const first = order.slice(0, PALETTE.length);
    const found = new Map(first.map(([code], number) => [code, PALETTE[number]]));
    paint((row) => found.get(codes[row]) || OTHERS);
    const rest = photos.count - first.reduce((sum, [, count]) => sum + count, 0);
    const entries = first.map(([code, count], number) => [PALETTE[number], visible(names(code)), count]);
    show(rest ? [...entries, [OTHERS, "others", rest]] : entries);
  }

  function byDate() {
    const known = photos.date.filter(Number.isFinite).sort();
    const [from, to] = [known[0], known.at(-1)];
    paint((row) => {
      const part = to > from ? (photos.date[row] - from) / (to - from) : 0;
      return Number.isFinite(photos.date[row]) ? between(part) : OTHERS;
    });
    const day = (seconds) => new Date(1000 * seconds).toLocaleDateString();
    const steps = known.length ? RAMP.map((color, number) => [color, day(from + ((to - from) * number) / (RAMP.length - 1)), null]) : [];
    show(known.length < photos.count ? [...steps, [OTHERS, "no date", photos.count - known.length]] : steps);
  }

  async function byGroup() {
    show([[OTHERS, "looking for copies", null]]);
    const found = await (await api.whenReady("api/duplicates")).json();
    const group = new Map();
    found.groups.forEach((one, number) => one.photos.forEach(({ id }) => group.set(photos.rowOf(id), number)));
    paint((row) => (group.has(row) ? PALETTE[group.get(row) % PALETTE.length] : OTHERS));
    show([[OTHERS, "in no group of copies", photos.count - group.size], [PALETTE[0], `copies, a color a group of the first ${found.groups.length}`, group.size]]);
  }

  function show(entries) {
    legend.replaceChildren(...entries.map(([color, name, count]) => {
      const dot = element("i");
      dot.style.background = `rgb(${color.join()})`;
      return element("li", {}, dot, count === null ? name : `${name} (${count.toLocaleString()})`);
    }));
  }

  const names = api.mapNames();
  async function apply() {
    const by = select.value;
    const known = await names;
    if (by === "label") byName(photos.label, (code) => known.labels[code]);
    else if (by === "folder") byName(photos.folder, (code) => known.folders[code] || "(top)");
    else if (by === "date") byDate();
    else if (by === "group") await byGroup();
    else {
      paint(() => rgb(style("--accent")));
      show([]);
    }
    if (by === select.value) listeners.forEach((listener) => listener());
  }

  paint(() => rgb(style("--accent")));
  const ready = names.then((known) => {
    for (const [value, found] of [["label", known.labels], ["folder", known.folders]]) {
      select.querySelector(`[value=${value}]`).hidden = found.filter(Boolean).length === 0;
    }
    if (known.labels.filter(Boolean).length > 1) select.value = "label";
    return apply();
  });
  ready.catch(() => {});
  select.addEventListener("change", () => apply().catch((error) => show([[OTHERS, error.message, null]])));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply().catch(() => {}));
  return {
    ink,
    now: () => colors.slice(), // a new array: the layer sees that it changed
    css: (row) => `rgb(${colors.slice(4 * row, 4 * row + 3).join()})`,
    onChange: (listener) => listeners.push(listener),
  };
}

function between(part) {
  const at = part * (RAMP.length - 1);
  const below = Math.min(RAMP.length - 2, Math.floor(at));
  return RAMP[below].map((value, n) => Math.round(value + (RAMP[below + 1][n] - value) * (at - below)));
}

const rgb = (hex) => [1, 3, 5].map((start) => Number.parseInt(hex.slice(start, start + 2), 16));
