// Threads on a static host: browsers give them to a page only with two headers, which such a host
// cannot send. A service worker adds them, and keeps the files, so that the page works offline.

/** Install the service worker where it is needed. @param {string} build digest of the page's files
 * @returns {Promise<boolean>} whether the page is being loaded again */
export async function isolate(build) {
  if (self.crossOriginIsolated || !("serviceWorker" in navigator) || !self.isSecureContext) return false;
  const tried = "p2p-isolated";
  try {
    await navigator.serviceWorker.register(`sw.js?build=${build}`);
    if (sessionStorage.getItem(tried) === build) return false; // once is enough: this host forbids it
    sessionStorage.setItem(tried, build);
    await navigator.serviceWorker.ready;
    location.reload();
    return true;
  } catch {
    return false; // private windows, old browsers: one thread is enough
  }
}
