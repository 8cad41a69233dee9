// Points of the map drawn by the processor, pixel by pixel: where there is no graphics card this takes milliseconds for
// 100,000 of them, and WebGL in software takes seconds.

export function painter(canvas, photos, colors) {
  const context = canvas.getContext("2d");
  let image = null;
  let pixels = null;

  function fit() {
    const [width, height] = [Math.max(1, canvas.clientWidth), Math.max(1, canvas.clientHeight)];
    if (image?.width === width && image.height === height) return;
    Object.assign(canvas, { width, height });
    image = context.createImageData(width, height);
    pixels = new Uint32Array(image.data.buffer);
  }

  function disc(x, y, spans, color) {
    const { width, height } = image;
    for (const [dy, half] of spans) {
      if (y + dy < 0 || y + dy >= height) continue;
      const start = (y + dy) * width;
      pixels.fill(color, start + Math.max(0, x - half), start + Math.min(width, x + half + 1));
    }
  }

  // A point of the map is at (left + scale * x, top + scale * y) on the canvas; `ringed` are rows with a ring around them.
  return ({ scale, left, top, radius, ringed = [], ink = 0 }) => {
    fit();
    pixels.fill(0);
    const { places, count } = photos;
    const color = new Uint32Array(colors.now().buffer);
    const reach = Math.ceil(radius);
    const draw = (row, spans, value) => {
      const [x, y] = [Math.round(left + scale * places[2 * row]), Math.round(top + scale * places[2 * row + 1])];
      if (x > -reach && y > -reach && x < image.width + reach && y < image.height + reach) disc(x, y, spans, value);
    };
    const around = spansOf(radius + 3);
    for (const row of ringed) draw(row, around, ink);
    const spans = spansOf(radius);
    for (let row = 0; row < count; row += 1) draw(row, spans, color[row]);
    for (const row of ringed) draw(row, spans, color[row]); // those beside it do not cover it
    context.putImageData(image, 0, 0);
  };
}

// The rows of a disc: how far each is from its middle, and how far it goes to both sides.
function spansOf(radius) {
  const reach = Math.floor(radius);
  return Array.from({ length: 2 * reach + 1 }, (_, n) => [n - reach, Math.round(Math.sqrt(radius ** 2 - (n - reach) ** 2) - 0.25)]);
}
