// What the server is asked for. Every address is on this server; photos are named by id, never by path.

async function answer(response) {
  const kind = response.headers.get("content-type") || "";
  const content = kind.includes("json") ? await response.json() : null;
  if (!response.ok) throw new Error(content?.error || `the server answered ${response.status}`);
  return content;
}

function address(path, options) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(options)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

const get = async (path, options = {}, signal = undefined) => answer(await fetch(address(path, options), { signal }));

export const about = () => get("/api/about");
export const photos = (options, signal) => get("/api/photos", options, signal);
export const details = (id, index = 0) => get(`/api/photos/${id}`, { index });
export const similar = (id, options, signal) => get(`/api/similar/${id}`, options, signal);

export async function similarToUpload(blob, options, signal) {
  const headers = { "content-type": blob.type.startsWith("image/") ? blob.type : "application/octet-stream" };
  return answer(await fetch(address("/api/similar", options), { method: "POST", body: blob, headers, signal }));
}

export const thumbnail = (photo, index = 0) => address(`/thumbnail/${photo.id}`, { index: index || "", v: photo.version });
export const large = (id, index = 0) => address(`/photo/${id}`, { index: index || "" });

// Long work answers 202 until it is done.
export async function whenReady(path, options = {}, signal = undefined) {
  for (;;) {
    const response = await fetch(address(path, options), { signal });
    if (response.status !== 202) {
      if (!response.ok) await answer(response);
      return response;
    }
    await new Promise((resolve) => setTimeout(resolve, 700));
    if (signal?.aborted) throw new DOMException("aborted", "AbortError");
  }
}
