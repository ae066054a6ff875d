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

/** Fetch packed files and tell how far it is. @param {string} base @param {List} list
 * @param {string[]} names without ".pack" @param {(done: number, total: number) => void} tell bytes so far
 * @returns {Promise<Record<string, Uint8Array<ArrayBuffer>>>} unpacked, by name */
export async function fetchAll(base, list, names, tell) {
  const size = (/** @type {string} */ name) => list.files[`${name}.pack`].bytes;
  const total = names.reduce((sum, name) => sum + size(name), 0);
  let done = 0;
  const got = await Promise.all(names.map(async (name) => {
    const packed = await fetchBytes(new URL(`${name}.pack`, base), size(name), (more) => {
      done += more;
      tell(done, total);
    });
    return /** @type {[string, Uint8Array<ArrayBuffer>]} */ ([name, await unpacked(packed)]);
  }));
  return Object.fromEntries(got);
}

/** Undo `p2p_lab.page.packing`: gzip, and bytes that were sorted by their place in a number.
 * @param {Uint8Array<ArrayBuffer>} packed @returns {Promise<Uint8Array<ArrayBuffer>>} */
export async function unpacked(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  const stride = data[0];
  if (stride === 1) return data.slice(1);
  const out = new Uint8Array(data.length - 1);
  let at = 1;
  for (let plane = 0; plane < stride; plane++) {
    for (let i = plane; i < out.length; i += stride) out[i] = data[at++];
  }
  return out;
}

/** @param {URL} address @param {number} size @param {(more: number) => void} tell
 * @returns {Promise<Uint8Array<ArrayBuffer>>} */
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
