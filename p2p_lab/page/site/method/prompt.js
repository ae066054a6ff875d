// A text with its tokens, as `p2p_lab.tokens.Prompt`.

import { groupTokens, normal } from "./words.js";

/** @typedef {import("./words.js").Span} Span */
/** @typedef {import("./tokenizer.js").Tokenizer} Tokenizer */

/** A word is not in a prompt, or two prompts cannot be aligned. */
export class AlignmentError extends Error {}

/** A text does not fit, or a setting is not possible. */
export class InputError extends Error {}

export class Prompt {
  /** @param {string} text @param {Tokenizer} tokenizer */
  constructor(text, tokenizer) {
    const letters = Array.from(text);
    const half = letters.findIndex((letter) => /^[\ud800-\udfff]$/.test(letter));
    if (half >= 0) throw new InputError(`The text holds half of a character at position ${half}. Write it again.`);
    const tokens = tokenizer.read(text);
    const end = tokens.filter((token) => token.real).length;
    if (tokens.length > tokenizer.length) {
      throw new InputError(
        `The prompt is ${end - tokenizer.length} token(s) too long: it has ${end} and the model takes ` +
        `${tokenizer.length}. Shorten it.`,
      );
    }
    const inside = tokens.flatMap((token, i) => (token.real && !token.special ? [i] : []));
    const offsets = tokens.map((token) => token.chars);
    const { chars, spans } = groupTokens(letters, inside, offsets, tokenizer.addedWords(tokens));
    const shown = new Set(inside);
    this.text = text;
    this.letters = letters;
    this.ids = tokens.map((token) => token.id);
    this.spans = spans;
    this.chars = chars;
    this.pieces = tokens.map((token, i) => {
      const piece = shown.has(i) ? letters.slice(...token.chars).join("").trim() : "";
      return piece || String(tokenizer.names.get(token.id));
    });
    this.specials = tokens.flatMap((token, i) => (token.real && token.special ? [i] : []));
    this.end = end;
  }

  /** Number of tokens L with padding. */
  get length() {
    return this.ids.length;
  }

  /** @returns {string[]} the words as they are written */
  get words() {
    return this.chars.map((span) => this.letters.slice(...span).join(""));
  }

  /** @param {number} first @param {number} stop @returns {string} the text of some words */
  phrase(first, stop) {
    return this.letters.slice(this.chars[first][0], this.chars[stop - 1][1]).join("");
  }

  /** @param {string} phrase @returns {Span[]} where it stands, in word numbers */
  find(phrase) {
    const wanted = normal(phrase);
    /** @type {Span[]} */
    const places = [];
    for (let first = 0; wanted && first < this.chars.length;) {
      let stop = first + 1;
      while (stop <= this.chars.length && normal(this.phrase(first, stop)) !== wanted) stop += 1;
      const found = stop <= this.chars.length;
      if (found) places.push([first, stop]);
      first = found ? stop : first + 1;
    }
    return places;
  }

  /** @param {string} word @param {number | null} [occurrence] @returns {number[]} its tokens */
  tokensOf(word, occurrence = null) {
    const places = this.find(word);
    if (!places.length) {
      const list = this.words.map((one) => `'${one}'`).join(", ");
      throw new AlignmentError(`'${word}' is not in the prompt '${this.text}'. Its words are: ${list}.`);
    }
    if (occurrence !== null && !(occurrence >= 0 && occurrence < places.length)) {
      throw new AlignmentError(
        `'${word}' stands ${places.length} time(s) in the prompt '${this.text}', so there is no ` +
        `occurrence ${occurrence}.`,
      );
    }
    const chosen = occurrence === null ? places : [places[occurrence]];
    return chosen.flatMap(([first, last]) => range(this.spans[first][0], this.spans[last - 1][1]));
  }

  /** @param {number} word its number @returns {number[]} */
  tokensAt(word) {
    return range(...this.spans[word]);
  }

  /** @returns {Record<string, any>} the fields of Python's `Prompt` */
  toDict() {
    const { text, ids, spans, chars, pieces, specials, end } = this;
    return { text, ids, spans, chars, pieces, specials, end, parts: [] };
  }
}

/** @param {number} start @param {number} stop @returns {number[]} */
export function range(start, stop) {
  return Array.from({ length: Math.max(stop - start, 0) }, (_, i) => start + i);
}
