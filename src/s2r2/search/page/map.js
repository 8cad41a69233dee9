// The map of all photos: a canvas to wander in. Dots from afar, thumbnails when near.

import { thumbnail, whenReady } from "./api.js";

const RECORD = 24; // id: 8 bytes, place: two floats, folder and label: 4 bytes each
const PICTURES_AT_ONCE = 150;

export async function openMap(canvas, { onOpen, onStatus }) {
  onStatus("Placing the photos; this takes a moment the first time.");
  const data = new DataView(await (await whenReady("api/map")).arrayBuffer());
  const photos = [];
  for (let at = 0; at + RECORD <= data.byteLength; at += RECORD) {
    const id = data.getBigUint64(at, true).toString(16).padStart(16, "0");
    photos.push({
      id, x: data.getFloat32(at + 8, true), y: data.getFloat32(at + 12, true), label: data.getUint32(at + 20, true),
    });
  }
  onStatus(`${photos.length.toLocaleString()} photos on the map.`);
  const view = { x: 0.5, y: 0.5, zoom: 0.92 };
  const pictures = new Map();
  const context = canvas.getContext("2d");
  let waiting = false;

  function redraw() {
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        draw();
      });
    }
  }

  function picture(photo) {
    let image = pictures.get(photo.id);
    if (!image) {
      image = new Image();
      image.src = thumbnail({ id: photo.id, version: null });
      image.onload = redraw;
      pictures.set(photo.id, image);
      if (pictures.size > 4 * PICTURES_AT_ONCE) pictures.delete(pictures.keys().next().value);
    }
    return image;
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const unit = Math.min(width, height) * view.zoom;
    const size = Math.max(32, Math.min(110, (unit / Math.sqrt(photos.length)) * 0.8));
    const seen = [];
    for (const photo of photos) {
      photo.left = width / 2 + (photo.x - view.x) * unit;
      photo.top = height / 2 + (photo.y - view.y) * unit;
      if (photo.left > -size && photo.top > -size && photo.left < width + size && photo.top < height + size) seen.push(photo);
    }
    const style = getComputedStyle(canvas);
    context.fillStyle = style.getPropertyValue("--accent");
    const taken = new Set();
    let shown = 0;
    for (const photo of seen) {
      photo.size = 0;
      const cell = `${Math.floor(photo.left / (size * 0.9))},${Math.floor(photo.top / (size * 0.9))}`;
      if (shown < PICTURES_AT_ONCE && !taken.has(cell)) {
        taken.add(cell);
        shown += 1;
        photo.size = size;
      } else {
        context.globalAlpha = 0.55;
        context.fillRect(photo.left - 1.5, photo.top - 1.5, 3, 3);
      }
    }
    context.globalAlpha = 1;
    for (const photo of seen) {
      if (!photo.size) continue;
      const image = picture(photo);
      if (image.complete && image.naturalWidth) {
        const scale = size / Math.max(image.naturalWidth, image.naturalHeight);
        const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
        context.drawImage(image, photo.left - w / 2, photo.top - h / 2, w, h);
      } else {
        context.fillRect(photo.left - 3, photo.top - 3, 6, 6);
      }
    }
    canvas.dataset.shown = shown;
  }

  function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const before = Math.min(canvas.clientWidth, canvas.clientHeight) * view.zoom;
    view.zoom = Math.min(200, Math.max(0.5, view.zoom * factor));
    const after = Math.min(canvas.clientWidth, canvas.clientHeight) * view.zoom;
    view.x += (x - canvas.clientWidth / 2) * (1 / before - 1 / after);
    view.y += (y - canvas.clientHeight / 2) * (1 / before - 1 / after);
    redraw();
  }

  function pan(dx, dy) {
    const unit = Math.min(canvas.clientWidth, canvas.clientHeight) * view.zoom;
    view.x -= dx / unit;
    view.y -= dy / unit;
    redraw();
  }

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, moved: 0 };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    pan(event.clientX - drag.x, event.clientY - drag.y);
    drag.moved += Math.abs(event.clientX - drag.x) + Math.abs(event.clientY - drag.y);
    Object.assign(drag, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointerup", (event) => {
    const still = drag && drag.moved < 5;
    drag = null;
    if (!still) return;
    const area = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - area.left, event.clientY - area.top];
    let best = null;
    let least = 40;
    for (const photo of photos) {
      const distance = Math.max(Math.abs(photo.left - x), Math.abs(photo.top - y)) - (photo.size || 6) / 2;
      if (distance < Math.min(least, 8)) [best, least] = [photo, distance];
    }
    if (best) onOpen(best.id);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const area = canvas.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 400), event.clientX - area.left, event.clientY - area.top);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (event.key === "+" || event.key === "=") zoom(1.3);
    else if (event.key === "-") zoom(1 / 1.3);
    else if (steps[event.key]) pan(...steps[event.key]);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(redraw).observe(canvas);
  redraw();
}
