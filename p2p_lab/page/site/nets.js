// The four graphs as functions: text, one step, decoder, judge. Where they run is the caller's matter.

/** @typedef {import("./method/sampling.js").Nets} Nets */
/** @typedef {import("./method/sampling.js").StepInputs} StepInputs */
/** @typedef {{present: Float32Array, attributes: Float32Array, place: Float32Array,
 *   time: Float32Array, weather: Float32Array, style: Float32Array, degree: Float32Array}} Answers */
/** @typedef {Nets & {judge: ((picture: Float32Array) => Promise<Answers>) | null}} AllNets */

export const GRAPHS = ["text", "denoiser", "decoder", "judge"];

/** Open the graphs. @param {any} ort the runtime @param {any} facts of the model
 * @param {Record<string, Uint8Array>} graphs their bytes by name
 * @param {string} provider "wasm" or "webgpu" @returns {Promise<AllNets>} */
export async function openNets(ort, facts, graphs, provider = "wasm") {
  /** @type {Record<string, any>} */
  const sessions = {};
  for (const name of GRAPHS) {
    if (!graphs[name]) continue;
    // Words and verdicts are a matter of milliseconds: they stay where they are exact.
    const where = name === "denoiser" || name === "decoder" ? provider : "wasm";
    sessions[name] = await ort.InferenceSession.create(graphs[name], {
      executionProviders: [where], graphOptimizationLevel: "all",
    });
  }
  return netsOf(ort, facts, sessions);
}

/** @param {any} tensor @returns {Promise<Float32Array>} a copy of its values */
async function values(tensor) {
  return new Float32Array(await tensor.getData());
}

/** @param {any} ort @param {any} facts @param {Record<string, any>} sessions @returns {AllNets} */
function netsOf(ort, facts, sessions) {
  const floats = (/** @type {Float32Array} */ data, /** @type {number[]} */ shape) =>
    new ort.Tensor("float32", data, shape);
  const { latents, tokens, width, size, self_pixels: gates, tape } = facts;
  return {
    async encode(ids) {
      const feeds = { ids: new ort.Tensor("int32", Int32Array.from(ids), [1, tokens]) };
      return values((await sessions.text.run(feeds)).text);
    },
    async step(one) {
      const feeds = {
        latents: floats(one.latents, [1, ...latents]),
        time: floats(Float32Array.of(one.time), [1]),
        text: floats(one.text, [2, tokens, width]),
        source_text: floats(one.source_text, [1, tokens, width]),
        guidance: floats(Float32Array.of(one.guidance), [1]),
        mapper: floats(one.mapper, [tokens, tokens]),
        source_gain: floats(one.source_gain, [tokens]),
        target_gain: floats(one.target_gain, [tokens]),
        self_gate: floats(one.self_gate, [gates.length]),
        tape: floats(one.tape, [tape]),
      };
      const wanted = ["noise_pred", "maps", "blend_maps", ...(one.record ? ["new_tape"] : [])];
      const out = await sessions.denoiser.run(feeds, wanted);
      return {
        noise_pred: await values(out.noise_pred),
        maps: await values(out.maps),
        blend_maps: await values(out.blend_maps),
        new_tape: one.record ? await values(out.new_tape) : null,
      };
    },
    async decode(z) {
      return values((await sessions.decoder.run({ latents: floats(z, [1, ...latents]) })).picture);
    },
    judge: sessions.judge
      ? async (picture) => {
          const out = await sessions.judge.run({ picture: floats(picture, [1, 3, ...size]) });
          const read = await Promise.all(Object.entries(out).map(async ([k, t]) => [k, await values(t)]));
          return /** @type {any} */ (Object.fromEntries(read));
        }
      : null,
  };
}
