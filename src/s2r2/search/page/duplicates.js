// Groups of copies, and the script that removes all but one of each.

import * as api from "./api.js";
import { card, element, grid } from "./photo.js";

// Gives what shows the groups; `onOpen` gets a photo that is chosen.
export function duplicates(view, { onOpen, onProblem, onStatus }) {
  const form = view.querySelector("#copies-form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    onProblem(null);
    download(form.querySelector("select").value, onStatus).catch(onProblem);
  });
  return async (signal) => {
    onStatus("Looking for copies.");
    const found = await (await api.whenReady("api/duplicates", {}, signal)).json();
    form.hidden = found.total === 0;
    view.querySelector("#duplicates-summary").textContent = found.total
      ? `${found.total.toLocaleString()} groups with ${found.photos.toLocaleString()} photos.`
      : "No photo is a copy of another one.";
    view.querySelector("#groups").replaceChildren(...found.groups.map((photos) => group(photos, onOpen)));
    onStatus("");
  };
}

function group({ photos }, onOpen) {
  const list = grid("ul", photos.map((photo) => {
    const item = card(photo, { onOpen: () => onOpen(photo) });
    item.append(element("div", { className: "kind soft", textContent: photo.kinds.join(", ") || "related" }));
    return item;
  }));
  return element("div", { className: "group" }, element("h2", { textContent: `${photos.length} photos` }), list);
}

async function download(keep, onStatus) {
  onStatus("Checking the files of all copies.");
  const script = await (await api.whenReady("api/duplicates/script", { keep })).blob();
  const link = element("a", { href: URL.createObjectURL(script), download: "remove-copies.sh" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  onStatus("");
}
