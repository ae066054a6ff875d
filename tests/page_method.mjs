// Run the page's method on cases from stdin and write what it finds: { cases } in, results out.
// Started by tests/test_page.py with node.

import { readFileSync } from "node:fs";

import { codeOf } from "../p2p_lab/page/site/method/code.js";
import { closeMatches, unknownWords } from "../p2p_lab/page/site/method/near.js";
import { compileEdits, defaultKind, planToJson } from "../p2p_lab/page/site/method/plan.js";
import { Prompt } from "../p2p_lab/page/site/method/prompt.js";
import { noiseOf } from "../p2p_lab/page/site/method/random.js";
import {
  editsOf, faderWords, fromHash, listed, recipeFromJson, toHash, written,
} from "../p2p_lab/page/site/method/recipe.js";
import { Tokenizer } from "../p2p_lab/page/site/method/tokenizer.js";
import { normal } from "../p2p_lab/page/site/method/words.js";

const { tokenizer, length, cases } = JSON.parse(readFileSync(0, "utf8"));
const reader = tokenizer ? new Tokenizer(JSON.parse(tokenizer), length) : null;
const prompt = (text) => new Prompt(text, reader);

const ANSWERS = {
  prompt: ({ text }) => prompt(text).toDict(),
  normal: ({ text }) => normal(text),
  plan: ({ source, target, steps, edits }) =>
    planToJson(compileEdits(edits, prompt(source), prompt(target), steps)),
  recipe: ({ json, steps }) => {
    const recipe = recipeFromJson(json);
    const [source, target] = [prompt(recipe.source), prompt(recipe.target)];
    const edits = editsOf(recipe, source, target);
    return { plan: planToJson(compileEdits(edits, source, target, steps)), code: codeOf(recipe, edits) };
  },
  hash: ({ json }) => fromHash(toHash(recipeFromJson(json))),
  kind: ({ source, target }) => defaultKind(prompt(source), prompt(target)),
  noise: ({ seed, count }) => Array.from(noiseOf(seed, count)),
  near: ({ word, known }) => closeMatches(word, known),
  unknown: ({ text, known }) => {
    const found = prompt(text);
    return [...unknownWords(found, new Set(known))].map((i) => found.words[i]);
  },
  listed: ({ text }) => ({ words: listed(text), again: listed(written(listed(text))) }),
  faders: ({ text }) => faderWords(prompt(text)),
};

const results = cases.map((one) => {
  try {
    return { value: ANSWERS[one.ask](one) };
  } catch (error) {
    return { error: `${error.constructor.name}: ${error.message}`, stack: error.stack };
  }
});
process.stdout.write(JSON.stringify(results));
