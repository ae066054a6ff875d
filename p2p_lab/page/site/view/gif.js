// A small writer of GIF files: frames of one size, one palette for all, repeated for ever.

const COLOURS = 256;

/** @param {ImageData[]} frames @param {number[]} delays in hundredths of a second @returns {Uint8Array} */
export function writeGif(frames, delays) {
  const { width, height } = frames[0];
  const palette = paletteOf(frames);
  /** @type {number[]} */
  const out = [...text("GIF89a"), ...word(width), ...word(height), 0xf7, 0, 0, ...palette.flat()];
  out.push(0x21, 0xff, 11, ...text("NETSCAPE2.0"), 3, 1, 0, 0, 0);
  const nearest = finder(palette);
  frames.forEach((frame, i) => {
    out.push(0x21, 0xf9, 4, 0, ...word(delays[i]), 0, 0);
    out.push(0x2c, 0, 0, 0, 0, ...word(width), ...word(height), 0, 8);
    const bytes = packed(indices(frame, nearest));
    for (let at = 0; at < bytes.length; at += 255) {
      const block = bytes.slice(at, at + 255);
      out.push(block.length);
      for (const byte of block) out.push(byte);
    }
    out.push(0);
  });
  out.push(0x3b);
  return Uint8Array.from(out);
}

/** @param {string} letters @returns {number[]} */
function text(letters) {
  return Array.from(letters, (letter) => letter.charCodeAt(0));
}

/** @param {number} value @returns {number[]} */
function word(value) {
  return [value & 255, (value >> 8) & 255];
}

/** The colours by median cut over all frames. @param {ImageData[]} frames @returns {number[][]} */
function paletteOf(frames) {
  /** @type {number[][]} */
  const seen = [];
  for (const frame of frames) {
    const stride = Math.max(1, Math.floor((frame.width * frame.height) / 6000));
    for (let p = 0; p < frame.data.length; p += 4 * stride) seen.push([...frame.data.slice(p, p + 3)]);
  }
  let boxes = [seen];
  while (boxes.length < COLOURS) {
    const widths = boxes.map((box) => (box.length > 1 ? widest(box) : { axis: 0, width: -1 }));
    const most = widths.reduce((top, one, i) => (one.width > widths[top].width ? i : top), 0);
    if (widths[most].width <= 0) break;
    const { axis } = widths[most];
    const box = boxes[most].toSorted((a, b) => a[axis] - b[axis]);
    boxes = [...boxes.slice(0, most), box.slice(0, box.length >> 1), box.slice(box.length >> 1), ...boxes.slice(most + 1)];
  }
  const colours = boxes.map((box) => [0, 1, 2].map((c) => Math.round(box.reduce((sum, one) => sum + one[c], 0) / box.length)));
  while (colours.length < COLOURS) colours.push([0, 0, 0]);
  return colours;
}

/** @param {number[][]} box @returns {{axis: number, width: number}} */
function widest(box) {
  const spans = [0, 1, 2].map((axis) => {
    let [low, high] = [255, 0];
    for (const one of box) [low, high] = [Math.min(low, one[axis]), Math.max(high, one[axis])];
    return { axis, width: high - low };
  });
  return spans.reduce((a, b) => (b.width > a.width ? b : a));
}

/** @param {number[][]} palette @returns {(r: number, g: number, b: number) => number} */
function finder(palette) {
  /** @type {Map<number, number>} */
  const known = new Map();
  return (r, g, b) => {
    const key = ((r >> 2) << 12) | ((g >> 2) << 6) | (b >> 2);
    let found = known.get(key);
    if (found === undefined) {
      let least = Infinity;
      palette.forEach((one, i) => {
        const far = (one[0] - r) ** 2 + (one[1] - g) ** 2 + (one[2] - b) ** 2;
        if (far < least) [least, found] = [far, i];
      });
      known.set(key, found ?? 0);
    }
    return found ?? 0;
  };
}

/** @param {ImageData} frame @param {(r: number, g: number, b: number) => number} nearest */
function indices(frame, nearest) {
  const out = new Uint8Array(frame.width * frame.height);
  for (let p = 0; p < out.length; p++) out[p] = nearest(frame.data[4 * p], frame.data[4 * p + 1], frame.data[4 * p + 2]);
  return out;
}

/** LZW with codes of 9 to 12 bits. @param {Uint8Array} values @returns {number[]} */
function packed(values) {
  const [clear, end] = [256, 257];
  /** @type {number[]} */
  const bytes = [];
  let [buffer, bits, size] = [0, 0, 9];
  const put = (/** @type {number} */ code) => {
    buffer |= code << bits;
    bits += size;
    while (bits >= 8) {
      bytes.push(buffer & 255);
      buffer >>>= 8;
      bits -= 8;
    }
  };
  /** @type {Map<number, number>} */
  let table = new Map();
  put(clear);
  let now = values[0];
  for (let i = 1; i < values.length; i++) {
    const key = (now << 8) | values[i];
    const code = table.get(key);
    if (code !== undefined) {
      now = code;
      continue;
    }
    put(now);
    const next = end + 1 + table.size;
    if (next < 4096) {
      table.set(key, next);
      if (next === 1 << size) size += 1;
    } else {
      put(clear);
      table = new Map();
      size = 9;
    }
    now = values[i];
  }
  put(now);
  put(end);
  if (bits > 0) bytes.push(buffer & 255);
  return bytes;
}
