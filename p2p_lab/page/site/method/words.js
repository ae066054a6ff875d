// Where the words of a text are, and which tokens show each of them: `p2p_lab.tokens.words`.
// Positions count code points, as in Python; a text comes as an array of them.

/** @typedef {[number, number]} Span half-open range */

/** What counts as a space in Python, as the inside of a character class. */
export const WHITE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACE = new RegExp(`^[${WHITE}]$`, "u");
const SPACES = new RegExp(`[${WHITE}]+`, "gu");
const MARK = /^\p{M}$/u;
const WORDLY = /^[\p{L}\p{M}\p{N}_]$/u;
const SPOKEN = /[\p{L}\p{N}]/u;

/** @param {string} letter one code point @returns {string} it without its case */
function folded(letter) {
  return letter === "ı" ? letter : letter.toLowerCase().toUpperCase().toLowerCase();
}

/** @param {string} text @returns {string} the text as it is compared: no case, single spaces */
export function normal(text) {
  const plain = Array.from(text, folded).join("").normalize("NFC");
  return plain.replace(SPACES, " ").replace(/^ | $/g, "");
}

/** @param {string} word @returns {boolean} whether it is nothing but punctuation */
export function isPunctuation(word) {
  return /^\p{P}*$/u.test(word);
}

/** @param {string} word @returns {boolean} whether it has a letter or a digit */
export function isSpoken(word) {
  return SPOKEN.test(word);
}

/** @param {string[]} text @param {number} i @returns {"space" | "word" | "mark"} */
function kindOf(text, i) {
  if (SPACE.test(text[i])) return "space";
  while (i > 0 && MARK.test(text[i]) && !SPACE.test(text[i - 1])) i -= 1;
  return WORDLY.test(text[i]) ? "word" : "mark";
}

/** Split a text in words: runs of letters, marks and digits, or runs of punctuation.
 * @param {string[]} text @returns {Span[]} */
export function wordChars(text) {
  /** @type {Span[]} */
  const found = [];
  let start = 0;
  while (start < text.length) {
    const kind = kindOf(text, start);
    let stop = start + 1;
    while (stop < text.length && kindOf(text, stop) === kind) stop += 1;
    if (kind !== "space") found.push([start, stop]);
    start = stop;
  }
  return withApostrophes(text, found);
}

/** An apostrophe between two letters starts a word of its own: "cat's" is "cat" and "'s".
 * @param {string[]} text @param {Span[]} found @returns {Span[]} */
function withApostrophes(text, found) {
  /** @type {Span[]} */
  const joined = [];
  for (const [start, stop] of found) {
    const before = joined.at(-1) ?? [0, 0];
    const sign = text.slice(...before).join("");
    const touches = joined.length > 1 && before[1] === start && joined[joined.length - 2][1] === before[0];
    if (touches && (sign === "'" || sign === "’") && kindOf(text, start) === "word") {
      joined[joined.length - 1] = [before[0], stop];
    } else {
      joined.push([start, stop]);
    }
  }
  return joined;
}

/** Split a text in words, where each of some stretches is a word as it is.
 * @param {string[]} text @param {Span[]} whole @returns {Span[]} */
function wordsAround(text, whole) {
  let start = 0;
  /** @type {Span[]} */
  const ends = [...whole, [text.length, text.length]];
  return ends.flatMap((stretch) => {
    const before = wordChars(text.slice(start, stretch[0]));
    const from = start;
    start = stretch[1];
    /** @type {Span[]} */
    const found = before.map(([a, b]) => [from + a, from + b]);
    return stretch[0] < stretch[1] ? [...found, stretch] : found;
  });
}

/** Give each word its tokens; words that share a token become one word.
 * @param {string[]} text @param {number[]} inside tokens that are neither special nor padding
 * @param {Span[]} offsets characters that each token shows
 * @param {Span[]} whole characters that are one word as they are
 * @returns {{chars: Span[], spans: Span[]}} */
export function groupTokens(text, inside, offsets, whole) {
  /** @type {Span[]} */
  const chars = [];
  /** @type {Span[]} */
  const spans = [];
  let waiting = -1; // a token that shows only the space before a word joins that word
  const candidates = wordsAround(text, whole);
  for (const token of inside) {
    const [from, to] = offsets[token];
    const touched = candidates.filter((word) => word[0] < to && from < word[1]);
    if (!touched.length) {
      waiting = waiting < 0 ? token : waiting;
      continue;
    }
    const start = touched[0][0];
    const stop = touched[touched.length - 1][1];
    const last = chars.length - 1;
    if (last >= 0 && start < chars[last][1]) {
      chars[last] = [chars[last][0], Math.max(stop, chars[last][1])];
      spans[last] = [spans[last][0], token + 1];
    } else {
      chars.push([start, stop]);
      spans.push([waiting < 0 ? token : waiting, token + 1]);
    }
    waiting = -1;
  }
  return { chars, spans };
}
