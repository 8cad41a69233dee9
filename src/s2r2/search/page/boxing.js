// Drawing a box on the query with mouse, finger or pen, and moving it with the keyboard.

export function boxing(stage, box, onBox) {
  let begin = null;
  let current = null;

  function fractions(event) {
    const area = stage.getBoundingClientRect();
    const clamp = (value) => Math.min(1, Math.max(0, value));
    return [clamp((event.clientX - area.left) / area.width), clamp((event.clientY - area.top) / area.height)];
  }

  function show(part) {
    current = part;
    box.hidden = !part;
    if (!part) return;
    const [left, top, width, height] = part.map((value) => `${100 * value}%`);
    Object.assign(box.style, { left, top, width, height });
  }

  function between([x, y], [u, v]) {
    return [Math.min(x, u), Math.min(y, v), Math.abs(u - x), Math.abs(v - y)];
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    begin = fractions(event);
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    if (begin) show(between(begin, fractions(event)));
  });
  const end = (event) => {
    if (!begin) return;
    const part = between(begin, fractions(event));
    begin = null;
    const large = part[2] > 0.03 && part[3] > 0.03;
    show(large ? part : null);
    onBox(large ? part : null);
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", () => {
    begin = null;
    show(null);
  });
  stage.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Enter" && current) onBox(current);
    else if (event.key === "Escape") {
      show(null);
      onBox(null);
    } else if (move) {
      const [left, top, width, height] = current || [0.25, 0.25, 0.5, 0.5];
      const d = 0.05;
      const within = (value, most) => Math.min(most, Math.max(0, value));
      if (event.shiftKey) {
        const w = Math.min(1 - left, Math.max(0.05, width + d * move[0]));
        show([left, top, w, Math.min(1 - top, Math.max(0.05, height + d * move[1]))]);
      } else {
        show([within(left + d * move[0], 1 - width), within(top + d * move[1], 1 - height), width, height]);
      }
    } else return;
    event.preventDefault();
  });
  return { show };
}
