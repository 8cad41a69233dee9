// What is asked for, in the address: back, forward and bookmarks work.

import * as filters from "./filters.js";
import { read, write } from "./seeds.js";

export const PAGE = 60;

export const nothing = () => ({
  view: "search", photo: null, of: 0, upload: null, keep: false, box: null, more: [], less: [], filters: filters.none(), k: PAGE,
});

export function toAddress(state) {
  const query = new URLSearchParams();
  if (state.view !== "search") query.set("view", state.view);
  if (state.photo) query.set("photo", state.photo);
  if (state.of) query.set("of", state.of);
  if (state.keep) query.set("found", "words");
  if (state.upload) query.set("upload", state.upload.number);
  if (state.box) query.set("box", state.box.map((value) => value.toFixed(4)).join(","));
  if (state.more.length) query.set("more", write(state.more));
  if (state.less.length) query.set("less", write(state.less));
  filters.write(state.filters, query);
  return `#${query}`;
}

export function fromAddress(uploads) {
  const query = new URLSearchParams(location.hash.slice(1));
  const box = (query.get("box") || "").split(",").map(Number);
  const state = {
    ...nothing(),
    view: ["duplicates", "map"].includes(query.get("view")) ? query.get("view") : "search",
    photo: /^[0-9a-f]{16}$/.test(query.get("photo") || "") ? query.get("photo") : null,
    of: query.get("of") === "1" ? 1 : 0,
    keep: query.get("found") === "words",
    upload: uploads.get(Number(query.get("upload"))) || null,
    box: box.length === 4 && box.every(Number.isFinite) ? box : null,
    more: read(query.get("more") || "", uploads),
    less: read(query.get("less") || "", uploads),
    filters: filters.read(query),
  };
  if (state.photo || state.upload) return state;
  const [next, ...more] = state.more; // the first photo was an upload, which is gone
  return next ? { ...state, ...next, box: null, more } : { ...state, box: null, less: [] };
}
