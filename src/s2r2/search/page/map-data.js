// What the server tells of the map: ids and places of all photos, and what they can be colored by.

import { whenReady } from "./api.js";

const RECORD = 32; // id: 8 bytes, place: two floats, folder and label: 4 bytes each, date: 8 bytes

export async function readMap() {
  const buffer = await (await whenReady("api/map")).arrayBuffer();
  const data = new DataView(buffer);
  const count = Math.floor(buffer.byteLength / RECORD);
  const places = new Float32Array(2 * count);
  const [folder, label, date] = [new Uint32Array(count), new Uint32Array(count), new Float64Array(count)];
  for (let row = 0, at = 0; row < count; row += 1, at += RECORD) {
    places[2 * row] = data.getFloat32(at + 8, true);
    places[2 * row + 1] = data.getFloat32(at + 12, true);
    folder[row] = data.getUint32(at + 16, true);
    label[row] = data.getUint32(at + 20, true);
    date[row] = data.getFloat64(at + 24, true);
  }
  const id = (row) => data.getBigUint64(row * RECORD, true).toString(16).padStart(16, "0");
  let rows = null;
  const rowOf = (one) => {
    if (!rows) {
      rows = new Map();
      for (let row = 0; row < count; row += 1) rows.set(id(row), row);
    }
    return rows.get(one);
  };
  const those = (wanted) => {
    const found = [];
    for (let row = 0; row < count; row += 1) if (wanted(places[2 * row], places[2 * row + 1])) found.push(row);
    return found;
  };
  return {
    count, places, folder, label, date, id, rowOf,
    place: (row) => [places[2 * row], places[2 * row + 1]],
    rowsOf: (ids) => [...ids].map(rowOf).filter((row) => row !== undefined),
    // The row of the photo that is nearest to a place, at most `reach` away; or -1.
    nearest([x, y], reach) {
      let [found, least] = [-1, reach * reach];
      for (let row = 0; row < count; row += 1) {
        const distance = (places[2 * row] - x) ** 2 + (places[2 * row + 1] - y) ** 2;
        if (distance < least) {
          found = row;
          least = distance;
        }
      }
      return found;
    },
    inView(view) {
      const [left, top, right, bottom] = view.getBounds();
      return those((x, y) => x >= left && x <= right && y >= top && y <= bottom);
    },
    within: (path) => those(insideOf(path)),
  };
}

// Whether a point is inside a polygon: a line from it to the right crosses the border an odd number of times.
function insideOf(path) {
  const [xs, ys] = [path.map(([x]) => x), path.map(([, y]) => y)];
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  return (x, y) => {
    if (x < left || x > right || y < top || y > bottom) return false;
    let inside = false;
    for (let i = 0, j = xs.length - 1; i < xs.length; j = i, i += 1) {
      if (ys[i] > y !== ys[j] > y && x < ((xs[j] - xs[i]) * (y - ys[i])) / (ys[j] - ys[i]) + xs[i]) inside = !inside;
    }
    return inside;
  };
}
