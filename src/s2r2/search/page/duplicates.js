// Groups of copies, and the script that removes all but one of each.

import * as api from "./api.js";
import { amount, card, element, grid } from "./photo.js";

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
    const found = await groups(0, signal);
    form.hidden = found.total === 0;
    view.querySelector("#duplicates-summary").textContent = found.total
      ? `${amount(found.total, "group")} with ${amount(found.photos, "photo")}.`
      : "No photo is a copy of another one.";
    const list = view.querySelector("#groups");
    const added = ({ groups: more }) => list.append(...more.map((one) => group(one, onOpen)));
    list.replaceChildren();
    added(found);
    const more = element("button", { type: "button", className: "more" });
    const offer = () => {
      const rest = found.total - list.children.length;
      more.hidden = rest <= 0;
      more.textContent = `Show more (${rest.toLocaleString()} of ${found.total.toLocaleString()} groups are not shown)`;
    };
    more.addEventListener("click", async () => {
      const before = list.children.length;
      try {
        added(await groups(before, signal));
        list.children[before]?.querySelector(".open").focus();
      } catch (error) {
        onProblem(error);
      }
      offer();
    });
    offer();
    view.querySelector(".more")?.remove();
    view.append(more);
    onStatus("");
  };
}

const groups = async (offset, signal) => (await api.whenReady("api/duplicates", { offset, limit: 100 }, signal)).json();

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
