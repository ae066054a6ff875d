// CLIP's tokenizer, as `tokenizer.json` describes it: normalise, split, bytes, pairs, frame, pad.
// Each token knows the characters of the original text that it shows.

/** @typedef {import("./words.js").Span} Span */
/** @typedef {{id: number, chars: Span, real: boolean, special: boolean}} Token */
/** @typedef {{letter: string, from: number, to: number}} Letter one letter and where it stood */

const SPACES = "\\t-\\r\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

export class Tokenizer {
  /** @param {any} file the parsed `tokenizer.json` @param {number} length tokens L to pad to */
  constructor(file, length) {
    const model = file.model;
    this.length = length;
    /** @type {Map<string, number>} */
    this.vocab = new Map(Object.entries(model.vocab));
    /** @type {Map<string, number>} */
    this.ranks = new Map(
      model.merges.map((/** @type {any} */ pair, /** @type {number} */ i) => [
        Array.isArray(pair) ? pair.join(" ") : pair, i,
      ]),
    );
    /** @type {string} */
    this.suffix = model.end_of_word_suffix ?? "";
    this.unknown = this.vocab.get(model.unk_token) ?? 0;
    this.start = Number(file.post_processor.cls[1]);
    this.stop = Number(file.post_processor.sep[1]);
    this.padding = Number(file.padding?.pad_id ?? this.stop);
    /** @type {Map<string, number>} */
    this.added = new Map(file.added_tokens.map((/** @type {any} */ one) => [one.content, one.id]));
    const first = file.pre_tokenizer.pretokenizers[0].pattern.Regex.replaceAll("\\s", SPACES);
    this.pattern = new RegExp(first, "gu");
    this.names = new Map([...this.vocab].map(([name, id]) => [id, name]));
  }

  /** Return the tokens of a text, padded to the length; more if it has more.
   * @param {string} text @returns {Token[]} */
  read(text) {
    /** @type {Token[]} */
    const tokens = [{ id: this.start, chars: [0, 0], real: true, special: true }];
    for (const part of this.parts(text)) {
      const id = this.added.get(part.text);
      if (id !== undefined) {
        const stop = part.at + part.letters.length;
        tokens.push({ id, chars: [part.at, stop], real: true, special: false });
      } else {
        this.ordinary(part.letters, part.at, tokens);
      }
    }
    tokens.push({ id: this.stop, chars: [0, 0], real: true, special: true });
    while (tokens.length < this.length) {
      tokens.push({ id: this.padding, chars: [0, 0], real: false, special: true });
    }
    return tokens;
  }

  /** Which characters show a token that was added to the vocabulary, or none of it, in order.
   * @param {Token[]} tokens @returns {Span[]} */
  addedWords(tokens) {
    const numbers = new Set(this.added.values());
    const found = tokens.filter((token) => numbers.has(token.id) && !token.special);
    const spans = new Map(found.map((token) => [token.chars.join(), token.chars]));
    return [...spans.values()].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  }

  /** Cut out the tokens that are written in the text, such as <|endoftext|>.
   * @param {string} text @returns {{text: string, letters: string[], at: number}[]} */
  parts(text) {
    const names = [...this.added.keys()].map((name) => name.replace(/[|\\{}()[\]^$+*?.]/g, "\\$&"));
    const pieces = names.length ? text.split(new RegExp(`(${names.join("|")})`, "u")) : [text];
    let at = 0;
    return pieces.map((piece) => {
      const letters = Array.from(piece);
      const part = { text: piece, letters, at };
      at += letters.length;
      return part;
    });
  }

  /** @param {string[]} text code points @param {number} at where they start @param {Token[]} tokens */
  ordinary(text, at, tokens) {
    const letters = normalised(text);
    const plain = letters.map((one) => one.letter).join("");
    for (const match of plain.matchAll(this.pattern)) {
      const first = Array.from(plain.slice(0, match.index)).length;
      const word = letters.slice(first, first + Array.from(match[0]).length);
      for (const [id, from, to] of this.pairs(word)) {
        tokens.push({ id, chars: [at + from, at + to], real: true, special: false });
      }
    }
  }

  /** Merge a word's bytes by rank. @param {Letter[]} word @returns {[number, number, number][]} */
  pairs(word) {
    /** @type {{text: string, from: number, to: number}[]} */
    const parts = word.flatMap(({ letter, from, to }) =>
      Array.from(new TextEncoder().encode(letter), (byte) => ({ text: BYTES[byte], from, to })));
    if (!parts.length) return [];
    parts[parts.length - 1].text += this.suffix;
    for (;;) {
      let best = Infinity;
      let place = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i].text} ${parts[i + 1].text}`) ?? Infinity;
        if (rank < best) [best, place] = [rank, i];
      }
      if (place < 0) break;
      const [one, two] = [parts[place], parts[place + 1]];
      parts.splice(place, 2, { text: one.text + two.text, from: one.from, to: two.to });
    }
    return parts.map((one) => [this.vocab.get(one.text) ?? this.unknown, one.from, one.to]);
  }
}

/** Compose accents, turn spaces to one, and drop the case; each letter keeps where it stood.
 * @param {string[]} text @returns {Letter[]} */
function normalised(text) {
  const white = new RegExp(`^[${SPACES}]$`, "u");
  return composed(text).flatMap((one) => {
    if (white.test(one.letter)) return [{ ...one, letter: " " }];
    return Array.from(one.letter.toLowerCase(), (letter) => ({ ...one, letter }));
  });
}

/** @param {string[]} text @returns {Letter[]} */
function composed(text) {
  /** @type {Letter[]} */
  const found = [];
  let start = 0;
  while (start < text.length) {
    let stop = start + 1;
    while (stop < text.length && joins(text[stop - 1], text[stop])) stop += 1;
    const letters = Array.from(text.slice(start, stop).join("").normalize("NFC"));
    const lost = stop - start - letters.length;
    for (const [k, letter] of letters.entries()) {
      const from = k === 0 ? start : Math.max(start, start + k + lost);
      found.push({ letter, from, to: from + 1 });
    }
    start = stop;
  }
  return found;
}

/** @param {string} before @param {string} letter @returns {boolean} may they be composed */
function joins(before, letter) {
  return /^\p{M}$/u.test(letter) || (/^[\u1100-\u11ff\uac00-\ud7a3]$/.test(before) && /^[\u1160-\u11ff]$/.test(letter));
}

/** The printable letter that stands for each byte (as GPT-2 and CLIP write them). */
const BYTES = (() => {
  const plain = (/** @type {number} */ b) => (b > 32 && b < 127) || (b > 160 && b < 173) || b > 173;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(plain(b) ? b : next++));
})();

