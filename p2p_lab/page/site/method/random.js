// The noise of a seed, as PyTorch draws it on a CPU: Mersenne twister (Matsumoto and Nishimura 1998)
// and Box–Muller in groups of sixteen. A seed means the same picture here and there.

import { InputError } from "./prompt.js";

const SIZE = 624;
const AHEAD = 397;
const GROUP = 16;

export class MersenneTwister {
  /** @param {number | bigint} seed the lower 32 bits count */
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    this.state[0] = Number(BigInt.asUintN(32, BigInt(seed)));
    for (let i = 1; i < SIZE; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(before, 1812433253) + i;
    }
    this.place = SIZE;
  }

  /** @returns {number} 32 random bits */
  next() {
    if (this.place === SIZE) this.refill();
    let y = this.state[this.place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  refill() {
    const state = this.state;
    for (let i = 0; i < SIZE; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + AHEAD) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.place = 0;
  }

  /** @returns {number} in [0, 1), of 24 bits */
  uniform() {
    return (this.next() & 0xffffff) / 0x1000000;
  }
}

/** Standard noise of a seed. @param {number} seed @param {number} count of values, at least 16
 * @returns {Float32Array} */
export function noiseOf(seed, count) {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new InputError(`seed=${seed} is not possible: give a whole number from 0 to 2^53 − 1.`);
  }
  if (count < GROUP) throw new InputError(`The latents have ${count} values; at least 16 are needed.`);
  const draw = new MersenneTwister(seed);
  const values = Float32Array.from({ length: count }, () => draw.uniform());
  for (let start = 0; start + GROUP <= count; start += GROUP) toNormal(values, start);
  if (count % GROUP) { // the last sixteen are drawn anew
    for (let i = count - GROUP; i < count; i++) values[i] = draw.uniform();
    toNormal(values, count - GROUP);
  }
  return values;
}

/** @param {Float32Array} values @param {number} start */
function toNormal(values, start) {
  const half = GROUP / 2;
  for (let i = start; i < start + half; i++) {
    const radius = Math.sqrt(-2 * Math.log(Math.fround(1 - values[i])));
    const angle = 2 * Math.PI * values[i + half];
    values[i] = radius * Math.cos(angle);
    values[i + half] = radius * Math.sin(angle);
  }
}
