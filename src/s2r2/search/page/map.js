// The map of all photos: deck.gl draws the points; thumbnails appear where there is room for them.

import { coloring } from "./map-colors.js";
import { readMap } from "./map-data.js";
import { lasso } from "./map-lasso.js";
import { painter } from "./map-painter.js";
import { pictures } from "./map-pictures.js";
import { amount, element, fileName, visible } from "./photo.js";
import * as api from "./api.js";

const [LEAST_RADIUS, RADIUS] = [1, 3]; // of a point, in pixels: smaller where they would cover each other
const FEW = 2000; // photos that are drawn smoothly without a graphics card, too
const ZOOMS = { minZoom: 6, maxZoom: 22 }; // powers of two, from the whole map on the screen to few photos
const REACH = 6; // so far from a point it is still meant

export async function openMap(stage, { onOpen, onStatus, selection }) {
  onStatus("Loading the map; for an index of an earlier version it is made now.");
  const photos = await readMap();
  const canvas = stage.querySelector("#map");
  onStatus(`${amount(photos.count, "photo")} on the map.`);
  const form = stage.parentElement.querySelector(".map-tools");
  const colors = coloring(photos, form, stage.parentElement.querySelector(".legend"));
  if (!document.createElement("canvas").getContext("webgl2")) {
    stillPicture(canvas, photos, colors);
    onStatus("This browser has no WebGL: the map is a still picture. Search and filters show the photos.");
    form.classList.add("still");
    return;
  }
  const { Deck, OrthographicView, ScatterplotLayer } = await import("./deck.js");
  const paint = photos.count > FEW && !hasGraphicsCard() ? painter(under(canvas), photos, colors) : null;
  const overlay = pictures(stage.querySelector(".pictures"), photos);
  const tip = tooltip(stage.querySelector(".tip"), photos);
  const drawing = { active: false };
  let drawnRadius = 0;
  let [loaded, waiting] = [false, 0];
  let viewState = { target: [0.5, 0.5, 0], zoom: Math.log2(0.9 * Math.min(canvas.clientWidth, canvas.clientHeight)), ...ZOOMS };

  const view = () => deck.getViewports()[0];
  const controller = () => ({ dragPan: !drawing.active, dragRotate: false, doubleClickZoom: false, keyboard: false, inertia: 250, scrollZoom: { speed: 0.002 } });
  const radius = () => radiusAt(2 ** viewState.zoom, photos.count);
  const points = () => new ScatterplotLayer({
    id: "photos",
    data: { length: photos.count, attributes: { getPosition: { value: photos.places, size: 2 }, getFillColor: { value: colors.now(), size: 4, normalized: true } } },
    radiusUnits: "pixels", getRadius: RADIUS, radiusScale: radius() / RADIUS, opacity: 0.8,
  });
  const ring = () => new ScatterplotLayer({
    id: "selected",
    data: photos.rowsOf(selection.chosen),
    getPosition: (row) => photos.place(row),
    radiusUnits: "pixels", getRadius: radius() + 2, filled: false, stroked: true, lineWidthUnits: "pixels", getLineWidth: 2, getLineColor: colors.ink(),
  });
  const layers = () => (paint ? [] : [points(), ring()]);
  const deck = new Deck({
    canvas,
    width: "100%", height: "100%",
    views: new OrthographicView({ flipY: true }),
    viewState, controller: controller(), layers: layers(),
    useDevicePixels: Math.min(2, window.devicePixelRatio || 1),
    onViewStateChange: ({ viewState: next }) => look(next),
    onLoad: () => {
      loaded = true;
      if (paint) repaint();
    },
    onAfterRender: () => overlay.follow(view(), colors),
    onHover: (info) => tip.show(at(info), info.x, info.y),
    onClick: (info) => {
      const row = drawing.active ? -1 : at(info);
      if (row >= 0) onOpen(photos.id(row));
    },
    getCursor: ({ isDragging }) => (drawing.active ? "crosshair" : isDragging ? "grabbing" : "grab"),
  });

  // The photo under the pointer: a thumbnail, else a point near it.
  function at(info) {
    const row = overlay.at(info.x, info.y);
    if (row >= 0 || info.x < 0) return row;
    return photos.nearest(view().unproject([info.x, info.y]), REACH / 2 ** viewState.zoom);
  }

  function look({ zoomX, zoomY, ...next }) { // gestures change these, or make zoom a pair; they are one number here
    viewState = { ...next, ...ZOOMS, zoom: zoomX ?? [next.zoom].flat()[0] };
    tip.hide();
    deck.setProps(drawnRadius === radius() ? { viewState } : { viewState, layers: layers() });
    drawnRadius = radius();
    if (paint) repaint();
  }

  // Without layers deck.gl draws nothing, and tells of no frame: it only follows the gestures.
  function repaint() {
    if (!loaded) return;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      if (!view()) {
        repaint();
        return;
      }
      const [left, top] = view().project([0, 0]);
      paint({ left, top, scale: 2 ** viewState.zoom, radius: radius(), ringed: photos.rowsOf(selection.chosen), ink: packed(colors.ink()) });
      overlay.follow(view(), colors);
    });
  }

  function zoom(steps) {
    look({ ...viewState, zoom: Math.min(ZOOMS.maxZoom, Math.max(ZOOMS.minZoom, viewState.zoom + steps)), transitionDuration: 0 });
  }

  function pan(dx, dy) {
    const [x, y] = viewState.target;
    look({ ...viewState, target: [x - dx / 2 ** viewState.zoom, y - dy / 2 ** viewState.zoom, 0], transitionDuration: 0 });
  }

  function add(rows) {
    selection.add(rows.map(photos.id));
    onStatus(rows.length ? `${amount(rows.length, "photo")} added to the selection.` : "No photos there.");
  }

  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (event.key === "+" || event.key === "=") zoom(0.4);
    else if (event.key === "-") zoom(-0.4);
    else if (event.key === "Escape" && drawing.active) giveUp() || lassoing(false);
    else if (steps[event.key]) pan(...steps[event.key]);
    else return;
    event.preventDefault();
  });
  const button = (name, work) => form.querySelector(`.${name}`).addEventListener("click", work);
  const lassoing = (on) => {
    drawing.active = on;
    form.querySelector(".lasso").setAttribute("aria-pressed", String(on));
    deck.setProps({ controller: controller() });
  };
  button("lasso", () => lassoing(!drawing.active));
  button("closer", () => zoom(1));
  button("farther", () => zoom(-1));
  button("inside", () => add(photos.inView(view())));
  const giveUp = lasso(stage, canvas, () => drawing.active, (path) => {
    add(photos.within(path.map(([x, y]) => view().unproject([x, y]))));
    setTimeout(() => lassoing(false)); // deck.gl has yet to see this gesture end, and must not take it for a move of the map
  });
  const redraw = () => (paint ? repaint() : deck.setProps({ layers: layers() }));
  colors.onChange(() => {
    overlay.forget();
    redraw();
  });
  selection.onChange(redraw);
  if (paint) new ResizeObserver(repaint).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

// What is under the pointer: its thumbnail at once, its name when the pointer rests.
function tooltip(box, photos) {
  let shown = -1;
  let timer = 0;
  const hide = () => {
    clearTimeout(timer);
    shown = -1;
    box.hidden = true;
  };
  return {
    hide,
    show(row, x, y) {
      if (row < 0) return hide();
      box.style.transform = `translate(${x + 14}px, ${y + 14}px)`;
      if (row === shown) return undefined;
      hide();
      shown = row;
      const id = photos.id(row);
      const name = element("span");
      box.replaceChildren(element("img", { src: api.thumbnail({ id, version: null }), alt: "" }), name);
      box.hidden = false;
      timer = setTimeout(async () => {
        const photo = await api.details(id).catch(() => null);
        if (photo && shown === row) name.textContent = [fileName(photo), ...photo.labels.map(visible)].join(" · ");
      }, 150);
      return undefined;
    },
  };
}

// The radius of a point, in pixels, where the whole map has `scale` of them.
const radiusAt = (scale, count) => Math.min(RADIUS, Math.max(LEAST_RADIUS, (0.7 * scale) / Math.sqrt(count)));

// Whether a graphics card draws WebGL, and not a program that stands in for one.
function hasGraphicsCard() {
  const gl = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  const names = gl?.getExtension("WEBGL_debug_renderer_info");
  const drawnBy = gl?.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER) || "";
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(gl) && !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(drawnBy);
}

// A second canvas below the one that takes the gestures.
function under(canvas) {
  const made = element("canvas", { className: "painted" });
  made.setAttribute("aria-hidden", "true");
  canvas.before(made);
  return made;
}

// A color as four bytes of a pixel.
const packed = (color) => new Uint32Array(new Uint8Array([...color, 255]).buffer)[0];

function stillPicture(canvas, photos, colors) {
  const paint = painter(canvas, photos, colors);
  const draw = () => {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const scale = 0.9 * Math.min(width, height);
    paint({ scale, left: (width - scale) / 2, top: (height - scale) / 2, radius: radiusAt(scale, photos.count) });
  };
  canvas.setAttribute("role", "img");
  colors.onChange(draw);
  new ResizeObserver(draw).observe(canvas);
}
