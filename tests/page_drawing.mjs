// Draw with a built page's own code and graphs: node page_drawing.mjs FOLDER < cases > pictures.
// Started by tests/test_page.py; values are written as base64 of float32.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const load = (name) => import(pathToFileURL(join(folder, name)).href);
const read = (name) => readFileSync(join(folder, name));

const ort = await load("runtime/ort.wasm.bundle.min.mjs");
const { unpacked } = await load("fetching.js");
const { openNets, GRAPHS } = await load("nets.js");
const { Sampler, meanMap } = await load("method/sampling.js");
const { Prompt } = await load("method/prompt.js");
const { Tokenizer } = await load("method/tokenizer.js");
const { compileEdits } = await load("method/plan.js");
const { editsOf, makeRecipe } = await load("method/recipe.js");

const facts = JSON.parse(read("model/model.json"));
const tokenizer = new Tokenizer(JSON.parse(read("model/tokenizer.json")), facts.tokens);
const unpack = async (name) => unpacked(new Uint8Array(read(`${name}.pack`)));
const graphs = {};
for (const name of GRAPHS) {
  if (name !== "judge" || facts.judge) graphs[name] = await unpack(`model/${name}.onnx`);
}
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = (await unpack("runtime/ort-wasm-simd-threaded.wasm")).buffer;
const nets = await openNets(ort, facts, graphs);
const sampler = new Sampler(nets, facts);
const packed = (values) => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");

const results = [];
const shared = new Map();
for (const fields of JSON.parse(readFileSync(0, "utf8"))) {
  const recipe = makeRecipe(fields);
  const [source, target] = [recipe.source, recipe.target].map((text) => new Prompt(text, tokenizer));
  const settings = { seed: recipe.seed, steps: recipe.steps, guidance: recipe.guidance_scale };
  const drawn = await sampler.generate(source, new Prompt(recipe.negative, tokenizer), settings);
  const plan = compileEdits(editsOf(recipe, source, target), source, target, recipe.steps);
  const key = JSON.stringify([recipe.source, settings]);
  const edited = await sampler.edit(drawn, plan, { shared: shared.get(key) ?? [] });
  shared.set(key, [...(shared.get(key) ?? []), { plan, drawing: edited }]);
  const maps = target.words.map((_, i) => packed(meanMap(edited.maps, target.tokensAt(i))));
  results.push({
    source: packed(drawn.picture),
    edited: packed(edited.picture),
    map: packed(meanMap(drawn.maps, source.tokensAt(0))),
    maps,
    masks: edited.masks.map(packed),
    judged: nets.judge ? packed((await nets.judge(drawn.picture)).present) : null,
  });
}
process.stdout.write(JSON.stringify(results));
