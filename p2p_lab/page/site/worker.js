// The worker: it holds the model and draws what was command for last. Between two steps it looks whether
// something newer was command; when nothing is, it draws ahead.

import { difference } from "./comparing.js";
import { Desk, shownMaps } from "./drawing.js";
import { fetchAll, fetchJson, fetchList } from "./fetching.js";
import { Tokenizer } from "./method/tokenizer.js";
import { GRAPHS, openNets } from "./nets.js";

/** @typedef {import("./protocol.js").Command} Command */
/** @typedef {import("./protocol.js").Reply} Reply */
/** @typedef {import("./protocol.js").Part} Part */
/** @typedef {import("./protocol.js").Recipe} Recipe */
/** @typedef {import("./drawing.js").Drawn} Drawn */

const MOST_APART = 1e-2; // between a card's numbers and the processor's

/** Something newer was command for. */
class Stopped extends Error {}

const PROVIDERS = {
  wasm: ["runtime/ort.wasm.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.wasm"],
  webgpu: ["runtime/ort.webgpu.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.asyncify.wasm"],
};

/** @type {Desk | null} */
let desk = null;
/** @type {{recipe: Recipe, ahead: Recipe[]} | null} */
let wish = null;
/** @type {number | null} */
let previewsFor = null;
let serving = false;

/** @param {Reply} message */
function say(message) {
  self.postMessage(message);
}

/** @param {Extract<Command, {kind: "load"}>} command */
async function load({ base, threads, provider }) {
  const start = performance.now();
  const list = await fetchList(base);
  const [script, binary] = provider === "webgpu" ? PROVIDERS.webgpu : PROVIDERS.wasm;
  const graphs = GRAPHS.map((name) => `model/${name}.onnx`).filter((name) => `${name}.pack` in list.files);
  const [facts, words, ort, files] = await Promise.all([
    fetchJson(base, "model/model.json"),
    fetchJson(base, "model/tokenizer.json"),
    import(new URL(script, base).href),
    fetchAll(base, list, [binary, ...graphs], (done, total) => say({ kind: "progress", done, total })),
  ]);
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmBinary = files[binary].buffer;
  ort.env.logLevel = "error";
  const bytes = Object.fromEntries(GRAPHS.map((name) => [name, files[`model/${name}.onnx`]]));
  const tokenizer = new Tokenizer(words, facts.tokens);
  const exact = await openNets(ort, facts, bytes, "wasm");
  const { card, apart, why } = provider === "webgpu"
    ? await openCard(ort, facts, bytes, exact, tokenizer) : { card: null, apart: null, why: "" };
  desk = new Desk(card ?? exact, facts, tokenizer);
  const used = card ? "webgpu" : "wasm";
  say({ kind: "ready", threads, provider: used, apart, why, seconds: (performance.now() - start) / 1000 });
}

/** Open the graphs on the graphics card, if it draws what the processor draws.
 * @param {any} ort @param {any} facts @param {Record<string, Uint8Array>} bytes
 * @param {import("./nets.js").AllNets} exact @param {Tokenizer} tokenizer
 * @returns {Promise<{card: import("./nets.js").AllNets | null, apart: number | null, why: string}>} */
async function openCard(ort, facts, bytes, exact, tokenizer) {
  try {
    const card = await openNets(ort, facts, bytes, "webgpu");
    const apart = await difference(exact, card, facts, tokenizer);
    if (apart <= MOST_APART) return { card, apart, why: "" };
    return { card: null, apart, why: `its numbers are ${apart.toPrecision(2)} apart from the processor's` };
  } catch (error) {
    return { card: null, apart: null, why: messageOf(error) };
  }
}

/** Let messages in; stop if what is drawn is no longer wanted. @param {() => boolean} wanted */
async function pause(wanted) {
  await new Promise((resolve) => setTimeout(resolve, 0));
  if (!wanted()) throw new Stopped();
}

/** @param {Part} part @param {Recipe} recipe @param {Drawn} drawn */
function show(part, recipe, drawn) {
  const { drawing, key, judged, seconds } = drawn;
  const { picture, masks } = drawing;
  const shown = { key, picture, masks, judged, seconds, maps: shownMaps(drawing), steps: drawing.maps.length };
  say({ kind: "shown", part, recipe, shown });
}

/** Draw for the newest wish until there is nothing left to do. */
async function serve() {
  if (serving || !desk) return;
  serving = true;
  try {
    for (let drafts = 0; wish || previewsFor !== null;) {
      const now = wish;
      try {
        if (now) await draw(desk, now);
        if (previewsFor !== null) await preview(desk, now?.recipe ?? last);
        if (wish === now && now) drafts = await drawAhead(desk, now);
        if (wish === now && previewsFor === null) {
          wish = null;
          say({ kind: "idle", drafts });
        }
      } catch (error) {
        if (error instanceof Stopped) continue;
        if (wish === now) wish = null;
        say({ kind: "wrong", message: messageOf(error), fatal: false });
      }
    }
  } finally {
    serving = false;
  }
}

/** @type {Recipe | null} */
let last = null;

/** @param {Desk} at @param {{recipe: Recipe}} now */
async function draw(at, now) {
  const { recipe } = now;
  last = recipe;
  const watch = (/** @type {Part} */ part) => ({
    pause: () => pause(() => wish === now),
    onStep: (/** @type {number} */ done, /** @type {number} */ total) => say({ kind: "step", part, done, total }),
  });
  const source = await at.source(recipe.source, recipe, watch("source"));
  show("source", recipe, source);
  show("edit", recipe, await at.edit(source, recipe, watch("edit")));
  await pause(() => wish === now);
  show("reprompt", recipe, await at.source(recipe.target, recipe, watch("reprompt")));
}

/** @param {Desk} at @param {Recipe | null} recipe */
async function preview(at, recipe) {
  const id = previewsFor ?? 0;
  previewsFor = null;
  if (!recipe) return;
  const source = await at.source(recipe.source, recipe, {});
  const drawn = { source, edit: await at.edit(source, recipe, {}), reprompt: await at.source(recipe.target, recipe, {}) };
  /** @type {Record<Part, Float32Array[] | null>} */
  const previews = { source: null, reprompt: null, edit: null };
  for (const [part, one] of Object.entries(drawn)) previews[/** @type {Part} */ (part)] = await at.previews(one);
  say({ kind: "previews", id, previews });
}

/** Draw what the hand may ask for next. @param {Desk} at
 * @param {{recipe: Recipe, ahead: Recipe[]}} now @returns {Promise<number>} how many */
async function drawAhead(at, now) {
  const watch = { pause: () => pause(() => wish === now && previewsFor === null) };
  let drafts = 0;
  for (const recipe of now.ahead) {
    await watch.pause();
    if (at.has(recipe)) continue;
    await at.edit(await at.source(recipe.source, recipe, watch), recipe, watch);
    drafts += 1;
  }
  return drafts;
}

/** @param {unknown} error @returns {string} */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

self.addEventListener("message", (/** @type {MessageEvent<Command>} */ event) => {
  const command = event.data;
  if (command.kind === "load") {
    load(command).then(serve, (error) => say({ kind: "wrong", message: messageOf(error), fatal: true }));
  } else if (command.kind === "want") {
    wish = { recipe: command.recipe, ahead: command.ahead };
    serve();
  } else {
    previewsFor = command.id;
    serve();
  }
});
