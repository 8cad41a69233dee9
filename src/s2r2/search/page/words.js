// Words find photos by a CLIP-like model; the encoder ranks on from these, alone or beside other photos of the query.

import * as api from "./api.js";

export function words(form, { filters, onSeeds, onProblem, onStatus }) {
  const input = form.querySelector("input");
  const off = form.querySelector("details");

  async function find(kind) {
    const text = input.value.trim();
    if (!text) return input.focus();
    onProblem(null);
    onStatus("Looking for photos that fit these words; the first time the model is loaded.");
    try {
      const { photos } = await api.words(text, filters());
      if (photos.length) onSeeds(kind, photos.map(({ id }) => ({ photo: id, of: 0, upload: null, keep: true })));
      else onStatus("No photos match these filters.");
    } catch (error) {
      onStatus("");
      onProblem(error);
    }
    return undefined;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    find(null);
  });
  for (const kind of ["more", "less"]) form.querySelector(`.${kind}`).addEventListener("click", () => find(kind));
  return {
    // Whether the index can be searched by words, and what to do if not.
    offer(reason, asked) {
      form.querySelector(".row").hidden = Boolean(reason);
      off.hidden = !reason;
      off.querySelector(".hint").textContent = reason ?? "";
      for (const kind of ["more", "less"]) form.querySelector(`.${kind}`).hidden = !asked;
    },
  };
}
