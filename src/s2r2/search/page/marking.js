// What is marked as right or wrong for a query. Marks hold for all rankings on the page; those of photos of the index are kept.

import * as api from "./api.js";
import { several, write } from "./seeds.js";

const noted = new Map(); // by query: Map of photo id to "right" or "wrong"

const part = (state) => state.box?.map((value) => value.toFixed(4)).join(",");
const name = (state) =>
  `${state.photo || `upload ${state.upload?.number}`} ${part(state) || ""} ${write(state.more)} ${write(state.less)}`;
const isKept = (state) => state.photo && !several(state);

// The marks of the query: the server's, where it keeps them, else those of this page.
export async function marksOf(state, keeps, signal, onProblem) {
  if (!noted.has(name(state))) noted.set(name(state), new Map());
  const marks = noted.get(name(state));
  if (!isKept(state)) return marks;
  try {
    const found = (await api.marks(state.photo, { of: state.of, box: part(state) }, signal)).marks;
    if (keeps) marks.clear();
    for (const [id, value] of Object.entries(found)) if (keeps || !marks.has(id)) marks.set(id, value);
  } catch (error) {
    onProblem(error); // the ranking is shown all the same
  }
  return marks;
}

// Sets a mark, or takes it back with null; has it kept where that can be.
export async function setMark(state, marks, photo, index, value, keeps) {
  const before = marks.get(photo.id) || null;
  put(marks, photo.id, value);
  if (!keeps || !isKept(state)) return;
  try {
    await api.mark(state.photo, { photo: photo.id, index, of: state.of, box: part(state), mark: value || "none" });
  } catch (error) {
    put(marks, photo.id, before);
    throw error;
  }
}

function put(marks, id, value) {
  if (value) marks.set(id, value);
  else marks.delete(id);
}

export function whyNotKept(state, keeps) {
  if (!keeps) return "; marks are not kept (--read-only)";
  if (several(state)) return "; not kept: the query has several photos";
  return state.photo ? "" : "; not kept: the query is not in the index";
}

// What the marks say of a ranking. Average precision over the marked photos alone compares rankings of the same query
// (condensed lists; Sakai, SIGIR 2007).
export function judged(marks, hits) {
  const values = hits.map((hit) => marks.get(hit.id)).filter(Boolean);
  const right = values.filter((value) => value === "right").length;
  if (!values.length) return "";
  const share = `${right} of ${values.length} marked are right: precision ${Math.round((100 * right) / values.length)} %`;
  if (!right || right === values.length) return share;
  let found = 0;
  const sum = values.reduce((total, value, place) => total + (value === "right" ? ++found / (place + 1) : 0), 0);
  return `${share}, average precision ${(sum / right).toFixed(2)}`;
}
