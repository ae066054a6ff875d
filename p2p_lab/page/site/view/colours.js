// One colour map, perceptually uniform (viridis), and pictures as bytes.

const STOPS = [ // nine, evenly spaced
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [109, 205, 89], [253, 231, 37],
];

const TABLE = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[low].map((c, k) => c + (at - low) * (STOPS[low + 1][k] - c));
});

/** @param {number} value from 0 to 1 @returns {number[]} red, green, blue */
export function viridis(value) {
  return TABLE[Math.round(Math.min(Math.max(value, 0), 1) * 255)];
}

/** A picture (3, H, W) in [0, 1] as bytes; halves go to the even number, as in Python.
 * @param {Float32Array} picture @param {[number, number]} size @returns {ImageData} */
export function toImageData(picture, [height, width]) {
  const image = new ImageData(width, height);
  const pixels = height * width;
  for (let p = 0; p < pixels; p++) {
    for (let c = 0; c < 3; c++) image.data[4 * p + c] = level(picture[c * pixels + p]);
    image.data[4 * p + 3] = 255;
  }
  return image;
}

/** @param {number} value from 0 to 1 @returns {number} from 0 to 255 */
export function level(value) {
  const scaled = Math.fround(value * 255);
  const down = Math.floor(scaled);
  const rest = scaled - down;
  if (rest !== 0.5) return Math.round(scaled);
  return down % 2 ? down + 1 : down;
}

/** For each pixel along one axis: the two cells beside it and how far it is between them.
 * @param {number} size @param {number} cells @returns {[number, number, number][]} */
function between(size, cells) {
  return Array.from({ length: size }, (_, pixel) => {
    const at = Math.min(Math.max(((pixel + 0.5) * cells) / size - 0.5, 0), cells - 1);
    const low = Math.min(Math.floor(at), Math.max(cells - 2, 0));
    return [low, Math.min(low + 1, cells - 1), at - low];
  });
}

/** Lay a map over a picture's bytes, bilinearly. @param {ImageData} base @param {Float32Array} map
 * @param {[number, number]} grid @param {number} peak the value that is brightest
 * @returns {ImageData} */
export function litBy(base, map, [rows, columns], peak) {
  const { width, height } = base;
  const out = new ImageData(width, height);
  const [across, down] = [between(width, columns), between(height, rows)];
  for (let y = 0, p = 0; y < height; y++) {
    const [y0, y1, fy] = down[y];
    for (let x = 0; x < width; x++, p += 4) {
      const [x0, x1, fx] = across[x];
      const above = map[y0 * columns + x0] * (1 - fx) + map[y0 * columns + x1] * fx;
      const below = map[y1 * columns + x0] * (1 - fx) + map[y1 * columns + x1] * fx;
      const paint = viridis((above * (1 - fy) + below * fy) / (peak || 1));
      const grey = 0.3 * base.data[p] + 0.59 * base.data[p + 1] + 0.11 * base.data[p + 2];
      for (let c = 0; c < 3; c++) out.data[p + c] = 0.12 * base.data[p + c] + 0.24 * grey + 0.68 * paint[c];
      out.data[p + 3] = 255;
    }
  }
  return out;
}
