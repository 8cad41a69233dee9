// Drawing around photos on the map with mouse, finger or pen. Returns what gives up a line that is being drawn, and says
// whether there was one.

export function lasso(stage, canvas, isActive, onDrawn) {
  const line = stage.querySelector(".lasso-line polygon");
  let path = null;
  const place = (event) => {
    const area = canvas.getBoundingClientRect();
    return [event.clientX - area.left, event.clientY - area.top];
  };
  const show = () => line.setAttribute("points", (path || []).map((point) => point.join()).join(" "));
  const end = (drawn) => {
    const found = path;
    path = null;
    show();
    if (drawn && found?.length > 2) onDrawn(found);
  };
  stage.addEventListener("pointerdown", (event) => {
    if (!isActive() || event.button !== 0) return;
    path = [place(event)];
    canvas.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!path) return;
    path.push(place(event));
    show();
  });
  stage.addEventListener("pointerup", () => end(true));
  stage.addEventListener("pointercancel", () => end(false));
  return () => {
    const begun = path !== null;
    end(false);
    return begun;
  };
}
