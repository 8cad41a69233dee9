// The searches before this one, each as a picture that leads back to it.

import * as api from "./api.js";
import { toAddress } from "./address.js";
import { element, title } from "./photo.js";
import * as seeds from "./seeds.js";

const MOST = 30;

// Gives what is called with each query that was answered; `onBack` gets the address of a step that is chosen.
export function trail(nav, onBack) {
  const steps = [];
  const list = nav.querySelector("ol");
  return (query, photo) => {
    const first = query.photo || `upload ${query.upload.number}`;
    const what = `${first} ${query.box || ""} ${seeds.write(query.more)} ${seeds.write(query.less)}`;
    const others = query.more.length + query.less.length;
    const source = photo ? api.thumbnail(photo, query.of) : query.upload.url;
    const name = (photo ? title(photo) : query.upload.name) + (query.box ? ", a part of it" : "") + (others ? `, and ${others} more` : "");
    if (steps.at(-1)?.what === what) steps.pop(); // another filter is no other step
    steps.push({ address: toAddress(query), source, name, what, part: Boolean(query.box) });
    steps.splice(0, Math.max(0, steps.length - MOST));
    nav.hidden = steps.length < 2;
    list.replaceChildren(...steps.map((step, number) => {
      const button = element("button", { type: "button", title: step.name }, element("img", { src: step.source, alt: "" }));
      button.classList.toggle("part", step.part);
      button.setAttribute("aria-label", `Back to step ${number + 1}: ${step.name}`);
      button.addEventListener("click", () => {
        steps.splice(number + 1);
        onBack(step.address);
      });
      return element("li", {}, button);
    }));
  };
}
