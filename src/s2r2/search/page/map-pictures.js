// Thumbnails over the points of the map, as many as have room; the others stay points.

import { thumbnail } from "./api.js";

const MOST = 150;
const LEAST_SIDE = 30; // pixels; where points are denser there are no thumbnails
const MOST_SIDE = 110;
const CHOSEN_AGAIN = 120; // milliseconds; between these, those that are shown follow the view

export function pictures(layer, photos) {
  const shown = new Map(); // row: its image
  let side = MOST_SIDE;
  let last = 0;
  let later = 0;
  const canvas = layer.parentElement.querySelector("#map");

  function choose(view, colors) {
    last = performance.now();
    const rows = photos.inView(view);
    side = Math.min(MOST_SIDE, 0.8 * Math.sqrt((view.width * view.height) / Math.max(1, rows.length)));
    const wanted = new Set();
    if (side >= LEAST_SIDE) {
      const taken = new Set();
      rows.sort((a, b) => shown.has(b) - shown.has(a)); // few by now; those that are there stay
      for (const row of rows) {
        const [x, y] = view.project(photos.place(row));
        const cell = `${Math.round(x / side)},${Math.round(y / side)}`;
        if (taken.has(cell)) continue;
        taken.add(cell);
        wanted.add(row);
        if (wanted.size >= MOST) break;
      }
    }
    for (const [row, image] of shown) {
      if (wanted.has(row)) continue;
      image.remove();
      shown.delete(row);
    }
    for (const row of wanted) if (!shown.has(row)) shown.set(row, made(row, colors));
    canvas.dataset.shown = shown.size;
  }

  function made(row, colors) {
    const image = document.createElement("img");
    Object.assign(image, { src: thumbnail({ id: photos.id(row), version: null }), alt: "", decoding: "async" });
    image.style.borderColor = colors.css(row);
    image.addEventListener("error", () => image.remove()); // its point is still there
    layer.append(image);
    return image;
  }

  function follow(view, colors) {
    if (!view) return;
    clearTimeout(later);
    if (performance.now() - last > CHOSEN_AGAIN) choose(view, colors);
    else later = setTimeout(() => follow(view, colors), CHOSEN_AGAIN);
    for (const [row, image] of shown) {
      const [x, y] = view.project(photos.place(row));
      image.style.width = image.style.height = `${side}px`;
      image.style.transform = `translate(${x - side / 2}px, ${y - side / 2}px)`;
      image.dataset.x = x;
      image.dataset.y = y;
    }
  }

  return {
    follow,
    forget() {
      for (const image of shown.values()) image.remove();
      shown.clear();
      last = 0;
    },
    // The row of the thumbnail at a place on the screen, or -1.
    at(x, y) {
      for (const [row, image] of shown) {
        if (Math.abs(image.dataset.x - x) < side / 2 && Math.abs(image.dataset.y - y) < side / 2) return row;
      }
      return -1;
    },
  };
}
