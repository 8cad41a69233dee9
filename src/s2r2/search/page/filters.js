// Which photos are shown: by folder, label, camera, day and size, all of them together. They are part of the address.

import { element, visible } from "./photo.js";

const NAMES = ["folder", "label", "camera", "taken_from", "taken_to", "megapixels_from", "megapixels_to"];

export const none = () => Object.fromEntries(NAMES.map((name) => [name, ""]));

export const read = (query) => Object.fromEntries(NAMES.map((name) => [name, query.get(name) || ""]));

export function write(filters, query) {
  for (const name of NAMES) if (filters[name]) query.set(name, filters[name]);
}

function fill(select, choices) {
  for (const { name, photos } of choices.slice(0, 2000)) {
    select.append(element("option", { value: name, textContent: `${visible(name)} (${photos.toLocaleString()})` }));
  }
  select.closest("label").hidden = choices.length === 0;
}

// The controls in a form, for what the index knows of its photos; `onChange` gets all filters.
export function filtering(form, about, onChange) {
  const controls = NAMES.map((name) => form.elements[name]);
  fill(form.elements.folder, about.folders);
  fill(form.elements.label, about.labels);
  fill(form.elements.camera, about.cameras);
  for (const name of ["taken", "megapixels"]) {
    form.querySelector(`.${name}`).hidden = !about[name];
    if (!about[name]) continue;
    const [least, most] = name === "taken" ? about.taken : about.megapixels.map((value) => value.toFixed(1));
    form.elements[`${name}_from`].title = form.elements[`${name}_from`].placeholder = least;
    form.elements[`${name}_to`].title = form.elements[`${name}_to`].placeholder = most;
  }
  const clear = form.querySelector(".clear");
  const show = (filters) => {
    for (const control of controls) control.value = filters[control.name];
    clear.hidden = NAMES.every((name) => !filters[name]);
  };
  form.addEventListener("change", () => {
    if (form.reportValidity()) onChange(Object.fromEntries(controls.map(({ name, value }) => [name, value])));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  clear.addEventListener("click", () => onChange(none()));
  form.hidden = [...form.querySelectorAll("label, fieldset")].every((part) => part.hidden);
  return show;
}
