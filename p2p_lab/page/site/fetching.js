// Fetch a page's files with their progress. All addresses are relative to the page's own folder.

/** @typedef {{bytes: number, wire: number}} Size */
/** @typedef {{version: string, runtime: string, build: string, files: Record<string, Size>}} List */

/** @param {string} base address of the page's folder @returns {Promise<List>} */
export async function fetchList(base) {
  return (await fetched(new URL("page.json", base))).json();
}

/** @param {string} base @param {string} name @returns {Promise<any>} */
export async function fetchJson(base, name) {
  return (await fetched(new URL(name, base))).json();
}

/** Fetch files and tell how far it is. @param {string} base @param {List} list
 * @param {string[]} names @param {(done: number, total: number) => void} tell bytes so far
 * @returns {Promise<Record<string, Uint8Array>>} by name */
export async function fetchAll(base, list, names, tell) {
  const total = names.reduce((sum, name) => sum + list.files[name].bytes, 0);
  let done = 0;
  const got = await Promise.all(names.map(async (name) => {
    const bytes = await fetchBytes(new URL(name, base), list.files[name].bytes, (more) => {
      done += more;
      tell(done, total);
    });
    return /** @type {[string, Uint8Array]} */ ([name, bytes]);
  }));
  return Object.fromEntries(got);
}

/** @param {URL} address @param {number} size @param {(more: number) => void} tell
 * @returns {Promise<Uint8Array>} */
async function fetchBytes(address, size, tell) {
  const response = await fetched(address);
  const bytes = new Uint8Array(size);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  let at = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (at + part.value.length > size) break;
    bytes.set(part.value, at);
    at += part.value.length;
    tell(part.value.length);
  }
  if (at !== size) {
    throw new Error(`${address.pathname} came as ${at} bytes of ${size}. Load the page again.`);
  }
  return bytes;
}

/** @param {URL} address @returns {Promise<Response>} */
async function fetched(address) {
  const response = await fetch(address);
  if (!response.ok) {
    throw new Error(`${address.pathname} could not be fetched (${response.status}). Load the page again.`);
  }
  return response;
}
