// Photos that are selected to be taken away: by click with Ctrl or Shift, by keys, or all; as paths, CSV or a zip of the files.

import * as api from "./api.js";

const MOST = 10000; // the server takes no more

export function selecting(results, bar, { onSeeds, onProblem, onStatus, onLeft }) {
  const chosen = new Set();
  const listeners = [];
  let anchor = null;
  const cards = () => [...results.querySelectorAll(".photo[data-id]")];
  const part = (name) => bar.querySelector(`.${name}`);

  function refresh() {
    for (const card of cards()) {
      const selected = chosen.has(card.dataset.id);
      card.classList.toggle("selected", selected);
      card.querySelector(".select")?.setAttribute("aria-pressed", String(selected));
    }
    bar.hidden = !chosen.size;
    part("count").textContent = `${chosen.size.toLocaleString()} selected`;
    for (const listener of listeners) listener();
  }

  function toggle(card, range) {
    const inGrid = [...card.parentElement.querySelectorAll(".photo[data-id]")];
    const from = range ? inGrid.findIndex((one) => one.dataset.id === anchor) : -1;
    if (from >= 0) {
      const to = inGrid.indexOf(card);
      for (const one of inGrid.slice(Math.min(from, to), Math.max(from, to) + 1)) chosen.add(one.dataset.id);
    } else if (!chosen.delete(card.dataset.id)) chosen.add(card.dataset.id);
    anchor = card.dataset.id;
    refresh();
  }

  function clear() {
    const left = bar.contains(document.activeElement);
    chosen.clear();
    refresh();
    if (left) onLeft();
  }

  function all() {
    for (const card of cards()) chosen.add(card.dataset.id);
    refresh();
  }

  results.addEventListener("click", (event) => {
    const card = event.target.closest(".photo[data-id]");
    const button = event.target.closest("button");
    if (!card || !button) return;
    const marked = button.classList.contains("select");
    if (!marked && !(button.classList.contains("open") && (event.ctrlKey || event.metaKey || event.shiftKey))) return;
    event.preventDefault();
    event.stopPropagation();
    toggle(card, event.shiftKey);
  }, true);
  results.addEventListener("keydown", (event) => {
    const card = event.target.closest?.(".photo[data-id]");
    if (event.key === "a" && (event.ctrlKey || event.metaKey)) all();
    else if (event.key === "Escape" && chosen.size) clear();
    else if (card && event.key.toLowerCase() === "x" && !event.ctrlKey && !event.metaKey) toggle(card, event.shiftKey);
    else return;
    event.preventDefault();
  });

  const named = async () => {
    if (chosen.size > MOST) throw new Error(`At most ${MOST.toLocaleString()} photos can be taken away at once: select fewer.`);
    return (await api.select([...chosen])).selection;
  };
  const taking = (name, work) => part(name).addEventListener("click", () => {
    onProblem(null);
    work().catch(onProblem);
  });
  taking("paths", async () => {
    await copy(await api.selectedPaths(await named()));
    onStatus(`Copied ${chosen.size.toLocaleString()} paths.`);
  });
  taking("csv", async () => save(api.selected(await named(), "photos.csv")));
  taking("zip", async () => save(api.selected(await named(), "photos.zip")));
  taking("like", async () => {
    const photos = [...chosen];
    clear();
    onSeeds(photos);
  });
  taking("everything", async () => all());
  taking("none", async () => clear());
  function add(ids) {
    for (const id of ids) chosen.add(id);
    refresh();
  }
  return { refresh, add, chosen, onChange: (listener) => listeners.push(listener) };
}

function save(href) {
  const link = Object.assign(document.createElement("a"), { href, download: "" });
  document.body.append(link);
  link.click();
  link.remove();
}

// Without HTTPS, browsers give pages of other machines no clipboard but this one.
async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("The browser does not let this page copy: use CSV.");
}
