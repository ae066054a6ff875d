// An edit as the Python lines that make it, as `p2p_lab.recipes.code` writes them.

/** @typedef {import("./plan.js").Edit} Edit */
/** @typedef {import("./recipe.js").Recipe} Recipe */

/** The lines that make an edit with the package. @param {Recipe} recipe @param {Edit[]} edits
 * @returns {string} */
export function codeOf(recipe, edits) {
  /** @type {string[]} */
  const names = [...new Set(edits.map((edit) => edit.kind))];
  for (const edit of edits) if (recipe.links && edit.kind in ALIGN) names.push("align_by_hand", ALIGN[edit.kind]);
  const imported = ["edit", ...[...names, "generate", "load"].sort()];
  const loading = recipe.model ? [literal(recipe.model)] : [];
  if (recipe.made_by) loading.push(`digest=${literal(recipe.made_by)}`);
  const parts = ["model", literal(recipe.source), `seed=${recipe.seed ?? 0}`];
  if (recipe.steps !== null) parts.push(`steps=${recipe.steps}`);
  if (recipe.guidance_scale !== null) parts.push(`guidance_scale=${literal(recipe.guidance_scale)}`);
  if (recipe.negative) parts.push(`negative=${literal(recipe.negative)}`);
  return [
    `from p2p_lab import ${imported.join(", ")}`,
    "",
    `model = load(${loading.join(", ")})`,
    `source = generate(${parts.join(", ")})`,
    "edited = edit(",
    "    source,",
    `    ${literal(recipe.target)},`,
    "    [",
    ...edits.map((edit) => `        ${call(edit, recipe)},`),
    "    ],",
    ")",
    "edited",
  ].join("\n");
}

/** @type {Record<string, string>} */
const ALIGN = { Replace: "align_words", Refine: "align_tokens" };

/** @param {Edit} edit @param {Recipe} recipe @returns {string} */
function call(edit, recipe) {
  /** @type {string[]} */
  const parts = [];
  if (edit.kind === "Replace" || edit.kind === "Refine") {
    const { cross, self_attention: selfAttention } = edit.options;
    parts.push(`cross=${literal(cross)}`, `self_attention=${literal(selfAttention)}`);
    if (recipe.links) {
      const found = `${ALIGN[edit.kind]}(source.prompt, source.model.prompt(${literal(recipe.target)}))`;
      parts.push(`alignment=align_by_hand(${found}, ${literal(recipe.links)})`);
    }
    if (edit.options.joint && edit.options.joint !== "maps") parts.push(`joint=${literal(edit.options.joint)}`);
  } else if (edit.kind === "Reweight") {
    parts.push(literal(edit.word), literal(edit.scale));
    if (edit.occurrence !== null && edit.occurrence !== undefined) parts.push(`occurrence=${edit.occurrence}`);
  } else {
    const words = (/** @type {import("./plan.js").Word[]} */ list) => literal(list.length === 1 ? list[0] : list);
    if (edit.source_words.length) parts.push(words(edit.source_words));
    if (edit.target_words) parts.push(`target_words=${words(edit.target_words)}`);
    parts.push(`threshold=${literal(edit.threshold)}`);
    if (edit.start !== 0.2) parts.push(`start=${literal(edit.start)}`);
    if (edit.mask) parts.push(`mask=${literal(edit.mask)}`);
  }
  return `${edit.kind}(${parts.join(", ")})`;
}

/** Text, numbers and lists as Python reads them. @param {any} value @returns {string} */
export function literal(value) {
  if (typeof value === "string") return quoted(value);
  if (typeof value === "number") return numeral(value);
  const inside = value.map(literal).join(", ");
  return value.length === 1 ? `(${inside},)` : `(${inside})`;
}

/** @param {number} value @returns {string} as Python's repr writes it */
function numeral(value) {
  const below = Number.isInteger(value) && (value < 0 || Object.is(value, -0));
  const text = below ? `${Object.is(value, -0) ? "-0" : value}.0` : String(value);
  const small = Math.abs(value) < 1e-4 && value !== 0 ? value.toExponential() : text;
  return small.replace(/e([+-])(\d)$/, "e$10$2");
}

/** @param {string} text @returns {string} as Python's repr writes it */
function quoted(text) {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const inside = Array.from(text, (letter) => {
    if (letter === "\\" || letter === mark) return `\\${letter}`;
    const named = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[letter];
    return named ?? (HIDDEN.test(letter) ? escape(letter) : letter);
  });
  return mark + inside.join("") + mark;
}

const HIDDEN = /^(?! )[\p{C}\p{Z}]$/u;

/** @param {string} letter @returns {string} */
function escape(letter) {
  const code = letter.codePointAt(0) ?? 0;
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  if (code < 0x10000) return `\\u${code.toString(16).padStart(4, "0")}`;
  return `\\U${code.toString(16).padStart(8, "0")}`;
}
