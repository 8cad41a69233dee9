// A query of several photos: those to be like, of which the first is the one on which a box can be drawn, and those to be less like.

import * as api from "./api.js";
import { element, title } from "./photo.js";

export const MOST = 32; // the server takes no more

export const several = (state) => state.more.length + state.less.length > 0;

const code = (seed) => (seed.upload ? `u${seed.upload.number}` : seed.photo + (seed.of ? ".1" : ""));

// `w`: words have found it, and it may be in the ranking.
export const write = (seeds) => seeds.map((seed) => code(seed) + (seed.keep ? "w" : "")).join(",");

// An uploaded photo is gone when the page was loaded anew: it is left out.
export function read(text, uploads) {
  const seeds = text.split(",").map((part) => {
    const found = /^(?:u(\d+)|([0-9a-f]{16})(\.1)?(w)?)$/.exec(part);
    if (!found) return null;
    if (!found[1]) return { photo: found[2], of: found[3] ? 1 : 0, upload: null, keep: Boolean(found[4]) };
    const upload = uploads.get(Number(found[1]));
    return upload ? { photo: null, of: 0, upload } : null;
  });
  return seeds.filter(Boolean).slice(0, MOST);
}

export const first = (state) => ({ photo: state.photo, of: state.of, upload: state.upload, keep: state.keep });

const box = (state) => state.box?.map((value) => value.toFixed(4)).join(",");

// The state when a photo is added to the query; one that is in it already moves.
export function added(state, kind, seed) {
  const others = (seeds) => seeds.filter((one) => code(one) !== code(seed));
  if (!state.photo && !state.upload) return { ...seed, box: null, more: [], less: [] };
  if (code(first(state)) === code(seed)) return {};
  const lists = { more: others(state.more), less: others(state.less) };
  if (1 + lists.more.length + lists.less.length >= MOST) throw new Error(`A query has at most ${MOST} photos: remove one first.`);
  return { ...lists, [kind]: [...lists[kind], seed] };
}

// The state when a photo is taken out of the query; in the place of the first one comes the next.
function removed(state, seed) {
  if (code(first(state)) !== code(seed)) {
    const others = (seeds) => seeds.filter((one) => one !== seed);
    return { more: others(state.more), less: others(state.less) };
  }
  const [next, ...more] = state.more;
  return { ...(next || { photo: null, of: 0, upload: null, keep: false, less: [] }), box: null, more };
}

async function forServer(seed, part, index, signal) {
  if (!seed.upload) return { photo: seed.photo, of: seed.of, box: part, keep: Boolean(seed.keep) };
  const vectors = (seed.upload.vectors ||= new Map());
  const name = `${index} ${part || ""}`;
  if (!vectors.has(name)) vectors.set(name, (await api.vectorOfUpload(seed.upload.file, { index, box: part }, signal)).vector);
  return { vector: vectors.get(name) };
}

// The ranking of one index.
export async function ranking(state, options, signal) {
  const sent = (seeds) => Promise.all(seeds.map((seed) => forServer(seed, undefined, options.index, signal)));
  const own = await forServer(first(state), box(state), options.index, signal);
  return api.search({ more: [own, ...(await sent(state.more))], less: await sent(state.less) }, options, signal);
}

// All photos of the query, each with a button that takes it out.
export function showTray(tray, state, signal, onChange) {
  tray.hidden = !several(state);
  for (const [kind, seeds] of [["more", [first(state), ...state.more]], ["less", state.less]]) {
    const list = tray.querySelector(`.${kind}`);
    list.closest("div").hidden = !seeds.length;
    list.replaceChildren(...(tray.hidden ? [] : seeds.map((seed) => shown(seed, kind, signal, () => onChange(removed(state, seed))))));
  }
}

function shown(seed, kind, signal, onRemove) {
  const image = element("img", { src: seed.upload ? seed.upload.url : api.thumbnail({ id: seed.photo, version: null }, seed.of), alt: "" });
  const button = element("button", { type: "button", textContent: "×" });
  const named = (name) => {
    image.alt = name;
    button.title = `Remove ${name} from the query`;
    button.setAttribute("aria-label", `Remove ${name} (${kind} like this) from the query`);
  };
  named(seed.upload ? seed.upload.name : "this photo");
  button.addEventListener("click", onRemove);
  if (seed.photo) api.details(seed.photo, seed.of, signal).then((photo) => named(title(photo)), () => {});
  return element("li", {}, image, button);
}
