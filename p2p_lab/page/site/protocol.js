// What the page and its worker say to each other.

/** @typedef {import("./method/recipe.js").Recipe} Recipe */
/** @typedef {import("./nets.js").Answers} Answers */

/** One drawn picture, as the page shows it.
 * @typedef {{key: string, picture: Float32Array, maps: Float32Array[], masks: Float32Array[],
 *   judged: Answers | null, seconds: number, steps: number}} Shown
 * picture (3, H, W) in [0, 1]; maps (pixels, L) of each step, mean over sites; masks (h, w) */

/** @typedef {"source" | "reprompt" | "edit"} Part */
/** @typedef {{kind: "load", base: string, threads: number, provider: string}
 *   | {kind: "want", recipe: Recipe, ahead: Recipe[]}
 *   | {kind: "previews", id: number}} Command */
/** @typedef {{kind: "progress", done: number, total: number}
 *   | {kind: "ready", threads: number, provider: string, apart: number | null, why: string,
 *      seconds: number}
 *   | {kind: "shown", part: Part, recipe: Recipe, shown: Shown}
 *   | {kind: "step", part: Part, done: number, total: number}
 *   | {kind: "idle", drafts: number}
 *   | {kind: "previews", id: number, previews: Record<Part, Float32Array[] | null>}
 *   | {kind: "wrong", message: string, fatal: boolean}} Reply */

export {};
