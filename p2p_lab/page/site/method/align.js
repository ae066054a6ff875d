// Which source token feeds which target token: `p2p_lab.tokens.alignment`.

import { AlignmentError, range } from "./prompt.js";
import { isPunctuation, normal } from "./words.js";

/** @typedef {import("./prompt.js").Prompt} Prompt */
/** @typedef {[number[], number[]]} Block source and target words that correspond */
/** @typedef {{mapper: Float64Array, matched: boolean[], gain: Float64Array}} Alignment
 * mapper (L, L) row by row: column j says from which source tokens target token j is fed */

/** Align word by word, for a word swap. @param {Prompt} source @param {Prompt} target
 * @returns {Alignment} */
export function alignWords(source, target) {
  const found = empty(target.length);
  source.specials.forEach((i, k) => match(found, i, target.specials[k], 1));
  for (const [before, after] of wordBlocks(source, target)) {
    const rows = before.flatMap((word) => source.tokensAt(word));
    const columns = after.flatMap((word) => target.tokensAt(word));
    columns.forEach((column, k) => {
      if (rows.length === columns.length) found.mapper[rows[k] * target.length + column] = 1;
      else for (const row of rows) found.mapper[row * target.length + column] = 1 / rows.length;
      found.matched[column] = true;
      found.gain[column] = rows.length / columns.length;
    });
  }
  matchPadding(found, source, target);
  return found;
}

/** Align token by token, for an added phrase. @param {Prompt} source @param {Prompt} target
 * @returns {Alignment} */
export function alignTokens(source, target) {
  const found = empty(target.length);
  const ids = [source, target].map((prompt) => prompt.ids.slice(0, prompt.end));
  for (const [i, j] of needlemanWunsch(ids[0], ids[1])) match(found, i, j, 1);
  matchPadding(found, source, target);
  return found;
}

/** Feed tokens as links say: column j is the mean of the linked source columns; a target token without
 * a link keeps its own attention. Padding stays as it was found. @param {Alignment} base
 * @param {Prompt} source @param {Prompt} target @param {[number, number][]} links
 * @returns {Alignment} */
export function alignByHand(base, source, target, links) {
  const length = target.length;
  const found = { mapper: base.mapper.slice(), matched: [...base.matched], gain: base.gain.slice() };
  for (let j = 0; j < target.end; j++) {
    for (let i = 0; i < length; i++) found.mapper[i * length + j] = 0;
    [found.matched[j], found.gain[j]] = [false, 0];
  }
  for (const [i, j] of links) {
    if (i >= source.end || j >= target.end) {
      throw new AlignmentError(`There is no link from token ${i} to token ${j}: a prompt is shorter.`);
    }
    match(found, i, j, 1);
  }
  for (let j = 0; j < target.end; j++) {
    let sum = 0;
    for (let i = 0; i < length; i++) sum += found.mapper[i * length + j];
    for (let i = 0; sum > 0 && i < length; i++) found.mapper[i * length + j] /= sum;
  }
  return found;
}

/** The matched pairs of the best global alignment: gap 0, match +1, mismatch −1; ties go to
 * insertion, then deletion, then the diagonal.
 * @template T @param {T[]} source @param {T[]} target @returns {[number, number][]} */
export function needlemanWunsch(source, target) {
  const score = Array.from({ length: source.length + 1 }, () => new Int32Array(target.length + 1));
  for (let i = 1; i <= source.length; i++) {
    for (let j = 1; j <= target.length; j++) {
      const diagonal = score[i - 1][j - 1] + (source[i - 1] === target[j - 1] ? 1 : -1);
      score[i][j] = Math.max(score[i][j - 1], score[i - 1][j], diagonal);
    }
  }
  /** @type {[number, number][]} */
  const pairs = [];
  for (let i = source.length, j = target.length; i > 0 && j > 0;) {
    if (score[i][j] === score[i][j - 1]) j -= 1;
    else if (score[i][j] === score[i - 1][j]) i -= 1;
    else pairs.push([--i, --j]);
  }
  return pairs.reverse();
}

/** @param {Prompt} prompt @param {number[]} [words] @returns {number[]} those without punctuation */
export function spoken(prompt, words = range(0, prompt.chars.length)) {
  const texts = prompt.words;
  return words.filter((word) => !isPunctuation(texts[word]));
}

/** @param {Prompt} source @param {Prompt} target @returns {boolean} have both words, none shared */
export function noCommonWord(source, target) {
  const [before, after] = [source, target].map(
    (prompt) => new Set(spoken(prompt).map((word) => normal(prompt.words[word]))),
  );
  return before.size > 0 && after.size > 0 && ![...before].some((word) => after.has(word));
}

/** Which words correspond, in order. @param {Prompt} source @param {Prompt} target
 * @returns {Block[]} */
export function wordBlocks(source, target) {
  const before = range(0, source.chars.length);
  const after = range(0, target.chars.length);
  if (spoken(source).length !== spoken(target).length && noCommonWord(source, target)) {
    throw new AlignmentError(
      `'${source.text}' and '${target.text}' share no word and have different numbers of words, so ` +
      "there is nothing to align by. Keep some words of the source.",
    );
  }
  /** @type {Block[]} */
  const blocks = [];
  let [restBefore, restAfter] = [before, after];
  for (const [i, j] of anchors(source, target, before, after)) {
    const gap = gapBlocks(
      source, target, restBefore.filter((word) => word < i), restAfter.filter((word) => word < j),
    );
    blocks.push(...gap, [[i], [j]]);
    restBefore = restBefore.filter((word) => word > i);
    restAfter = restAfter.filter((word) => word > j);
  }
  return [...blocks, ...gapBlocks(source, target, restBefore, restAfter)];
}

/** Words that surely correspond: by position if equally many, else equal ones.
 * @param {Prompt} source @param {Prompt} target @param {number[]} before @param {number[]} after
 * @returns {[number, number][]} */
function anchors(source, target, before, after) {
  const saidBefore = spoken(source, before);
  const saidAfter = spoken(target, after);
  if (saidBefore.length === saidAfter.length) return saidBefore.map((i, k) => [i, saidAfter[k]]);
  const matches = needlemanWunsch(
    before.map((i) => normal(source.words[i])), after.map((j) => normal(target.words[j])),
  );
  return matches.map(([i, j]) => [before[i], after[j]]);
}

/** Pair the words between two anchors: one by one if equally many, else as a whole.
 * @param {Prompt} source @param {Prompt} target @param {number[]} before @param {number[]} after
 * @returns {Block[]} */
function gapBlocks(source, target, before, after) {
  const saidBefore = spoken(source, before);
  const saidAfter = spoken(target, after);
  if (saidBefore.length && saidAfter.length) [before, after] = [saidBefore, saidAfter];
  if (before.length === after.length) return before.map((i, k) => [[i], [after[k]]]);
  return before.length && after.length ? [[before, after]] : [];
}

/** @param {number} length @returns {Alignment} */
function empty(length) {
  return {
    mapper: new Float64Array(length * length),
    matched: new Array(length).fill(false),
    gain: new Float64Array(length),
  };
}

/** @param {Alignment} found @param {number} i @param {number} j @param {number} gain */
function match(found, i, j, gain) {
  found.mapper[i * found.matched.length + j] = 1;
  found.matched[j] = true;
  found.gain[j] = gain;
}

/** Feed each padding j of the target from padding max(j, end) of the source, if it has any.
 * @param {Alignment} found @param {Prompt} source @param {Prompt} target */
function matchPadding(found, source, target) {
  for (let j = target.end; j < target.length; j++) {
    const i = Math.max(j, source.end);
    if (i < source.length) match(found, i, j, 1);
  }
}
