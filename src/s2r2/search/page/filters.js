// Which photos are shown: by folder, label, camera, day and size, all of them together. They are part of the address.

import { element, visible } from "./photo.js";

const NAMES = ["folder", "label", "camera", "taken_from", "taken_to", "megapixels_from", "megapixels_to"];

const MOST = 2000; // choices in a list

export const any = (filters) => NAMES.some((name) => filters[name]);

// What stands in place of a ranking without photos: those of the query are never in it.
export const nothingElse = (filters) => (any(filters) ? "No other photos match these filters." : "There are no other photos in the index.");

export const none = () => Object.fromEntries(NAMES.map((name) => [name, ""]));

export const read = (query) => Object.fromEntries(NAMES.map((name) => [name, query.get(name) || ""]));

export function write(filters, query) {
  for (const name of NAMES) if (filters[name]) query.set(name, filters[name]);
}

function fill(select, choices) {
  for (const { name, photos } of choices.slice(0, MOST)) {
    select.append(element("option", { value: name, textContent: `${visible(name)} (${photos.toLocaleString()})` }));
  }
  if (choices.length > MOST) {
    const textContent = `${(choices.length - MOST).toLocaleString()} more: name one in the address, #${select.name}=NAME`;
    select.append(element("option", { value: "", disabled: true, textContent }));
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
    for (const control of controls) {
      const value = filters[control.name];
      const listed = control.tagName !== "SELECT" || [...control.options].some((option) => option.value === value);
      if (!listed) control.append(element("option", { value, textContent: visible(value) }));
      control.value = value;
    }
    clear.hidden = !any(filters);
  };
  form.addEventListener("change", () => {
    if (form.reportValidity()) onChange(Object.fromEntries(controls.map(({ name, value }) => [name, value])));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  clear.addEventListener("click", () => onChange(none()));
  form.hidden = [...form.querySelectorAll("label, fieldset")].every((part) => part.hidden);
  return show;
}
