// The page's service worker: it adds the headers that threads need, and keeps the files of one build.

const build = new URL(self.location.href).searchParams.get("build") ?? "none";
const NAME = `p2p-page-${build}`;
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};
const worker = /** @type {ServiceWorkerGlobalScope} */ (/** @type {unknown} */ (self));

worker.addEventListener("install", () => worker.skipWaiting());

worker.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith("p2p-page-") && name !== NAME);
    await Promise.all(old.map((name) => caches.delete(name)));
    await worker.clients.claim();
  })());
});

worker.addEventListener("fetch", (event) => {
  const { request } = event;
  const here = request.url.startsWith(worker.registration.scope);
  if (request.method === "GET" && here) event.respondWith(answer(request));
});

/** From the network where it changes (the page and its list), else from what is kept.
 * @param {Request} request @returns {Promise<Response>} */
async function answer(request) {
  const cache = await caches.open(NAME);
  const changes = request.mode === "navigate" || request.url.endsWith("page.json");
  const kept = await cache.match(request, { ignoreSearch: true });
  if (kept && !changes) return isolated(kept);
  try {
    const fresh = await fetch(request);
    if (fresh.ok) await cache.put(request, fresh.clone());
    return isolated(fresh);
  } catch (error) {
    if (kept) return isolated(kept);
    throw error;
  }
}

/** @param {Response} response @returns {Response} */
function isolated(response) {
  if (response.status === 0) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
