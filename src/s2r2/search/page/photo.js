// A photo as a card: its thumbnail is a button that searches for more like it.

import { isThumbnail, thumbnail } from "./api.js";

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Names come from strangers' files: what would not be seen, or would turn the text round, is shown by its number.
export function visible(text) {
  const hidden = /[\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]|\p{Cs}/gu;
  return text.replace(hidden, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

export const amount = (number, noun) => `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;

export const fileName = (photo) => visible(photo.key.split("/").pop());

export const title = (photo) => (photo.labels.length ? visible(photo.labels.join(", ")) : fileName(photo));

export function card(photo, { index = 0, onOpen, onSeed, mark, onMark, selectable = false }) {
  const rank = photo.rank ? `rank ${photo.rank}, similarity ${photo.score.toFixed(3)}, ` : "";
  const image = element("img", { src: thumbnail(photo, index), alt: "", loading: "lazy", decoding: "async" });
  const open = element("button", { type: "button", className: "open", title: visible(photo.key) }, image);
  open.setAttribute("aria-label", `${rank}${title(photo)}: more like this`);
  open.setAttribute("aria-keyshortcuts", `Enter${selectable ? " X" : ""}${onSeed ? " + -" : ""}${photo.rank ? " Y N" : ""}`);
  open.addEventListener("click", () => onOpen(photo));
  const item = element("li", { className: "photo" }, open);
  if (selectable) {
    item.dataset.id = photo.id;
    const select = element("button", { type: "button", className: "select", textContent: "✓", title: "Select (x, or Ctrl and click; Shift: a range)" });
    select.setAttribute("aria-label", `select ${rank}${fileName(photo)}`);
    select.setAttribute("aria-pressed", "false");
    item.append(select);
  }
  if (onSeed) {
    const tools = element("div", { className: "tools" });
    for (const [kind, sign, keys] of [["more", "+", "+="], ["less", "−", "-"]]) {
      const button = element("button", { type: "button", className: `seed ${kind === "more" ? "plus" : "minus"}`, textContent: sign, title: `Add to the query: ${kind} like this` });
      button.setAttribute("aria-label", `add rank ${photo.rank} to the query: ${kind} like this`);
      button.addEventListener("click", () => onSeed(kind));
      open.addEventListener("keydown", (event) => {
        if (keys.includes(event.key) && !event.ctrlKey && !event.metaKey) onSeed(kind);
      });
      tools.append(button);
    }
    item.append(tools);
  }
  if (photo.rank) {
    const score = element("span", { className: "score", textContent: photo.score.toFixed(3), title: "similarity" });
    const under = element("div", { className: "under" }, element("b", { textContent: photo.rank }), score);
    const buttons = [["yes", "right", "✓"], ["no", "wrong", "✗"]].map(([className, value, sign]) => {
      const button = element("button", { type: "button", className: `mark ${className}`, textContent: sign });
      button.setAttribute("aria-label", `rank ${photo.rank} is ${value}`);
      button.addEventListener("click", () => set(mark() === value ? null : value));
      return [button, value];
    });
    const show = () => {
      const now = mark();
      item.classList.toggle("right", now === "right");
      item.classList.toggle("wrong", now === "wrong");
      for (const [button, value] of buttons) button.setAttribute("aria-pressed", String(now === value));
    };
    const set = (value) => onMark(value);
    item.refresh = show;
    open.addEventListener("keydown", (event) => {
      if (event.key === "y") set(mark() === "right" ? null : "right");
      if (event.key === "n") set(mark() === "wrong" ? null : "wrong");
    });
    show();
    under.append(...buttons.map(([button]) => button));
    item.append(under);
  }
  const caption = element("div", { className: "caption" }, element("span", { className: "name", textContent: fileName(photo), title: visible(photo.key) }));
  if (photo.labels.length) caption.append(element("span", { className: "label", textContent: title(photo) }));
  item.append(caption);
  return item;
}

// A grid of cards is one stop of the Tab key; arrow keys walk through it, and Tab goes on to the buttons of the card that they
// have come to.
export function grid(kind, cards) {
  const list = element(kind, { className: "grid" });
  let entered = null;
  const enter = (card) => {
    for (const one of entered?.querySelectorAll("button") || []) one.tabIndex = -1;
    for (const one of card?.querySelectorAll("button") || []) one.tabIndex = 0;
    entered = card;
  };
  list.extend = (more) => {
    for (const button of more.flatMap((card) => [...card.querySelectorAll("button")])) button.tabIndex = -1;
    list.append(...more);
    if (!entered) enter(list.firstElementChild);
  };
  list.addEventListener("keydown", walk);
  list.addEventListener("focusin", (event) => enter(event.target.closest(".photo")));
  list.extend(cards);
  return list;
}

// Arrow keys walk through the cards of a grid as they lie on the screen.
function walk(event) {
  const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  const step = steps[event.key];
  if (!step || !event.target.classList?.contains("open")) return;
  const all = [...event.currentTarget.querySelectorAll("button.open")];
  const at = all.indexOf(event.target);
  let next = at + step[0];
  if (step[1]) {
    const columns = all.findIndex((b, i) => i > 0 && b.getBoundingClientRect().top > all[0].getBoundingClientRect().top + 4);
    next = at + step[1] * (columns > 0 ? columns : all.length);
  }
  if (all[next]) {
    event.preventDefault();
    all[next].focus();
  }
}

// What is known of a photo, as names and descriptions of a list.
export function facts(photo) {
  const known = [["Name", visible(photo.key)], ["Where", visible(photo.location)]];
  if (photo.labels.length) known.push(["Labels", title(photo)]);
  if (photo.taken) known.push(["Taken", photo.taken.replace("T", " ")]);
  if (photo.camera) known.push(["Camera", visible(photo.camera)]);
  if (photo.width) known.push(["Size", `${photo.width} × ${photo.height}`]);
  return known.flatMap(([name, text]) => [element("dt", { textContent: name }), element("dd", { textContent: text })]);
}

// Where the server cannot read a photo's file it sends the thumbnail of the index, and says so.
export async function noteThatItIsGone(image, list, signal) {
  if (!(await isThumbnail(image.src, signal).catch(() => false)) || signal.aborted) return;
  list.append(element("dt", { textContent: "File" }), element("dd", { textContent: "cannot be read now, or has changed: this is the thumbnail in the index" }));
}
