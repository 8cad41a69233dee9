// The search page: what is asked for is in the address, so that back, forward and bookmarks work.

import { PAGE, fromAddress, nothing, toAddress } from "./address.js";
import * as api from "./api.js";
import { boxing } from "./boxing.js";
import { bringing } from "./bringing.js";
import { duplicates } from "./duplicates.js";
import { any, filtering, nothingElse } from "./filters.js";
import { openMap } from "./map.js";
import { judged, marksOf, setMark, whyNotKept } from "./marking.js";
import { amount, card, element, facts, grid, noteThatItIsGone, title, visible } from "./photo.js";
import * as seeds from "./seeds.js";
import { selecting } from "./selection.js";
import { trail } from "./trail.js";
import { words } from "./words.js";

const $ = (id) => document.getElementById(id);
const state = nothing();
let about = { indexes: [], folders: [], labels: [], upload_bytes: 0, keeps_marks: false };
let running = null;
let mapOpened = false;
let showFilters = () => {};
let ranked = null; // the address whose ranking is on the page, or null
let arriving = null; // where the keyboard goes on: the ranking, and the photo in it; the first one is shown from the top
const TOP = { ranking: 0, photo: 0 };

// ---- what went wrong, what is going on

function say(text) {
  $("status").textContent = text;
}

function complain(error) {
  if (error?.name === "AbortError") return;
  $("problem").textContent = error ? error.message || String(error) : "";
  $("problem").hidden = !error;
}

// ---- the address

function go(changes) {
  Object.assign(state, { k: PAGE }, changes);
  const address = toAddress(state);
  if (address === location.hash || (address === "#" && !location.hash)) show();
  else location.hash = address;
}

// ---- queries

const uploads = new Map();

function searchFor(photo, of = 0) {
  arriving = TOP;
  go({ view: "search", photo: photo.id, of, upload: null, keep: false, box: null, more: [], less: [] });
}

// Adds a photo to the query: one of the index, or an upload.
function addSeed(kind, seed) {
  try {
    const changes = seeds.added(state, kind, seed);
    arriving = TOP;
    go({ view: "search", ...changes });
  } catch (error) {
    complain(error);
  }
}

// Several files make one query; `kind` adds them to the one that is there.
function take(files, kind = null) {
  const [file, ...others] = [...files].slice(0, seeds.MOST);
  const upload = uploaded(file);
  const more = others.map(uploaded);
  if (!upload || more.includes(null)) return;
  const seed = (one) => ({ photo: null, of: 0, upload: one, keep: false });
  if (kind) for (const one of [upload, ...more]) addSeed(kind, seed(one));
  else go({ view: "search", ...seed(upload), box: null, more: more.map(seed), less: [] });
}

function uploaded(file) {
  if (!file) return null;
  if (about.upload_bytes && file.size > about.upload_bytes) {
    complain(new Error(`${visible(file.name || "The photo")} is larger than ${Math.floor(about.upload_bytes / 2 ** 20)} MB: choose a smaller one.`));
    return null;
  }
  const number = uploads.size + 1;
  uploads.set(number, { number, file, url: URL.createObjectURL(file), name: visible(file.name || "pasted photo") });
  return uploads.get(number);
}

const box = boxing($("stage"), $("box"), (part) => {
  if (String(part) !== String(state.box)) go({ box: part });
});

async function ranking(index, signal) {
  const filtered = { k: state.k, index, ...state.filters };
  if (seeds.several(state)) return seeds.ranking({ ...state }, filtered, signal);
  const options = { ...filtered, box: state.box?.map((v) => v.toFixed(4)).join(",") };
  if (state.upload) return api.similarToUpload(state.upload.file, options, signal);
  return api.similar(state.photo, { ...options, of: state.of }, signal);
}

const selection = selecting($("results"), $("selection"), {
  onProblem: complain,
  onStatus: say,
  onLeft: () => goOnInResults(),
  onSeeds: (photos) => {
    const [first, ...more] = photos.slice(0, seeds.MOST).map((photo) => ({ photo, of: 0, upload: null, keep: false }));
    arriving = TOP;
    go({ view: "search", ...first, box: null, more, less: [] });
  },
});

const copies = duplicates($("view-duplicates"), { onOpen: searchFor, onProblem: complain, onStatus: say });

const steps = trail($("trail"), (address) => {
  if (location.hash === address) show();
  else location.hash = address;
});

const wording = words($("words-form"), {
  filters: () => state.filters,
  onProblem: complain,
  onStatus: say,
  onSeeds: (kind, found) => {
    const [first, ...more] = found;
    arriving = true;
    if (!kind) go({ view: "search", ...first, box: null, more, less: [] });
    else go({ view: "search", ...found.reduce((query, seed) => ({ ...query, ...seeds.added(query, kind, seed) }), { ...state }) });
  },
});

// ---- what is shown

// One for each index; a mark is shown in all of them.
function rankingElements(found, marks) {
  const refreshing = [];
  const refresh = () => refreshing.forEach((show) => show());
  const asked = { ...state };
  const judge = (hits) => {
    const text = judged(marks, hits);
    return text && text + whyNotKept(asked, about.keeps_marks);
  };
  return found.map(({ hits }, index) => {
    const summary = element("span");
    const heading = element("h2", {}, about.indexes.length > 1 ? about.indexes[index].encoder : "Most similar first", summary);
    refreshing.push(() => { summary.textContent = judge(hits); });
    const list = grid("ol", hits.map((photo) => {
      const item = card(photo, {
        index,
        selectable: true,
        onOpen: () => searchFor(photo, index),
        onSeed: (kind) => addSeed(kind, { photo: photo.id, of: index, upload: null, keep: false }),
        mark: () => marks.get(photo.id) || null,
        onMark: (value) => {
          const kept = setMark(asked, marks, photo, index, value, about.keeps_marks);
          refresh();
          kept.catch(complain).finally(refresh);
        },
      });
      refreshing.push(item.refresh);
      return item;
    }));
    summary.textContent = judge(hits);
    const section = element("section", { className: "ranking" }, heading, list);
    if (!hits.length) section.append(element("p", { className: "soft", textContent: nothingElse(state.filters) }));
    if (hits.length >= state.k && state.k < 480) section.append(more(() => {
      state.k += PAGE;
      arriving = { ranking: index, photo: hits.length };
      show();
    }));
    return section;
  });
}

function more(onMore) {
  const button = element("button", { type: "button", className: "more", textContent: "Show more" });
  button.addEventListener("click", onMore);
  return button;
}

// What is on the page belongs to the query beside it: until the answer is there it can be neither used nor marked.
function present(...rankings) {
  ranked = toAddress(state);
  $("results").inert = false;
  $("results").replaceChildren(...rankings);
  selection.refresh();
}

function presentNothing() {
  const again = more(show);
  again.textContent = "Try again";
  const name = state.upload ? ` for ${state.upload.name}` : "";
  present(element("section", { className: "ranking" }, element("h2", { textContent: `No ranking${name}` }), again));
  $("results").classList.remove("two");
  if (state.upload) $("hint").hidden = $("add-more").hidden = $("add-less").hidden = true;
  ranked = null;
  arriving = null;
  say("");
}

// While a query waits for its answer: whether it is the encoder that is not there yet.
function sayWhatIsWaitedFor() {
  const own = !state.upload && !state.box && ![...state.more, ...state.less].some(({ upload }) => upload);
  if (own) return () => {}; // photos of the index have their vectors
  return api.whileLoading(() => say("The encoder is still loading; this search waits for it."));
}

async function showRankings(signal) {
  const began = performance.now();
  const asked = about.indexes.map((_, index) => ranking(index, signal));
  const answered = sayWhatIsWaitedFor();
  const [marks, ...found] = await Promise.all([marksOf(state, about.keeps_marks, signal, complain), ...asked]).finally(answered);
  signal.throwIfAborted();
  present(...rankingElements(found, marks));
  $("results").classList.toggle("two", found.length > 1);
  const count = about.indexes[0].photos.toLocaleString();
  if (arriving) {
    const list = $("results").querySelectorAll(".grid")[arriving.ranking];
    if (arriving === TOP) window.scrollTo(0, 0);
    list?.children[arriving.photo]?.querySelector(".open").focus({ preventScroll: arriving === TOP });
    arriving = null;
  }
  say(`${found[0].hits.length} of ${count} photos, ranked in ${Math.round(performance.now() - began)} ms.`);
}

async function showAll(signal) {
  const list = grid("ul", []);
  const button = more(() => add().catch(complain));
  let offset = 0;
  async function add() {
    const found = await api.photos({ ...state.filters, offset, limit: 2 * PAGE }, signal);
    const goesOn = document.activeElement === button;
    list.extend(found.photos.map((photo) => card(photo, { onOpen: () => searchFor(photo), selectable: true })));
    if (goesOn) list.children[offset]?.querySelector(".open").focus();
    selection.refresh();
    offset += found.photos.length;
    button.hidden = offset >= found.total;
    say(found.total || !any(state.filters) ? `${amount(found.total, "photo")}. Choose one, or bring your own.` : "No photos match these filters.");
  }
  await add();
  signal.throwIfAborted();
  $("results").classList.remove("two");
  present(element("section", { className: "ranking" }, element("h2", { textContent: "All photos" }), list, button));
}

async function showQuery(signal) {
  const asked = Boolean(state.photo || state.upload);
  $("stage").hidden = $("hint").hidden = $("again").hidden = !asked;
  $("invitation").hidden = asked;
  $("whole").hidden = !state.box;
  $("facts").hidden = !state.photo;
  $("add-more").hidden = $("add-less").hidden = !asked;
  wording.offer(about.indexes[0]?.no_words, asked);
  seeds.showTray($("tray"), { ...state }, signal, go);
  box.show(asked ? state.box : null);
  if (!asked) return;
  $("stage").tabIndex = 0;
  $("stage").setAttribute("role", "group");
  $("stage").setAttribute("aria-label", "Query photo. Arrow keys move a box, with shift they resize it, Enter searches for the part in it.");
  $("query").onerror = () => { // nothing that a browser shows
    $("stage").hidden = $("hint").hidden = true;
    $("invitation").hidden = false;
  };
  $("query").src = state.upload ? state.upload.url : api.large(state.photo, state.of);
  let photo = null;
  if (state.photo) {
    photo = await api.details(state.photo, state.of, signal);
    $("facts").replaceChildren(...facts(photo));
    const note = () => noteThatItIsGone($("query"), $("facts"), signal);
    if ($("query").complete) note();
    else $("query").addEventListener("load", note, { once: true, signal });
  }
  $("query").alt = `Query: ${photo ? title(photo) : state.upload.name}`;
  return photo;
}

// Where what had the focus is gone, the keyboard goes on in the results.
function goOnInResults() {
  ($("results").querySelector(".open[tabindex='0']") || $("results")).focus({ preventScroll: true });
}

async function show() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const focused = document.activeElement;
  complain(null);
  for (const name of ["search", "duplicates", "map"]) {
    $(`view-${name}`).hidden = state.view !== name;
    document.querySelector(`[data-view="${name}"]`).setAttribute("aria-pressed", String(state.view === name));
  }
  showFilters(state.filters);
  $("unfiltered").hidden = state.view === "search" || !any(state.filters);
  try {
    if (state.view === "duplicates") await copies(signal);
    else if (state.view === "map") {
      if (!mapOpened) {
        mapOpened = true;
        await openMap($("map-stage"), { onOpen: (id) => searchFor({ id }), onStatus: say, selection });
      }
    } else {
      $("results").inert = toAddress(state) !== ranked;
      if (state.photo || state.upload) steps({ ...state }, (await Promise.all([showQuery(signal), showRankings(signal)]))[0]);
      else await Promise.all([showQuery(signal), showAll(signal)]);
      if (focused !== document.body && !focused.checkVisibility()) goOnInResults();
    }
  } catch (error) {
    if (signal.aborted) return;
    if (state.view === "map") mapOpened = false;
    if (state.view === "search") presentNothing();
    complain(error);
  }
}

// ---- begin

document.querySelectorAll("[data-view]").forEach((button) => button.addEventListener("click", () => go({ view: button.dataset.view })));
bringing(document, take);
$("whole").addEventListener("click", () => go({ box: null }));
$("again").addEventListener("click", () => go({ photo: null, of: 0, upload: null, keep: false, box: null, more: [], less: [] }));
window.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("choose").focus();
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says what is asked for
  $("results").focus();
});
window.addEventListener("hashchange", () => {
  Object.assign(state, fromAddress(uploads));
  show();
});

try {
  about = await api.about();
  const [own, other] = about.indexes;
  $("about").textContent = `${amount(own.photos, "photo")} in ${visible(own.data)}, ranked by ${own.encoder}${other ? ` and by ${other.encoder}` : ""}`;
  document.title = `${visible(own.data)} · s2r2`;
  $("selection").querySelector(".zip").hidden = !about.originals;
  showFilters = filtering($("filters"), about, (filters) => go({ filters }));
  Object.assign(state, fromAddress(uploads));
  await show();
} catch (error) {
  complain(error);
}
