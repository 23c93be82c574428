/** The page around sam.js: an image, prompts drawn on it, and the masks of the answer. */

import { Sam } from "./sam.js";

// One thread: onnxruntime-web takes several where the server isolates the page (headers COOP and COEP).
const RUNTIME = "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
const FOLDER = new URLSearchParams(location.search).get("model") ?? "model";
const MASK = [30, 144, 255, 255]; // RGBA; how far the image is seen through it is the style's
const DRAGGED = 5; // CSS pixels from which on a click is a box
const NAMES = ["single mask", "multimask 1", "multimask 2", "multimask 3"];

const element = (id) => document.getElementById(id);
let sam, answer, prompt, version = 0, jobs = Promise.resolve();

/** Run a job when those before it are done; what goes wrong is shown. */
function queue(text, job) {
  jobs = jobs.then(async () => {
    document.body.ariaBusy = "true";
    if (text) element("status").textContent = text;
    element("error").hidden = true;
    try {
      await job();
    } catch (error) {
      element("error").textContent = error.message ?? error;
      element("error").hidden = false;
      element("status").textContent = "";
    }
    document.body.ariaBusy = "false";
  });
}

queue("Loading the model.", async () => {
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly, in which the model runs");
  const ort = await import(RUNTIME).catch(() => {
    throw new Error(`${RUNTIME}: not there; install it beside this page with: npm install`);
  });
  // In a worker, so that the page answers while the encoder computes.
  ort.env.wasm.proxy = true;
  sam = await Sam.open(ort, FOLDER);
  const { name, precision, frame, encoder, decoder, licence } = sam.manifest;
  const megabytes = ((encoder.bytes + decoder.bytes) / 1e6).toFixed(1);
  element("model").textContent = [name, precision, `${megabytes} MB`, `frame of ${frame} pixels`, licence]
    .filter(Boolean).join(" · ");
  element("controls").disabled = false;
  element("status").textContent = "Choose an image.";
});

/** Show a file's image in its stored size, turned upright, and encode it. */
function open(name, blob) {
  reset();
  element("work").hidden = true;
  queue(`${name}: encoding.`, async () => {
    // The levels of the file, whatever its colour profile: so do the Python programs read it.
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" }).catch(() => {
      throw new Error(`${name}: cannot be decoded as an image`);
    });
    const { width, height } = bitmap;
    for (const canvas of [element("image"), element("mask")]) Object.assign(canvas, { width, height });
    element("stage").style.setProperty("--ratio", width / height);
    const context = element("image").getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    element("work").hidden = false;
    const start = performance.now();
    await sam.setImage(context.getImageData(0, 0, width, height));
    const milliseconds = Math.round(performance.now() - start);
    element("status").textContent = `${name}: ${width} x ${height} pixels, encoded in ${milliseconds} ms.`;
  });
}

function reset() {
  prompt = { box: null, points: [] };
  answer = null;
  version += 1;
  drawPrompt();
  listCandidates();
}

/** Answer the prompt as it is now. */
function ask() {
  const request = ++version;
  queue("", async () => {
    // Another prompt or image came while earlier ones were computed.
    if (request !== version) return;
    const start = performance.now();
    const found = await sam.predict(prompt);
    if (request !== version) return;
    answer = found;
    listCandidates();
    paint(answer.best);
    const milliseconds = Math.round(performance.now() - start);
    const given = [prompt.box && `box ${prompt.box.join(", ")}`, ...prompt.points.map(([x, y, label]) =>
      `${label ? "foreground" : "background"} ${x}, ${y}`)].filter(Boolean).join("; ");
    element("status").textContent = `${given}: answered in ${milliseconds} ms.`;
  });
}

/** Paint a candidate's mask over the image. */
function paint(index) {
  const { width, height } = element("mask");
  const pixels = new ImageData(width, height);
  const colours = new Uint32Array(pixels.data.buffer), [colour] = new Uint32Array(new Uint8Array(MASK).buffer);
  answer.mask(index).forEach((inside, place) => (colours[place] = inside && colour));
  element("mask").getContext("2d").putImageData(pixels, 0, 0);
}

/** List the candidates of the answer; without one there is no mask either. */
function listCandidates() {
  if (!answer) element("mask").getContext("2d").clearRect(0, 0, element("mask").width, element("mask").height);
  element("caption").hidden = !answer;
  element("candidates").innerHTML = (answer?.ious ?? []).map((iou, index) => `
    <label><input type="radio" name="candidate" value="${index}" ${index === answer.best ? "checked" : ""}>
      ${NAMES[index]} <span class="quiet">${iou.toFixed(3)}</span></label>`).join("");
}

function drawPrompt() {
  const { width, height } = element("image");
  const percent = (value, whole) => `${(100 * value) / whole}%`;
  const marks = prompt.points.map(([x, y, label]) => `
    <svg class="${label ? "foreground" : "background"}" x="${percent(x + 0.5, width)}" y="${percent(y + 0.5, height)}">
      <circle r="8"/><path d="M-4 0H4${label ? "M0-4V4" : ""}"/></svg>`);
  if (prompt.box) {
    const [x0, y0, x1, y1] = prompt.box;
    marks.unshift(`<rect x="${percent(x0, width)}" y="${percent(y0, height)}"
      width="${percent(x1 - x0, width)}" height="${percent(y1 - y0, height)}"/>`);
  }
  element("prompt").innerHTML = marks.join("");
}

element("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) open(file.name, file);
});
element("sample").addEventListener("click", () => drawSample().toBlob((blob) => open("sample", blob)));
element("reset").addEventListener("click", reset);
element("candidates").addEventListener("change", (event) => paint(Number(event.target.value)));

/** Where a pointer is on the image, in its pixels. */
function place(event) {
  const frame = element("stage").getBoundingClientRect(), { width, height } = element("image");
  const x = ((event.clientX - frame.left) / frame.width) * width;
  const y = ((event.clientY - frame.top) / frame.height) * height;
  return [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
}

let pressed = null;
element("stage").addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary) return;
  pressed = { at: place(event), x: event.clientX, y: event.clientY, earlier: prompt.box, isBox: false };
  element("stage").setPointerCapture(event.pointerId);
});
element("stage").addEventListener("pointermove", (event) => {
  if (!pressed) return;
  pressed.isBox ||= Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > DRAGGED;
  const [x, y] = place(event), [x0, y0] = pressed.at;
  const box = [Math.min(x0, x), Math.min(y0, y), Math.max(x0, x), Math.max(y0, y)].map(Math.round);
  if (!pressed.isBox || box[0] === box[2] || box[1] === box[3]) return;
  prompt.box = box;
  drawPrompt();
});
element("stage").addEventListener("pointerup", (event) => {
  if (!pressed) return;
  if (!pressed.isBox) {
    const isForeground = (document.querySelector("[name=kind]:checked").value === "1") !== event.shiftKey;
    const { width, height } = element("image"), [x, y] = pressed.at.map(Math.floor);
    prompt.points.push([Math.min(x, width - 1), Math.min(y, height - 1), Number(isForeground)]);
    drawPrompt();
  }
  pressed = null;
  // A drag along a line is no box.
  if (prompt.box || prompt.points.length) ask();
});
element("stage").addEventListener("pointercancel", () => {
  if (pressed?.isBox) prompt.box = pressed.earlier;
  pressed = null;
  drawPrompt();
});

/** A few shapes, such as the small models that come with the project were trained on. */
function drawSample() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 480 });
  const context = canvas.getContext("2d");
  const fill = (colour, path) => {
    context.fillStyle = colour;
    context.beginPath();
    path();
    context.fill();
  };
  fill("#8a9a86", () => context.rect(0, 0, 640, 480));
  fill("#c9573c", () => context.ellipse(190, 170, 110, 80, 0.4, 0, 7));
  fill("#2f5d8c", () => context.rect(360, 70, 190, 140));
  fill("#e4c45a", () => [[330, 430], [470, 250], [580, 440]].forEach((corner) => context.lineTo(...corner)));
  fill("#4d3b57", () => context.arc(130, 370, 60, 0, 7));
  return canvas;
}
