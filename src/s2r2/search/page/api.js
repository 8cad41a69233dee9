// What the server is asked for. Every address is on this server, beside this file, also where a proxy shows it under a path;
// photos are named by id, never by path.

const ROOT = new URL("..", import.meta.url);

async function ask(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is s2r2 serve still running?");
  }
}

async function answer(response) {
  const kind = response.headers.get("content-type") || "";
  const content = kind.includes("json") ? await response.json() : null;
  if (!response.ok) throw new Error(content?.error || `the server answered ${response.status}`);
  if (!content) throw new Error("Another program, not s2r2 serve, answers at this address.");
  return content;
}

function address(path, options) {
  const found = new URL(path, ROOT);
  for (const [name, value] of Object.entries(options)) {
    if (value !== null && value !== undefined && value !== "") found.searchParams.set(name, value);
  }
  return found.href;
}

const get = async (path, options = {}, signal = undefined) => answer(await ask(address(path, options), { signal }));

export const about = () => get("api/about");
export const photos = (options, signal) => get("api/photos", options, signal);
export const details = (id, index = 0, signal = undefined) => get(`api/photos/${id}`, { index }, signal);
export const words = (text, options) => get("api/words", { text, ...options });
export const mapNames = () => get("api/map/names");
export const similar = (id, options, signal) => get(`api/similar/${id}`, options, signal);

async function send(path, blob, options, signal) {
  const headers = { "content-type": blob.type.startsWith("image/") ? blob.type : "application/octet-stream" };
  return answer(await ask(address(path, options), { method: "POST", body: blob, headers, signal }));
}

export const similarToUpload = (blob, options, signal) => send("api/similar", blob, options, signal);
export const vectorOfUpload = (blob, options, signal) => send("api/vector", blob, options, signal);

async function sendJson(path, content, options = {}, signal = undefined) {
  const headers = { "content-type": "application/json" };
  return answer(await ask(address(path, options), { method: "POST", body: JSON.stringify(content), headers, signal }));
}

export const search = (query, options, signal) => sendJson("api/search", query, options, signal);

export const select = (photos) => sendJson("api/selections", { photos });
export const selected = (name, file) => address(`api/selections/${name}/${file}`, {});
export async function selectedPaths(name) {
  const response = await ask(selected(name, "paths.txt"));
  if (!response.ok) await answer(response);
  return response.text();
}

export const marks = (id, options, signal) => get(`api/marks/${id}`, options, signal);
export const mark = async (id, options) => answer(await ask(address(`api/marks/${id}`, options), { method: "POST" }));

export const thumbnail = (photo, index = 0) => address(`thumbnail/${photo.id}`, { index: index || "", v: photo.version });
export const large = (id, index = 0) => address(`photo/${id}`, { index: index || "" });

// Whether a large photo that is shown is the thumbnail in the index; the browser still has the answer that it shows.
export async function isThumbnail(shown, signal) {
  const { headers, body } = await ask(shown, { cache: "force-cache", signal });
  body?.cancel();
  return headers.get("s2r2-picture") === "thumbnail";
}

// Long work answers 202 until it is done.
export async function whenReady(path, options = {}, signal = undefined) {
  for (;;) {
    const response = await ask(address(path, options), { signal });
    if (response.status !== 202) {
      if (!response.ok) await answer(response);
      return response;
    }
    await new Promise((resolve) => setTimeout(resolve, 700));
    if (signal?.aborted) throw new DOMException("aborted", "AbortError");
  }
}

// Calls `onLoading` again and again while an encoder is not there yet, until what this gives back is called.
export function whileLoading(onLoading) {
  let waiting = true;
  const timer = setInterval(async () => {
    const { indexes } = await about().catch(() => ({ indexes: [] }));
    if (waiting && indexes.some(({ ready }) => !ready)) onLoading();
  }, 500);
  return () => {
    waiting = false;
    clearInterval(timer);
  };
}
