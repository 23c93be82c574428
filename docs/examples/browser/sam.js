/**
 * A SAM that `python -m experiments export to=onnx` wrote, run by onnxruntime-web.
 *
 *   import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
 *   import { Sam } from "./sam.js";
 *
 *   const sam = await Sam.open(ort, "model");                       // the folder of export.json
 *   await sam.setImage(context.getImageData(0, 0, width, height));  // the image encoder: once an image
 *   const answer = await sam.predict({ box: [120, 90, 560, 470] }); // prompt encoder and mask decoder
 *   const mask = answer.mask(answer.best);                          // Uint8Array of height x width, 1 inside
 */

const FORMAT = "sampress-export-1";
const PADDING = -1, TOP_LEFT = 2, BOTTOM_RIGHT = 3; // labels of points, beside 0 (background) and 1 (foreground)
const STABLE = 0.98, STABILITY_DELTA = 0.05; // of SAM 2

export class Sam {
  /**
   * Load both files of an exported folder.
   *
   * @param ort onnxruntime-web
   * @param {string} folder its address, relative to the page's
   * @throws {Error} a file is missing, damaged or of another kind; the message names it
   */
  static async open(ort, folder) {
    const place = `${folder}/export.json`;
    const text = await (await load(place, folder)).text();
    let manifest;
    try {
      manifest = JSON.parse(text);
    } catch {
      throw new Error(`${place}: is not JSON; export the model again`);
    }
    if (manifest?.format !== FORMAT) {
      throw new Error(`${place}: is not of the format ${FORMAT}; export the model again`);
    }
    if (manifest.to !== "onnx") {
      throw new Error(`${place}: the files are of to=${manifest.to}, browsers need to=onnx; export the model again`);
    }
    const sessions = [];
    for (const { file } of [manifest.encoder, manifest.decoder]) {
      const bytes = new Uint8Array(await (await load(`${folder}/${file}`, folder)).arrayBuffer());
      try {
        sessions.push(await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
      } catch (error) {
        throw new Error(`${folder}/${file}: ONNX Runtime cannot open it (${error.message}); export the model again`);
      }
    }
    return new Sam(ort, manifest, ...sessions);
  }

  constructor(ort, manifest, encoder, decoder) {
    Object.assign(this, { ort, manifest, encoder, decoder });
  }

  /** Encode an image: ImageData, RGBA. */
  async setImage(image) {
    const { frame } = this.manifest;
    this.maps = null;
    const pixels = this.#tensor(toFrame(image, this.manifest), [1, 3, frame, frame]);
    // One map, image_embeddings, or SAM 2's three: under the names by which the decoder takes them.
    this.maps = await this.encoder.run({ image: pixels });
    this.size = [image.height, image.width];
  }

  /**
   * Answer one prompt on the image, in its pixels.
   *
   * @param {{box?: number[], points?: number[][]}} prompt a box [x0, y0, x1, y1], points [x, y, label] with label 1
   *   for foreground and 0 for background, or both
   * @returns {Promise<Answer>}
   * @throws {Error} there is no prompt, it is no numbers, or it leaves the image; the message has its value
   */
  async predict({ box = null, points = [] }) {
    if (!this.maps) throw new Error("no image is encoded; call setImage first");
    checkPrompt(box, points, this.size);
    const { frame, grid, family } = this.manifest;
    const [height, width] = resizedSize(this.size, this.manifest);
    const given = [...points];
    // SAM was trained with a padding point where there is no box, SAM 2 with one in each prompt.
    if (!box || family === "sam2") given.push([0, 0, PADDING]);
    if (box) given.push([box[0], box[1], TOP_LEFT], [box[2], box[3], BOTTOM_RIGHT]);
    const coords = given.flatMap(([x, y]) => [(x * width) / this.size[1], (y * height) / this.size[0]]);
    const inputs = {
      point_coords: this.#tensor(coords, [1, given.length, 2]),
      point_labels: this.#tensor(given.map((point) => point[2]), [1, given.length]),
      mask_input: this.#tensor((4 * grid) ** 2, [1, 1, 4 * grid, 4 * grid]),
      has_mask_input: this.#tensor(1, [1]),
    };
    // onnxruntime-web gives what it is fed to its worker for good, so that the maps are copied.
    for (const [name, map] of Object.entries(this.maps)) inputs[name] = this.#tensor(map.data, map.dims);
    // Masks of the image's size would be computed for all candidates; Answer.mask does it for one.
    if (this.decoder.inputNames.includes("orig_im_size")) inputs.orig_im_size = this.#tensor([1, 1], [2]);
    const found = await this.decoder.run(inputs, ["low_res_masks", "iou_predictions"]);
    const onePoint = !box && points.length === 1;
    return new Answer(this.manifest, this.size, found.low_res_masks, found.iou_predictions, onePoint);
  }

  /** A float32 tensor of some values, or of so many zeros. */
  #tensor(values, dims) {
    return new this.ort.Tensor("float32", new Float32Array(values), dims);
  }
}

/**
 * Four candidates for one prompt: the first is the single-mask answer, the other three are the multimask answer.
 *
 * `ious` is what the model predicts each one's IoU to be, `best` the index of the one to show first.
 */
export class Answer {
  constructor(manifest, size, logits, ious, onePoint) {
    Object.assign(this, { manifest, size, side: logits.dims[3], logits: logits.data, ious: [...ious.data] });
    const bestOfThree = this.ious.indexOf(Math.max(...this.ious.slice(1)), 1);
    const unstable = manifest.family === "sam2" && stability(this.#lowRes(0)) < STABLE;
    // One point may mean a thing or its part; what else was given says which.
    this.best = onePoint || unstable ? bestOfThree : 0;
  }

  #lowRes(index) {
    const pixels = this.side ** 2;
    return this.logits.subarray(index * pixels, (index + 1) * pixels);
  }

  /** A candidate at the image's own size: Uint8Array, row by row, 1 inside. */
  mask(index) {
    const { side, size } = this;
    const { frame, family } = this.manifest;
    let logits = this.#lowRes(index), from = [side, side];
    if (family !== "sam2") {
      const resized = resizedSize(size, this.manifest);
      // Padding is at the bottom and at the right: to the frame, and of that the image's rows and columns.
      const inFrame = resize(logits, from, [frame, frame], 1, false);
      logits = new Float32Array(resized[0] * resized[1]);
      for (let y = 0; y < resized[0]; y++) {
        logits.set(inFrame.subarray(y * frame, y * frame + resized[1]), y * resized[1]);
      }
      from = resized;
    }
    const inImage = resize(logits, from, size, 1, false), mask = new Uint8Array(inImage.length);
    for (let i = 0; i < mask.length; i++) mask[i] = inImage[i] > 0;
    return mask;
  }
}

/** Refuse the prompts that `python -m experiments predict` refuses. */
function checkPrompt(box, points, [height, width]) {
  const areNumbers = (given, count) => Array.isArray(given) && given.length === count && given.every(Number.isFinite);
  const outside = `outside the image, which is ${width}x${height} (width x height)`;
  if (!Array.isArray(points)) {
    throw new Error(`points=${JSON.stringify(points)} must be a list; give [[x, y, label], ...]`);
  }
  if (box === null && !points.length) {
    throw new Error("no prompt; give box: [x0, y0, x1, y1], points: [[x, y, label], ...], or both");
  }
  if (box !== null) {
    const shown = `box=${JSON.stringify(box)}`;
    if (!areNumbers(box, 4)) throw new Error(`${shown} must be four numbers; give [x0, y0, x1, y1]`);
    const [x0, y0, x1, y1] = box;
    if (x0 >= x1 || y0 >= y1) throw new Error(`${shown} has no area; give [x0, y0, x1, y1] with x0 < x1 and y0 < y1`);
    if (x0 < 0 || y0 < 0 || x1 > width || y1 > height) {
      throw new Error(`${shown} reaches ${outside}; give [x0, y0, x1, y1] in its pixels`);
    }
  }
  for (const point of points) {
    const shown = `points: ${JSON.stringify(point)}`;
    if (!areNumbers(point, 3)) throw new Error(`${shown} must be three numbers; give [x, y, label]`);
    const [x, y, label] = point;
    if (x < 0 || x >= width || y < 0 || y >= height) {
      throw new Error(`${shown} lies ${outside}; give x and y in its pixels`);
    }
    if (label !== 0 && label !== 1) {
      throw new Error(`${shown} has the label ${label}; give 1 (inside the object) or 0 (outside)`);
    }
  }
}

/** Height and width of an image in the frame: its longer side is the frame's, or, of SAM 2, both are. */
export function resizedSize([height, width], { frame, family }) {
  if (family === "sam2") return [frame, frame];
  const scale = frame / Math.max(height, width);
  return [height, width].map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
}

/** An image (ImageData, RGBA) as the encoder's input, [3, frame, frame]: resized, normalised, padded with zeros. */
export function toFrame(image, manifest) {
  const { frame, pixel_mean: mean, pixel_std: std } = manifest;
  const [height, width] = resizedSize([image.height, image.width], manifest);
  const pixels = resize(image.data, [image.height, image.width], [height, width], 4, true);
  const input = new Float32Array(3 * frame * frame);
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const level = pixels[4 * (y * width + x) + channel];
        input[(channel * frame + y) * frame + x] = (level - mean[channel]) / std[channel];
      }
    }
  }
  return input;
}

/**
 * Resize an array [height, width, channels] bilinearly, rows and columns one after the other.
 *
 * Bytes are rounded in between, so that the order is Pillow 13.0's: columns first where the image loses more than twice
 * as many rows as columns.
 *
 * @param {boolean} antialias true is Pillow's filter, by which SAM's images are resized (a canvas has another): a pixel
 *   is the mean of all that it covers. False is PyTorch's `interpolate`, of which logits are resized.
 */
export function resize(array, [height, width], [newHeight, newWidth], channels, antialias) {
  const columnsFirst = antialias && height > newHeight && height - newHeight > 2 * (width - newWidth);
  if (columnsFirst) {
    const columns = resizeAxis(array, [1, height, width * channels], newHeight, antialias);
    return resizeAxis(columns, [newHeight, width, channels], newWidth, antialias);
  }
  const rows = resizeAxis(array, [height, width, channels], newWidth, antialias);
  return resizeAxis(rows, [1, height, newWidth * channels], newHeight, antialias);
}

/** The middle axis of an array [outer, from, inner] resized. Bytes are rounded as Pillow does. */
function resizeAxis(array, [outer, from, inner], to, antialias) {
  const resized = new array.constructor(outer * to * inner);
  const isBytes = array.BYTES_PER_ELEMENT === 1;
  const taps = Array.from({ length: to }, (_, place) => weightsOf(place, from, to, antialias, isBytes));
  for (let block = 0; block < outer; block++) {
    for (let place = 0; place < to; place++) {
      const { first, weights } = taps[place];
      const source = (block * from + first) * inner, target = (block * to + place) * inner;
      for (let i = 0; i < inner; i++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * array[source + k * inner + i];
        resized[target + i] = isBytes ? Math.floor(sum + 0.5) : sum;
      }
    }
  }
  return resized;
}

/** What one pixel of `to` is made of: the first pixel of `from` that it covers, and the weights from there on. */
function weightsOf(place, from, to, antialias, isBytes) {
  const scale = from / to, reach = antialias ? Math.max(scale, 1) : 1;
  const centre = (place + 0.5) * scale;
  const first = Math.max(0, Math.trunc(centre - reach + 0.5));
  const end = Math.min(from, Math.trunc(centre + reach + 0.5));
  const heights = [];
  for (let i = first; i < end; i++) heights.push(Math.max(0, 1 - Math.abs((i - centre + 0.5) * (1 / reach))));
  const total = heights.reduce((sum, height) => sum + height);
  // Pillow's weights for bytes have 22 binary digits.
  const weights = heights.map((height) => (isBytes ? Math.round((height / total) * 2 ** 22) / 2 ** 22 : height / total));
  return { first, weights };
}

/** IoU of the masks cut a little above and below zero: a single-mask answer of SAM 2 that is not stable gives way. */
function stability(logits) {
  let inner = 0, outer = 0;
  for (const logit of logits) {
    inner += logit > STABILITY_DELTA;
    outer += logit > -STABILITY_DELTA;
  }
  return outer ? inner / outer : 1;
}

/** Fetch a file of an exported folder; a copy in the browser's cache is used only if it is the same still. */
async function load(address, folder) {
  const remedy = `python -m experiments export checkpoint=... to=onnx out=${folder}`;
  let response;
  try {
    response = await fetch(address, { cache: "no-cache" });
  } catch {
    throw new Error(`${address}: the server does not answer`);
  }
  if (!response.ok) throw new Error(`${address}: not there (HTTP ${response.status}); write it with: ${remedy}`);
  return response;
}
