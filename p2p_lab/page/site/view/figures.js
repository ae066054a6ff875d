// The three pictures with their words: hover a word for its map, tap a pixel for its words, wipe
// between source and edit, and the mask of a local edit.

import { unknownWords } from "../method/near.js";
import { isSpoken, normal } from "../method/words.js";
import { litBy, toImageData } from "./colours.js";
import { byId, el, fill, short } from "./dom.js";
import { swapMenu } from "./swap.js";

/** @typedef {import("../state.js").State} State */
/** @typedef {import("../protocol.js").Part} Part */

const SIDE = 384; // pixels of a canvas along its longer side
const TITLES = { source: "Source", reprompt: "Re-prompt", edit: "Edit" };
const NOTES = {
  source: "Point at a word, tap a pixel.",
  reprompt: "The same noise with the new words, and no edit: everything may change.",
  edit: "",
};

/** @param {State} state */
export function showFigures(state) {
  for (const part of /** @type {Part[]} */ (["source", "reprompt", "edit"])) showFigure(state, part);
}

/** @param {State} state @param {Part} part */
function showFigure(state, part) {
  const [height, width] = state.facts.size;
  const factor = SIDE / Math.max(height, width);
  const canvas = el("canvas", {
    width: Math.round(width * factor), height: Math.round(height * factor), tabindex: 0, role: "img",
  });
  const wipe = part === "edit" ? wipeControl(state) : null;
  const scale = el("span", { class: "scale" });
  const note = el("span", { class: "note" });
  const words = el("div", { class: "words", role: "group", "aria-label": `Words of the ${TITLES[part]}` });
  fill(
    byId(`figure-${part}`),
    el("div", { class: "title" }, el("h2", {}, TITLES[part]), note, scale),
    el("div", { class: "frame" }, canvas, wipe),
    el("figcaption", {}, words),
  );
  listen(state, part, canvas);
  state.watch(["source", "target", "recipe"], () => fill(words, part === "reprompt" ? NOTES.reprompt : chips(state, part)));
  state.watch(["hovered", "pinned"], () => mark(state, part, words));
  state.watch(["shown", "drawn", "recipe", "step", "previews", "hovered", "pinned", "pixel", "wipe", "mask"], () => {
    draw(state, part, canvas);
    describe(state, part, canvas, scale);
  });
  state.watch(["shown", "recipe", "busy", "ready"], () => {
    const { busy, ready } = state.fields;
    const fresh = state.fresh(part);
    canvas.classList.toggle("old", ready && !fresh);
    note.textContent = busy && busy.part === part && !fresh ? `step ${busy.done} of ${busy.total}` : part === "source" ? NOTES.source : "";
  });
}

/** @param {State} state @param {Part} part @returns {(HTMLElement | string)[]} a prompt's words */
function chips(state, part) {
  const prompt = state.promptOf(part);
  const strange = unknownWords(prompt, new Set(state.facts.words));
  const before = new Set(state.fields.source.words.map(normal));
  return prompt.words.flatMap((word, index) => {
    if (!isSpoken(word)) return [el("span", { class: "mark" }, word)];
    const fresh = part === "edit" && !before.has(normal(word));
    const weight = part === "edit" ? weightOf(state, word, index) : 1;
    const button = el("button", {
      type: "button", class: `word${fresh ? " fresh" : ""}${strange.has(index) ? " unknown" : ""}`,
      "data-index": index, "aria-pressed": "false",
      title: strange.has(index) ? "The model never learned this word" : null,
      onpointerenter: (/** @type {PointerEvent} */ e) => e.pointerType !== "touch" && state.set({ hovered: { part, index } }),
      onpointerleave: () => state.set({ hovered: null }),
      onfocus: () => button.matches(":focus-visible") && state.set({ hovered: { part, index } }),
      onblur: () => state.set({ hovered: null }),
      onclick: () => pin(state, part, index),
    }, word, weight === 1 ? null : el("sup", {}, `×${short(weight)}`));
    return [button, swapMenu(state, part, index)].filter((one) => one !== null);
  });
}

/** @param {State} state @param {string} word @param {number} index */
function weightOf(state, word, index) {
  const prompt = state.fields.target;
  const place = prompt.words.slice(0, index).filter((one) => normal(one) === normal(word)).length;
  const found = state.fields.recipe.scales.find(([w, n]) => normal(w) === normal(word) && n === place);
  return found ? found[2] : 1;
}

/** @param {State} state @param {Part} part @param {number} index */
function pin(state, part, index) {
  const { pinned } = state.fields;
  const same = pinned !== null && pinned.part === part && pinned.index === index;
  state.set({ pinned: same ? null : { part, index }, hovered: null });
}

/** @param {State} state @param {Part} part @param {HTMLElement} words */
function mark(state, part, words) {
  const lit = state.litWord(part);
  const { pinned } = state.fields;
  for (const one of words.querySelectorAll(".word")) {
    const index = Number(one.getAttribute("data-index"));
    one.classList.toggle("lit", index === lit);
    one.setAttribute("aria-pressed", String(pinned !== null && pinned.part === part && pinned.index === index));
  }
}

/** @param {State} state @param {Part} part @returns {Float32Array | null} map of the lit word */
function litMap(state, part) {
  const lit = part === "reprompt" ? -1 : state.litWord(part);
  return lit < 0 ? null : state.mapOf(part, state.promptOf(part).tokensAt(lit));
}

/** @param {State} state @param {Part} part @param {HTMLCanvasElement} canvas */
function draw(state, part, canvas) {
  const picture = state.pictureOf(part);
  if (!picture) return;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  paint(context, picture, state.facts.size);
  const map = litMap(state, part);
  if (map) {
    const base = context.getImageData(0, 0, canvas.width, canvas.height);
    context.putImageData(litBy(base, map, state.facts.map_grid, Math.max(...map)), 0, 0);
  }
  if (part === "edit") {
    drawWipe(state, context, canvas);
    if (state.fields.mask) drawMask(state, context, canvas);
  }
  const { pixel } = state.fields;
  if (pixel && pixel.part === part) drawPixel(state, context, canvas, pixel);
}

/** @param {CanvasRenderingContext2D} context @param {Float32Array} picture @param {[number, number]} size */
export function paint(context, picture, size) {
  const small = new OffscreenCanvas(size[1], size[0]);
  const inner = /** @type {OffscreenCanvasRenderingContext2D} */ (small.getContext("2d"));
  inner.putImageData(toImageData(picture, size), 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
}

/** Show the source left of the wipe. @param {State} state @param {CanvasRenderingContext2D} context
 * @param {HTMLCanvasElement} canvas */
function drawWipe(state, context, canvas) {
  const source = state.pictureOf("source");
  const at = Math.round(state.fields.wipe * canvas.width);
  if (!source || at <= 0) return;
  context.save();
  context.beginPath();
  context.rect(0, 0, at, canvas.height);
  context.clip();
  paint(context, source, state.facts.size);
  context.restore();
  context.fillStyle = "#ffffff";
  context.fillRect(at - 1, 0, 2, canvas.height);
}

/** Outline where a local edit may act, and dim the rest. @param {State} state
 * @param {CanvasRenderingContext2D} context @param {HTMLCanvasElement} canvas */
function drawMask(state, context, canvas) {
  const masks = state.fields.shown.edit?.masks ?? [];
  const { step } = state.fields;
  const mask = masks[step === null ? masks.length - 1 : Math.min(step, masks.length - 1)];
  if (!mask) return;
  const [, rows, columns] = state.facts.latents;
  const across = (/** @type {number} */ x) => Math.round((x * canvas.width) / columns);
  const down = (/** @type {number} */ y) => Math.round((y * canvas.height) / rows);
  const inside = (/** @type {number} */ y, /** @type {number} */ x) =>
    y >= 0 && x >= 0 && y < rows && x < columns && mask[y * columns + x] > 0.5;
  context.fillStyle = "rgba(10, 12, 30, 0.55)";
  context.beginPath();
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const [left, top, w, h] = [across(x), down(y), across(x + 1) - across(x), down(y + 1) - down(y)];
      if (!inside(y, x)) context.fillRect(left, top, w, h);
      if (inside(y, x) !== inside(y, x - 1)) line(context, left, top, 0, h);
      if (inside(y, x) !== inside(y - 1, x)) line(context, left, top, w, 0);
    }
  }
  context.strokeStyle = "#ffffff";
  context.lineWidth = 2;
  context.stroke();
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y @param {number} dx @param {number} dy */
function line(context, x, y, dx, dy) {
  context.moveTo(x, y);
  context.lineTo(x + dx, y + dy);
}

/** @param {State} state @param {CanvasRenderingContext2D} context @param {HTMLCanvasElement} canvas
 * @param {{x: number, y: number}} pixel */
function drawPixel(state, context, canvas, { x, y }) {
  const [rows, columns] = state.facts.map_grid;
  const [w, h] = [canvas.width / columns, canvas.height / rows];
  for (const [colour, width] of /** @type {[string, number][]} */ ([["#000000", 4], ["#ffffff", 2]])) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(x * w, y * h, w, h);
  }
}

/** @param {State} state @param {Part} part @param {HTMLCanvasElement} canvas @param {HTMLElement} scale */
function describe(state, part, canvas, scale) {
  const map = litMap(state, part);
  const prompt = state.promptOf(part);
  const about = state.fields.shown[part] ? `${TITLES[part]}: ${prompt.text}` : `${TITLES[part]}, not drawn yet`;
  const word = map ? prompt.words[state.litWord(part)] : "";
  canvas.setAttribute("aria-label", map ? `${about}. Lit: where it looks at “${word}”.` : about);
  fill(scale, map ? [el("b", {}, word), " 0", el("i"), short(Math.max(...map))] : []);
}

/** @param {State} state */
function wipeControl(state) {
  const input = el("input", {
    type: "range", min: 0, max: 1, step: 0.01, class: "wipe", "aria-label": "Wipe: source on the left, edit on the right",
    oninput: () => state.set({ wipe: Number(input.value) }),
  });
  state.watch(["wipe"], () => { input.value = String(state.fields.wipe); });
  return el("label", { class: "wiper" }, el("span", {}, "edit"), input, el("span", {}, "source"));
}

/** Tap for a pixel's words, drag over the edit for the wipe, arrow keys move the pixel.
 * @param {State} state @param {Part} part @param {HTMLCanvasElement} canvas */
function listen(state, part, canvas) {
  let from = /** @type {{x: number, y: number, dragged: boolean} | null} */ (null);
  const at = (/** @type {PointerEvent} */ event) => {
    const box = canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  };
  canvas.addEventListener("pointerdown", (event) => { from = { ...at(event), dragged: false }; });
  canvas.addEventListener("pointermove", (event) => {
    if (!from || part !== "edit" || !event.buttons) return;
    const { x } = at(event);
    if (Math.abs(x - from.x) > 0.04) {
      from.dragged = true;
      canvas.setPointerCapture(event.pointerId);
    }
    if (from.dragged) state.set({ wipe: Math.min(Math.max(x, 0), 1) });
  });
  canvas.addEventListener("pointerup", (event) => {
    if (from && !from.dragged && part !== "reprompt") choose(state, part, at(event));
    from = null;
  });
  canvas.addEventListener("pointercancel", () => { from = null; });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") state.set({ pixel: null });
    if (!move || part === "reprompt") return;
    event.preventDefault();
    const [rows, columns] = state.facts.map_grid;
    const pixel = state.fields.pixel ?? { x: columns >> 1, y: rows >> 1 };
    const [x, y] = [Math.min(Math.max(pixel.x + move[0], 0), columns - 1), Math.min(Math.max(pixel.y + move[1], 0), rows - 1)];
    state.set({ pixel: { part, x, y } });
  });
}

/** @param {State} state @param {Part} part @param {{x: number, y: number}} at fractions */
function choose(state, part, at) {
  const [rows, columns] = state.facts.map_grid;
  const [x, y] = [Math.min(Math.floor(at.x * columns), columns - 1), Math.min(Math.floor(at.y * rows), rows - 1)];
  const { pixel } = state.fields;
  const same = pixel && pixel.part === part && pixel.x === x && pixel.y === y;
  state.set({ pixel: same ? null : { part, x, y } });
}
