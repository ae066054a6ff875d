// Take it along: a link with the whole recipe, the same in Python, a PNG and a GIF.

import { codeOf } from "../method/code.js";
import { editsOf, toHash } from "../method/recipe.js";
import { byId, el, fill } from "./dom.js";
import { paint } from "./figures.js";
import { writeGif } from "./gif.js";

/** @typedef {import("../state.js").State} State */
/** @typedef {import("../client.js").Client} Client */

const SIDE = 384;
const GAP = 12;

/** @param {State} state @param {Client} client @param {() => void} startTour */
export function showSharing(state, client, startTour) {
  const button = (/** @type {string} */ label, /** @type {string} */ tip, /** @type {() => void} */ act) =>
    el("button", { type: "button", title: tip, onclick: act }, label);
  fill(
    byId("actions"),
    button("Tour", "Six stops, the paper in a minute", startTour),
    button("Link", "Copy a link that holds all of this", () => copy(state, linkOf(state), "The link is copied.")),
    button("Python", "The same edit with the package", () => showCode(state)),
    button("PNG", "Source, re-prompt and edit as one picture", () => savePng(state)),
    button("GIF", "From noise to source and edit", () => saveGif(state, client)),
  );
  state.watch(["recipe"], () => history.replaceState(null, "", toHash(state.fields.recipe)));
}

/** @param {State} state @returns {string} */
export function linkOf(state) {
  return location.href.split("#")[0] + toHash(state.fields.recipe);
}

/** @param {State} state @param {string} text @param {string} notice */
async function copy(state, text, notice) {
  try {
    await navigator.clipboard.writeText(text);
    state.set({ message: notice });
  } catch {
    state.set({ message: "The browser does not let the page copy. The address bar holds the link." });
  }
}

/** @param {State} state */
function showCode(state) {
  const dialog = /** @type {HTMLDialogElement} */ (/** @type {unknown} */ (byId("dialog")));
  const { recipe, source, target } = state.fields;
  let code = "";
  try {
    code = codeOf(recipe, editsOf(recipe, source, target));
  } catch (error) {
    code = `# ${error instanceof Error ? error.message : error}`;
  }
  fill(
    dialog,
    el("h2", {}, "The same in Python"),
    el("pre", { tabindex: 0 }, code),
    el("p", { class: "hint" }, "With all controls: EditPanel.from_recipe(\"…\") opens the link that the button Link copies."),
    el(
      "div", { class: "line" },
      el("button", { type: "button", onclick: () => copy(state, code, "The lines are copied.") }, "Copy"),
      el("button", { type: "button", class: "ghost", onclick: () => dialog.close() }, "Close"),
    ),
  );
  dialog.showModal();
}

/** @param {State} state @param {(Float32Array | null)[]} pictures @param {string[]} captions
 * @returns {HTMLCanvasElement} */
function strip(state, pictures, captions) {
  const canvas = el("canvas", { width: pictures.length * (SIDE + GAP) + GAP, height: SIDE + 3 * GAP + 22 });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#1d2030";
  context.font = "16px system-ui, sans-serif";
  pictures.forEach((picture, i) => {
    const x = GAP + i * (SIDE + GAP);
    if (picture) {
      const one = el("canvas", { width: SIDE, height: SIDE });
      paint(/** @type {CanvasRenderingContext2D} */ (one.getContext("2d")), picture, state.facts.size);
      context.drawImage(one, x, GAP);
    }
    context.fillText(captions[i], x, SIDE + 2 * GAP + 14, SIDE);
  });
  return canvas;
}

/** @param {State} state @returns {string[]} */
function captionsOf(state) {
  const { source, target } = state.fields;
  return [source.text, target.text];
}

/** @param {State} state */
function savePng(state) {
  const { shown } = state.fields;
  const [before, after] = captionsOf(state);
  const pictures = [shown.source, shown.reprompt, shown.edit].map((one) => one?.picture ?? null);
  strip(state, pictures, [before, `re-prompt: ${after}`, `edit: ${after}`]).toBlob((blob) => blob && save(blob, "edit.png"));
}

/** @param {State} state @param {Client} client */
function saveGif(state, client) {
  const made = () => {
    const { source, edit } = state.fields.previews;
    if (!source || !edit) return false;
    const frames = source.map((one, step) => {
      const canvas = strip(state, [one, edit[step]], captionsOf(state));
      const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
      return context.getImageData(0, 0, canvas.width, canvas.height);
    });
    const delays = frames.map((_, i) => (i === frames.length - 1 ? 200 : 40));
    save(new Blob([/** @type {BlobPart} */ (writeGif(frames, delays))], { type: "image/gif" }), "edit.gif");
    return true;
  };
  if (made()) return;
  let done = false;
  state.watch(["previews"], () => { done = done || made(); });
  client.wantPreviews();
}

/** @param {Blob} blob @param {string} name */
function save(blob, name) {
  const address = URL.createObjectURL(blob);
  el("a", { href: address, download: name }).click();
  window.setTimeout(() => URL.revokeObjectURL(address), 10000);
}
