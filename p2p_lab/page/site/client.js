// The page's end of the worker: it asks for what the state wants and puts what comes into the state.

/** @typedef {import("./protocol.js").Reply} Reply */
/** @typedef {import("./protocol.js").Command} Command */
/** @typedef {import("./protocol.js").Recipe} Recipe */
/** @typedef {import("./state.js").State} State */

const MOST_THREADS = 4;
const SCALES = { least: -2, most: 4, step: 0.25 };

export class Client {
  /** @param {State} state @param {(done: number, total: number) => void} tell progress of loading
   * @param {(message: string) => void} fail called when the page cannot go on */
  constructor(state, tell, fail) {
    this.state = state;
    this.tell = tell;
    this.fail = fail;
    this.previewId = 0;
    this.drafts = 0;
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", (event) => this.hear(event.data));
    this.worker.addEventListener("error", (event) => fail(event.message || "The worker did not start."));
    const threads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
    const command = new URLSearchParams(location.search);
    this.ask({
      kind: "load", base: new URL(".", location.href).href,
      threads: Number(command.get("threads")) || threads,
      provider: command.get("provider") === "webgpu" ? "webgpu" : "wasm",
    });
    state.watch(["recipe", "ready"], () => this.want());
  }

  /** @param {Command} command */
  ask(command) {
    this.worker.postMessage(command);
  }

  /** @param {Extract<Reply, {kind: "ready"}>} reply what the model runs on, and why not on what was wished */
  begin({ provider, apart, why }) {
    const message = why ? `The processor draws, not the graphics card: ${why}.` : this.state.fields.message;
    this.state.set({ ready: true, provider, apart, message });
  }

  want() {
    const { recipe, ready, touched } = this.state.fields;
    if (!ready) return;
    const saves = new URLSearchParams(location.search).get("ahead") === "0";
    this.state.set({ idle: false });
    this.ask({ kind: "want", recipe, ahead: saves ? [] : draftsAhead(recipe, touched, this.state.facts) });
  }

  /** Ask for the pictures of all steps, if they are not here. */
  wantPreviews() {
    const { previews } = this.state.fields;
    if (previews.edit && this.state.fresh("edit")) return;
    this.previewId += 1;
    this.ask({ kind: "previews", id: this.previewId });
  }

  /** @param {Reply} reply */
  hear(reply) {
    const state = this.state;
    if (reply.kind === "progress") this.tell(reply.done, reply.total);
    else if (reply.kind === "ready") this.begin(reply);
    else if (reply.kind === "step") state.set({ busy: { part: reply.part, done: reply.done, total: reply.total } });
    else if (reply.kind === "shown") this.show(reply);
    else if (reply.kind === "previews") {
      if (reply.id === this.previewId) state.set({ previews: reply.previews });
    } else if (reply.kind === "idle") {
      this.drafts += reply.drafts;
      state.set({ busy: null, idle: true });
    } else if (reply.fatal) this.fail(reply.message);
    else state.set({ message: reply.message, busy: null });
  }

  /** @param {Extract<Reply, {kind: "shown"}>} reply */
  show({ part, recipe, shown }) {
    const { fields } = this.state;
    const previews = { ...fields.previews };
    if (fields.shown[part]?.key !== shown.key) previews[part] = null;
    this.state.set({
      shown: { ...fields.shown, [part]: shown }, drawn: { ...fields.drawn, [part]: recipe }, previews,
      busy: part === "reprompt" ? null : fields.busy,
    });
  }
}

/** Recipes that the hand may ask for next: every end of a window, and the touched fader's neighbours.
 * @param {Recipe} recipe @param {string} touched @param {any} facts @returns {Recipe[]} */
export function draftsAhead(recipe, touched, facts) {
  const steps = recipe.steps ?? facts.steps;
  const near = touched.startsWith("scale:") ? fadersAround(recipe, touched) : [];
  if (steps > 2 * facts.live_steps) return near;
  const ends = Array.from({ length: steps + 1 }, (_, k) => k / steps);
  const cross = ends.map((end) => ({ ...recipe, cross: end }));
  const selfEnds = ends.map((end) => ({ ...recipe, self_attention: end }));
  return [...near, ...(touched === "self" ? [...selfEnds, ...cross] : [...cross, ...selfEnds])];
}

/** @param {Recipe} recipe @param {string} touched "scale:word:occurrence" @returns {Recipe[]} */
function fadersAround(recipe, touched) {
  const [, word, place] = touched.split(":");
  const others = recipe.scales.filter(([w, n]) => w !== word || n !== Number(place));
  const now = recipe.scales.find(([w, n]) => w === word && n === Number(place))?.[2] ?? 1;
  const { least, most, step } = SCALES;
  return [1, -1, 2, -2, 3, 4].map((k) => now + k * step)
    .filter((scale) => scale >= least && scale <= most)
    .map((scale) => ({ ...recipe, scales: scale === 1 ? others : [...others, [word, Number(place), scale]] }));
}
