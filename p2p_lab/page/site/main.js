// The page: read what is small, show it, then let the worker fetch the model and draw.

import { Client } from "./client.js";
import { fetchJson, fetchList } from "./fetching.js";
import { fromHash, makeRecipe } from "./method/recipe.js";
import { Tokenizer } from "./method/tokenizer.js";
import { isolate } from "./isolating.js";
import { State } from "./state.js";
import { showControls } from "./view/controls.js";
import { byId, el, fill } from "./view/dom.js";
import { showFigures } from "./view/figures.js";
import { showPlaying } from "./view/playing.js";
import { showPrompts } from "./view/prompts.js";
import { showReading } from "./view/reading.js";
import { showSharing } from "./view/share.js";
import { prepareTour } from "./view/tour.js";

/** @typedef {import("./protocol.js").Recipe} Recipe */

const BASE = new URL(".", location.href).href;
// A module of one function with one SIMD instruction: is it valid?
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

/** Say why the page cannot run, and show pictures that were drawn before. @param {string} why */
function giveUp(why) {
  const strip = el("img", {
    src: "model/strip.png", class: "strip",
    alt: "Four pictures above, and below each the same picture after its prompt was edited.",
  });
  byId("loading").hidden = false;
  fill(byId("loading"), el("div", { class: "box" }, el("p", {}, why), strip));
}

/** @param {any} facts @param {Tokenizer} tokenizer @returns {{state: State, message: string}} */
function begin(facts, tokenizer) {
  const example = facts.examples[0] ?? { source: "a cat", target: "a dog", seed: 0 };
  const first = makeRecipe({
    ...example, steps: facts.live_steps, guidance_scale: facts.guidance_scale, model: facts.name,
    made_by: facts.digest,
  });
  try {
    const found = fromHash(location.hash);
    const state = new State(facts, tokenizer, found ? adapted(found, facts) : first);
    return { state, message: found ? wrongModel(found, facts) : "" };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { state: new State(facts, tokenizer, first), message };
  }
}

/** A link's recipe with the numbers that it leaves to the model. @param {Recipe} found
 * @param {any} facts @returns {Recipe} */
function adapted(found, facts) {
  if (found.sampler !== "ddim" || found.seed === null) {
    throw new Error("This page draws with the sampler ddim from a seed; the link asks for something else. Open it in EditPanel.");
  }
  if (found.size && String(found.size) !== String(facts.size)) {
    throw new Error(`This page draws ${facts.size.join(" by ")} pixels; the link asks for ${found.size.join(" by ")}. Open it in EditPanel.`);
  }
  return {
    ...found, steps: found.steps ?? facts.steps, model: facts.name, made_by: facts.digest,
    guidance_scale: found.guidance_scale ?? facts.guidance_scale,
  };
}

/** @param {Recipe} found @param {any} facts @returns {string} */
function wrongModel(found, facts) {
  const same = (!found.model || found.model === facts.name) && (!found.made_by || found.made_by === facts.digest);
  if (same) return "";
  const name = found.model === facts.name ? `another ${found.model}` : found.model || "another model";
  return `The link was made with ${name}; this page has ${facts.name}, so the picture is another one.`;
}

/** @param {number} wire bytes over the network @returns {(done: number, total: number) => void} */
function loadingBar(wire) {
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Loading the model" });
  const label = el("p");
  fill(byId("loading"), el("div", { class: "box" }, el("p", {}, el("b", {}, "Loading the model")), bar, label));
  return (done, total) => {
    bar.value = done / total;
    const megabytes = (/** @type {number} */ part) => ((part * wire) / 1e6).toFixed(1);
    label.textContent = done < total
      ? `${megabytes(done / total)} of ${megabytes(1)} MB, once; then it works without a network.`
      : "Getting ready…";
  };
}

async function start() {
  if (!globalThis.WebAssembly?.validate(SIMD) || !globalThis.Worker || !globalThis.OffscreenCanvas
    || !globalThis.DecompressionStream) {
    throw new Error("This browser is too old to run the model: it needs WebAssembly with SIMD. Take a Firefox, Chrome, Edge or Safari of the last three years.");
  }
  const list = await fetchList(BASE);
  if (await isolate(list.build)) return; // the page is loaded again, with threads
  const [facts, words] = await Promise.all([
    fetchJson(BASE, "model/model.json"), fetchJson(BASE, "model/tokenizer.json"),
  ]);
  const { state, message } = begin(facts, new Tokenizer(words, facts.tokens));
  const needed = Object.entries(list.files).filter(([name]) => name.endsWith(".onnx.pack") || name.endsWith("threaded.wasm.pack"));
  const client = new Client(state, loadingBar(needed.reduce((sum, [, size]) => sum + size.wire, 0)), giveUp);
  state.set({ message });
  showPrompts(state);
  showFigures(state);
  showPlaying(state, client);
  showControls(state);
  showReading(state);
  showSharing(state, client, prepareTour(state));
  state.watch(["ready", "shown"], () => { byId("loading").hidden = state.fields.ready && state.fields.shown.source !== null; });
  state.watch(["busy", "ready", "message", "idle"], () => { byId("status").textContent = statusOf(state); });
  window.addEventListener("hashchange", () => follow(state));
  Object.assign(globalThis, { p2pPage: { state, client } }); // for tests and for curious readers
}

/** @param {State} state @returns {string} */
function statusOf(state) {
  const { busy, ready, message, idle } = state.fields;
  if (message) return message;
  if (!ready) return "Loading";
  if (busy) return `Drawing: step ${busy.done} of ${busy.total}`;
  return idle ? "Ready" : "Drawing ahead";
}

/** @param {State} state */
function follow(state) {
  try {
    const found = fromHash(location.hash);
    if (found) state.change(adapted(found, state.facts));
  } catch (error) {
    state.set({ message: error instanceof Error ? error.message : String(error) });
  }
}

start().catch((error) => giveUp(error instanceof Error ? error.message : String(error)));
