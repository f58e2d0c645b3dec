// Handles an observation distribution y ~ N(μ, F diag(a)² Fᵀ + D) in the browser: painting on it
// (eq. 6–7), scaling its components (eq. 5), walking between its samples (eq. 4 and 8).
//
// The module serves notebooks (anywidget calls `render`) and pages without a server. The columns of
// F are the principal components U diag(s) of the covariance factor, stored as (rank, values); `a`
// scales them. Values are channel-major, and a pixel is row * width + column. All algebra is in
// float64 except the arrays μ, F and D. sos/analysis/editing.py does the same in Python, and tests check
// that the two agree.

// ------------------------------------------------------------------------------- arrays and noise

/** Reads the numbers of a DataView; "float16" is widened to float32. */
export function numbers(view, type) {
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  return type === "float16" ? Float32Array.from(new Uint16Array(bytes), half) : new Float32Array(bytes);
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Draws `count` standard normal numbers from seed and stream, the same as in surface.py. */
export function gaussians(seed, stream, count) {
  const result = new Float64Array(count);
  const key = Math.imul(seed, 0x9e3779b9) ^ Math.imul(stream + 1, 0x85ebca6b);
  for (let i = 0; i < count; i++) {
    const radius = (scramble(key + 2 * i) + 0.5) / 4294967296;
    const angle = scramble(key + 2 * i + 1) / 4294967296;
    result[i] = Math.sqrt(-2 * Math.log(radius)) * Math.cos(2 * Math.PI * angle);
  }
  return result;
}

/** Scrambles 32-bit integers bijectively (the finaliser "lowbias32" of C. Wellons). */
function scramble(x) {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

// ---------------------------------------------------------------------------------------- algebra

/** Returns the pixels of the canvas under a round brush along points [[x, y], ...]. */
export function brush(points, size, height, width) {
  const painted = new Set();
  points.forEach(([fromX, fromY], k) => {
    const [toX, toY] = points[Math.min(k + 1, points.length - 1)];
    const alongX = toX - fromX, alongY = toY - fromY;
    const length = alongX * alongX + alongY * alongY || 1;
    const clip = (value, limit) => Math.max(0, Math.min(limit - 1, Math.floor(value)));
    const [left, right] = [Math.min(fromX, toX) - size, Math.max(fromX, toX) + size];
    const [top, bottom] = [Math.min(fromY, toY) - size, Math.max(fromY, toY) + size];
    for (let row = clip(top, height); row <= clip(bottom, height); row++) {
      for (let column = clip(left, width); column <= clip(right, width); column++) {
        const x = column + 0.5, y = row + 0.5;
        const t = Math.max(0, Math.min(1, ((x - fromX) * alongX + (y - fromY) * alongY) / length));
        const offX = x - (fromX + t * alongX), offY = y - (fromY + t * alongY);
        if (offX * offX + offY * offY <= (size * size) / 4) painted.add(row * width + column);
      }
    }
    const row = Math.floor(fromY), column = Math.floor(fromX);
    if (row >= 0 && row < height && column >= 0 && column < width) painted.add(row * width + column);
  });
  return [...painted].sort((a, b) => a - b);
}

/** Interpolates: (sin((1 - t) w) a + sin(t w) b) / sin w, w the angle between a and b (eq. 8). */
export function slerp(a, b, t) {
  const dot = (u, v) => u.reduce((sum, x, k) => sum + x * v[k], 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.max(-1, Math.min(1, cosine)));
  const sine = Math.sin(angle);
  const [p, q] = sine > 1e-6 ? [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine] : [1 - t, t];
  return a.map((x, k) => p * x + q * b[k]);
}

/** The Cholesky factor L of a symmetric positive definite K (n, n), which solves K x = b. */
class Cholesky {
  constructor(matrix, n) {
    const L = (this.L = new Float64Array(n * n));
    this.n = n;
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++) {
        let sum = matrix[i * n + j];
        for (let k = 0; k < j; k++) sum -= L[i * n + k] * L[j * n + k];
        L[i * n + j] = i === j ? Math.sqrt(sum) : sum / L[j * n + j];
      }
    }
  }

  /** Computes L⁻¹ b in place. */
  forward(b) {
    for (let i = 0; i < this.n; i++) {
      let sum = b[i];
      for (let k = 0; k < i; k++) sum -= this.L[i * this.n + k] * b[k];
      b[i] = sum / this.L[i * this.n + i];
    }
    return b;
  }

  /** Computes L⁻ᵀ b in place. */
  backward(b) {
    for (let i = this.n - 1; i >= 0; i--) {
      let sum = b[i];
      for (let k = i + 1; k < this.n; k++) sum -= this.L[k * this.n + i] * b[k];
      b[i] = sum / this.L[i * this.n + i];
    }
    return b;
  }
}

/** A distribution and the edits on it. `edits` maps a pixel to its colour and noise variance. */
export class Observation {
  constructor({ shape, mean, factor, diag }) {
    Object.assign(this, { shape, mean, factor, diag });
    this.values = mean.length;
    this.rank = factor.length / this.values;
    this.pixels = shape[1] * shape[2];
    this.scales = new Float64Array(this.rank).fill(1);
    this.setNoise(new Float64Array(this.rank), 0);
  }

  variance(i) {
    return this.diag[this.diag.length > 1 ? i : 0];
  }

  /** Sets ω (rank) of the sample shown, and the seed of the noise of values and of soft edits. */
  setNoise(omega, seed) {
    this.omega = Float64Array.from(omega);
    this.noise = gaussians(seed, 1, this.values);
    this.editNoise = gaussians(seed, 2, this.values);
    this.setEdits(this.edits ?? new Map());
  }

  setEdits(edits) {
    this.edits = new Map();
    this.gram = new Float64Array(this.rank ** 2); // F₂ᵀ W F₂, W = (D₂ + T)⁻¹
    this.pull = new Float64Array(this.rank); // F₂ᵀ W (b - μ₂)
    this.push = new Float64Array(this.rank); // F₂ᵀ W (noise of the values and of the edits)
    edits.forEach((edit, pixel) => this.edit(pixel, edit));
  }

  /** Gives one pixel a colour, which replaces its earlier edit. */
  edit(pixel, edit) {
    if (this.edits.has(pixel)) this.accumulate(pixel, this.edits.get(pixel), -1);
    this.accumulate(pixel, edit, 1);
    this.edits.set(pixel, edit);
  }

  accumulate(pixel, { colour, variance }, sign) {
    const { rank, values, factor, gram } = this, row = new Float64Array(rank);
    colour.forEach((value, channel) => {
      const i = channel * this.pixels + pixel, own = this.variance(i);
      if (own + variance === 0) return; // a fixed value tells nothing new about ω
      const weight = sign / (own + variance);
      const noise = Math.sqrt(own) * this.noise[i] + Math.sqrt(variance) * this.editNoise[i];
      for (let r = 0; r < rank; r++) row[r] = factor[r * values + i];
      for (let r = 0; r < rank; r++) {
        const f = weight * row[r];
        this.pull[r] += f * (value - this.mean[i]);
        this.push[r] += f * noise;
        for (let k = 0; k <= r; k++) gram[r * rank + k] += f * row[k];
      }
    });
  }

  /** Returns the Cholesky factor of K = I + diag(a) F₂ᵀ W F₂ diag(a). */
  solver() {
    const { rank, gram, scales } = this, matrix = new Float64Array(rank * rank);
    for (let r = 0; r < rank; r++) {
      for (let k = 0; k <= r; k++) matrix[r * rank + k] = scales[r] * gram[r * rank + k] * scales[k];
      matrix[r * rank + r] += 1;
    }
    return new Cholesky(matrix, rank);
  }

  /** Computes the posterior mean of ω, K⁻¹ diag(a) F₂ᵀ W (b - μ₂). */
  posteriorMean() {
    const solver = this.solver();
    return solver.backward(solver.forward(this.pull.map((x, r) => this.scales[r] * x)));
  }

  /** Computes ‖E[ω | edits]‖, the length of the noise that the edits ask for. */
  noiseLength() {
    return Math.hypot(...this.posteriorMean());
  }

  /** Samples ω given the edits, by moving the present ω (Matheron's rule). */
  posteriorSample() {
    const { rank, gram, scales, omega } = this, solver = this.solver();
    const right = new Float64Array(rank);
    for (let r = 0; r < rank; r++) {
      let explained = this.push[r];
      for (let k = 0; k < rank; k++) {
        explained += gram[k <= r ? r * rank + k : k * rank + r] * scales[k] * omega[k];
      }
      right[r] = scales[r] * (this.pull[r] - explained);
    }
    return solver.backward(solver.forward(right)).map((x, r) => x + omega[r]);
  }

  /** Computes μ + F diag(a) ω, plus √D times the noise of the values where it is given. */
  compose(omega, noise) {
    const { values, factor, scales } = this, image = Float32Array.from(this.mean);
    for (let r = 0; r < this.rank; r++) {
      const weight = scales[r] * omega[r], start = r * values;
      if (weight) for (let i = 0; i < values; i++) image[i] += weight * factor[start + i];
    }
    if (noise) for (let i = 0; i < values; i++) image[i] += Math.sqrt(this.variance(i)) * noise[i];
    return image;
  }

  /** Weighs the edits against the rest of the image at edited pixels; exact edits win fully. */
  settle(image, editNoise) {
    this.edits.forEach(({ colour, variance }, pixel) => {
      colour.forEach((value, channel) => {
        const i = channel * this.pixels + pixel, own = this.variance(i);
        const kept = own + variance > 0 ? variance / (own + variance) : 0;
        const wanted = editNoise ? value - Math.sqrt(variance) * editNoise[i] : value;
        image[i] = kept * image[i] + (1 - kept) * wanted;
      });
    });
    return image;
  }

  conditionalMean() {
    return this.settle(this.compose(this.posteriorMean()));
  }

  conditionalSample() {
    return this.settle(this.compose(this.posteriorSample(), this.noise), this.editNoise);
  }

  /** Composes what would be shown without any edit: the mean, or the sample of the present ω. */
  original(view) {
    return view === "sample" ? this.compose(this.omega, this.noise) : Float32Array.from(this.mean);
  }

  /** Computes the variance of every value given the edits, fᵀ K⁻¹ f + d. */
  conditionalVariance() {
    const { rank, values, factor, scales } = this, solver = this.solver();
    const result = new Float32Array(values), row = new Float64Array(rank);
    for (let i = 0; i < values; i++) {
      for (let r = 0; r < rank; r++) row[r] = scales[r] * factor[r * values + i];
      solver.forward(row);
      let sum = 0;
      for (let r = 0; r < rank; r++) sum += row[r] * row[r];
      result[i] = sum + this.variance(i);
    }
    this.edits.forEach(({ colour, variance }, pixel) => {
      colour.forEach((_, channel) => {
        const i = channel * this.pixels + pixel, own = this.variance(i);
        const kept = own + variance > 0 ? variance / (own + variance) : 0;
        result[i] = kept * kept * (result[i] - own) + kept * own;
      });
    });
    return result;
  }
}

/** Combines strokes into edits; where strokes overlap, the last one holds. */
export function latest(strokes) {
  const edits = new Map();
  for (const { pixels, colour, std } of strokes) {
    for (const pixel of pixels) edits.set(pixel, { colour, variance: std * std });
  }
  return edits;
}

/** Computes the root mean square error of an image to the true one, over all their values. */
export function rmse(image, truth) {
  return Math.sqrt(image.reduce((sum, x, i) => sum + (x - truth[i]) ** 2, 0) / image.length);
}

/** Traces the borders of edits as an SVG path in pixels; edits of one look are one area. */
export function outline(edits, height, width) {
  const at = new Array(height * width), parts = [];
  edits.forEach((edit, pixel) => (at[pixel] = edit));
  const alike = (a, b) => a === b || Boolean(a && b && a.variance === b.variance
    && a.colour.every((x, channel) => x === b.colour[channel]));
  const trace = (lines, length, sides, write) => {
    for (let line = 0; line <= lines; line++) {
      for (let k = 0, from = -1; k <= length; k++) {
        const border = k < length && !alike(...sides(line, k));
        if (border && from < 0) from = k;
        if (!border && from >= 0) parts.push(write(line, from, k)), (from = -1);
      }
    }
  };
  const inside = (row, column) => (row >= 0 && row < height && column >= 0 && column < width
    ? at[row * width + column] : undefined);
  trace(height, width, (y, x) => [inside(y - 1, x), inside(y, x)], (y, from, to) => `M${from} ${y}H${to}`);
  trace(width, height, (x, y) => [inside(y, x - 1), inside(y, x)], (x, from, to) => `M${x} ${from}V${to}`);
  return parts.join("");
}

// ------------------------------------------------------------------------------- drawing and parts

/** Draws an image (channels, height, width) in [0, 1] on a canvas of that size. */
export function draw(canvas, image, [channels, height, width]) {
  Object.assign(canvas, canvas.height === height && canvas.width === width ? {} : { height, width });
  const picture = new ImageData(width, height), pixels = width * height;
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) picture.data[4 * i + c] = 255 * image[(channels > 1 ? c : 0) * pixels + i]; // rounds
    picture.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

const HEAT = [[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]];

/** Draws shares in [0, 1] as colours from dark violet to yellow. */
function heat(canvas, share, shape) {
  const colours = new Float32Array(3 * share.length);
  share.forEach((x, i) => {
    const place = Math.max(0, Math.min(1, x)) * 4, k = Math.min(3, Math.floor(place));
    for (let c = 0; c < 3; c++) colours[c * share.length + i] = (HEAT[k][c] + (place - k) * (HEAT[k + 1][c] - HEAT[k][c])) / 255;
  });
  draw(canvas, colours, [3, ...shape.slice(1)]);
}

/** Makes an element with properties, listeners (on...), attributes (the rest) and children. */
function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

let made = 0; // counts ids, which must be unique among all widgets of the page

/** Makes a labelled slider; `show` formats the text beside it. */
function slider(text, options, show, oninput) {
  const id = `sos-${++made}`, output = make("output", { htmlFor: id });
  const input = make("input", { type: "range", id, ...options, oninput: () => oninput(+input.value) });
  const set = (value) => {
    input.value = value;
    output.textContent = show(value);
    input.setAttribute("aria-valuetext", `${text} ${output.textContent}`);
  };
  set(options.value);
  return { element: make("label", { className: "sos-row", htmlFor: id }, make("span", {}, text), input, output), set };
}

function observationOf(model) {
  const type = model.get("dtype");
  const [mean, factor] = ["mean", "factor"].map((name) => numbers(model.get(name), type));
  const diag = numbers(model.get("diag"), "float32"); // tiny variances are zero in half precision
  const p = new Observation({ shape: model.get("shape"), mean, factor, diag });
  p.setNoise(model.get("omega"), model.get("seed"));
  return p;
}

/** Returns a function that calls `work` at most once per frame. */
function perFrame(work) {
  let waiting = false;
  return () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; work(); });
    waiting = true;
  };
}

/** Runs `work` when one of the named traits changes; returns a function that ends this. */
function watch(model, names, work) {
  names.forEach((name) => model.on(`change:${name}`, work));
  return () => names.forEach((name) => model.off(`change:${name}`, work));
}

const DISTRIBUTION = ["mean", "factor", "diag", "shape", "dtype"];

function set(model, changes) {
  for (const [name, value] of Object.entries(changes)) model.set(name, value);
  model.save_changes();
}

/** Makes canvases on top of each other, `zoom` screen pixels per pixel; the last takes input. */
function stage(count, label) {
  const canvases = Array.from({ length: count }, () => make("canvas"));
  const top = canvases[count - 1];
  Object.assign(top, { tabIndex: 0 });
  top.setAttribute("role", "application");
  top.setAttribute("aria-label", label);
  const element = make("div", { className: "sos-stage" }, ...canvases);
  const resize = (shape, zoom) => {
    for (const canvas of canvases) Object.assign(canvas, { height: shape[1], width: shape[2] });
    size(element, shape, zoom);
  };
  return { element, canvases, top, resize };
}

function size(element, [, height, width], zoom) {
  element.style.setProperty("--sos-width", `${width * zoom}px`);
  element.style.setProperty("--sos-line", zoom > 3 ? "3px" : "2px"); // outlines leave room for thin strokes
  element.style.setProperty("--sos-aspect", width / height);
  element.style.aspectRatio = `${width} / ${height}`;
}

/** Makes a picture with a caption that stands beside the one that is worked on. */
function companion(name, text, ...under) {
  const canvas = make("canvas", { role: "img" }), caption = make("figcaption");
  const frame = make("div", { className: "sos-stage" }, canvas);
  const element = make("figure", { className: `sos-companion sos-${name}`, hidden: true }, frame, ...under, caption);
  const describe = (text) => {
    caption.textContent = text;
    canvas.setAttribute("aria-label", text);
  };
  describe(text);
  return { element, canvas, describe, resize: (shape, zoom) => size(frame, shape, zoom) };
}

/** Makes the scale of `heat`, with numbers from 0 to a largest value. */
function colourBar() {
  const ramp = make("div", { className: "sos-ramp" });
  ramp.style.background = `linear-gradient(to right, ${HEAT.map((colour) => `rgb(${colour})`).join(", ")})`;
  const marks = [0, 0.5, 1].map(() => make("span"));
  const show = (most) => marks.forEach((mark, k) => {
    mark.textContent = k ? `${+((k * most) / 2).toPrecision(2)}` : "0";
  });
  return { element: make("div", { className: "sos-bar" }, ramp, ...marks), show };
}

/** Makes lines over a canvas that are seen on dark and on light, whatever the zoom. */
function lines() {
  const holder = make("div", { innerHTML:
    '<svg class="sos-outline" aria-hidden="true" preserveAspectRatio="none"><path/><path/></svg>' });
  const element = holder.firstChild;
  const show = (path, [, height, width]) => {
    element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const one of element.children) one.setAttribute("d", path);
  };
  return { element, show };
}

/** Returns the place of an event on an element, as shares of its width and height. */
function place(event, element) {
  const box = element.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

/** Styles the root, and keeps keys that are typed here from JupyterLab, which checks the focus. */
function adopt(el) {
  el.classList.add("sos");
  el.addEventListener("focusin", (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true"));
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// ----------------------------------------------------------------------------------------- editor

const KEYS = "Arrow keys move the brush, with Shift by five pixels; Space paints; Control Z takes back; "
  + "O shows the original, and once more the edited picture.";
const SWITCHED = "Changed from the mean to a sample: the scale of a component shows in samples, and "
  + "without strokes the mean is the same for all scales.";
const BACK = "The edited picture again, because you changed it.";

function renderEditor({ model, el }) {
  const get = (name) => model.get(name);
  const board = stage(2, `Canvas to paint on. ${KEYS}`);
  const [picture] = board.canvases;
  const marks = lines(), bar = colourBar();
  const truth = companion("truth", "True picture"), map = companion("map", "Standard deviation", bar.element);
  const ring = make("div", { className: "sos-ring", hidden: true });
  const notice = make("div", { className: "sos-notice", role: "status", "aria-live": "polite" });
  picture.after(marks.element);
  board.element.append(ring, notice);
  let p, image, stale; // the distribution, what is shown, and whether another distribution waits
  let before, largest; // the standard deviations before any edit, and the largest of them
  let reference = null; // the true image, if it is known
  let path = null, painted = null; // the stroke in progress
  let cursor = null; // [x, y] of the brush in pixels
  let picking = false, silence;

  // The edits that the strokes make, and the picture that follows from them.

  const strokes = () => get("strokes").slice(0, get("position"));
  const refresh = perFrame(() => {
    if (stale) return;
    const began = performance.now(), view = get("view"), original = get("original");
    if (original) image = p.original(view);
    else image = view === "sample" ? p.conditionalSample() : p.conditionalMean();
    draw(picture, image, p.shape);
    marks.show(get("outlines") && !original ? outline(p.edits, p.shape[1], p.shape[2]) : "", p.shape);
    compare(original);
    board.element.dispatchEvent(new CustomEvent("sos-drawn", { bubbles: true, detail: performance.now() - began }));
    tell();
  });

  /** Draws what stands beside the picture: the true one, and the map of uncertainty. */
  function compare(original) {
    truth.element.hidden = !(reference && get("show_truth"));
    map.element.hidden = !get("uncertainty");
    if (!truth.element.hidden) {
      draw(truth.canvas, reference, p.shape);
      truth.describe(`True picture; root mean square error to it: ${rmse(image, reference).toFixed(4)}`);
    }
    if (!map.element.hidden) {
      const now = original ? before : spread();
      heat(map.canvas, now.map((x) => x / largest), p.shape);
      bar.show(largest);
      const mean = now.reduce((sum, x) => sum + x, 0) / now.length;
      map.describe(`Standard deviation of pixels${given(original)}: ${mean.toPrecision(2)} on average`);
    }
  }

  const given = (original) => {
    if (!p.edits.size) return "";
    return original ? " without the strokes" : " given the strokes";
  };

  /** Computes the standard deviation of every pixel, over its channels. */
  function spread() {
    const variance = p.conditionalVariance(), result = new Float64Array(p.pixels);
    variance.forEach((x, i) => (result[i % p.pixels] += x / p.shape[0]));
    return result.map(Math.sqrt);
  }

  function tell() {
    const length = p.noiseLength(), typical = Math.sqrt(p.rank);
    const count = strokes().length, size = p.edits.size;
    caption.textContent = `${get("view") === "sample" ? "Sample" : "Mean"}${given(get("original"))}`;
    status.textContent = size
      ? `${count} stroke${count === 1 ? "" : "s"}, ${size} pixel${size === 1 ? "" : "s"} edited. ` +
        `Noise length ‖E[ω | strokes]‖: ${length.toFixed(1)}; a random draw has about √R = ${typical.toFixed(1)}` +
        (length > 2 * typical ? ", so the model finds this edit unlikely, and softer strokes may help." : ".")
      : "Paint on the picture: the rest follows.";
  }

  /** Says over the picture what happened, for as long as it takes to read. */
  function say(text) {
    clearTimeout(silence);
    notice.textContent = text;
    if (text) silence = setTimeout(() => say(""), 9000);
  }

  function load() {
    stale = false;
    p = observationOf(model);
    const known = get("reference");
    reference = known?.byteLength ? numbers(known, get("dtype")) : null;
    truthSwitch.hidden = !reference;
    rescale();
    zoomTo(get("zoom"));
    components.replaceChildren(...componentSliders());
    tools.replaceChildren(...colourTools());
    follow();
    rebuild();
  }

  function rescale() {
    p.scales = Float64Array.from(get("scales"));
    p.setEdits(new Map());
    before = spread();
    largest = Math.max(...before) || 1;
    p.setEdits(latest(strokes()));
  }

  function rebuild() {
    if (stale) return;
    p.setEdits(latest(strokes()));
    const held = document.activeElement; // disabling a button would drop the keyboard's focus
    undo.disabled = get("position") === 0;
    redo.disabled = get("position") >= get("strokes").length;
    reset.disabled = undo.disabled;
    if ([undo, redo, reset].includes(held) && held.disabled) (undo.disabled ? redo : undo).focus();
    refresh();
  }

  // Painting, by pointer (mouse, pen, touch) or keyboard.

  /** Changes strokes by hand, which must be seen: the original makes room for the edited picture. */
  function change(changes) {
    const hidden = get("original");
    set(model, hidden ? { ...changes, original: false } : changes);
    say(hidden ? BACK : "");
  }

  function extend(point) {
    const [, height, width] = p.shape, edit = { colour: get("colour"), variance: get("std") ** 2 };
    for (const pixel of brush([path ?? point, point], get("brush"), height, width)) {
      if (!painted.has(pixel)) p.edit(pixel, edit);
      painted.add(pixel);
    }
    path = point;
    refresh();
  }

  function begin(point) {
    painted = new Set();
    if (get("original")) change({});
    else say("");
    extend(point);
  }

  function finish() {
    if (painted?.size) {
      const pixels = [...painted].sort((a, b) => a - b);
      const all = [...strokes(), { pixels, colour: get("colour"), std: get("std") }];
      set(model, { strokes: all, position: all.length });
    }
    path = painted = null;
  }

  function cancel() {
    path = painted = null;
    rebuild();
  }

  function pick([x, y]) {
    const [channels, height, width] = p.shape, [column, row] = [Math.floor(x), Math.floor(y)];
    if (row < 0 || row >= height || column < 0 || column >= width) return;
    const pixel = row * width + column;
    const clip = (value) => Math.round(255 * Math.max(0, Math.min(1, value))) / 255;
    set(model, { colour: Array.from({ length: channels }, (_, c) => clip(image[c * p.pixels + pixel])) });
    usePicker(false);
  }

  function usePicker(on) {
    picking = on;
    picker.setAttribute("aria-pressed", on);
    board.top.style.cursor = on ? "copy" : "crosshair";
    mark();
  }

  /** Draws the brush where it would paint, on top of the image and not as part of it. */
  function mark() {
    const context = board.top.getContext("2d"), [channels, height, width] = p.shape;
    context.clearRect(0, 0, width, height);
    ring.hidden = !cursor;
    if (!cursor) return;
    const size = picking ? 1 : get("brush");
    const [x, y] = size === 1 ? cursor.map((place) => Math.floor(place) + 0.5) : cursor;
    Object.assign(ring.style, { // a ring, visible on paint of the brush's own colour too
      left: `${(100 * (x - size / 2)) / width}%`, top: `${(100 * (y - size / 2)) / height}%`,
      width: `${(100 * size) / width}%`, height: `${(100 * size) / height}%`,
    });
    if (picking) return;
    const [red, green, blue] = get("colour").map((x) => 255 * x), colour = channels > 1 ? [red, green, blue] : [red, red, red];
    context.fillStyle = `rgb(${colour})`;
    for (const pixel of brush([cursor], size, height, width)) {
      context.fillRect(pixel % width, Math.floor(pixel / width), 1, 1);
    }
  }

  const pointOf = (event) => {
    const [x, y] = place(event, board.top);
    return [x * p.shape[2], y * p.shape[1]];
  };
  const listen = (type, work) => board.top.addEventListener(type, work);
  listen("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    if (picking || event.altKey) return pick(pointOf(event));
    board.top.setPointerCapture(event.pointerId);
    begin(pointOf(event));
  });
  listen("pointermove", (event) => {
    if (!event.isPrimary) return;
    cursor = pointOf(event);
    if (painted) extend(cursor);
    mark();
  });
  listen("pointerup", finish);
  listen("pointercancel", cancel);
  listen("pointerleave", () => { cursor = null; mark(); });
  listen("blur", () => { cursor = null; mark(); });
  listen("keydown", (event) => {
    const [, height, width] = p.shape, command = event.ctrlKey || event.metaKey;
    if (event.key in ARROWS) {
      const [x, y] = ARROWS[event.key], step = event.shiftKey ? 5 : 1;
      const [column, row] = (cursor ?? [width / 2, height / 2]).map(Math.floor);
      const move = (from, by, limit) => Math.max(0, Math.min(limit - 1, from + by * step)) + 0.5;
      cursor = [move(column, x, width), move(row, y, height)];
      status.textContent = `Brush at row ${Math.floor(cursor[1])}, column ${Math.floor(cursor[0])}.`;
    } else if ((event.key === " " || event.key === "Enter") && !command) {
      if (painted) return event.preventDefault(); // the pointer is drawing
      cursor ??= [width / 2, height / 2];
      if (picking) pick(cursor);
      else begin(cursor), finish();
    } else if (event.key === "Escape") {
      usePicker(false);
      cancel();
    } else if (command && ["z", "y"].includes(event.key.toLowerCase())) {
      step(event.shiftKey || event.key.toLowerCase() === "y" ? 1 : -1);
    } else if (event.key.toLowerCase() === "o" && !command && !event.altKey) {
      set(model, { original: !get("original") });
    } else return;
    event.preventDefault();
    mark();
  });

  const step = (by) => {
    const position = get("position") + by;
    if (position >= 0 && position <= get("strokes").length) change({ position });
  };

  // The controls.

  const button = (text, title, onclick) => make("button", { type: "button", title, onclick }, text);
  const undo = button("Undo", "Take back the last stroke (Control Z)", () => step(-1));
  const redo = button("Redo", "Bring back the stroke that was taken back (Control Y)", () => step(1));
  const reset = button("Reset", "Take back all strokes; Redo brings them back", () => change({ position: 0 }));
  const picker = button("Pick", "Take the colour of a pixel: click it, or Alt-click at any time", () => usePicker(!picking));
  const status = make("div", { className: "sos-status", role: "status" });
  const tools = make("div", { className: "sos-tools" }), components = make("div", { className: "sos-components" });
  const group = `sos-${++made}`;
  const views = ["mean", "sample"].map((view) =>
    make("input", { type: "radio", name: group, value: view, onchange: () => set(model, { view }) }));
  const caption = make("figcaption");
  const switches = Object.entries({
    uncertainty: ["uncertainty", "The standard deviation of each pixel, as a map beside the picture"],
    outlines: ["outlines", "Lines around the painted pixels, which are not part of the picture"],
    show_truth: ["show the true picture", "The picture that the distribution predicts, and the error to it"],
  }).map(([name, [text, title]]) => {
    const input = make("input", { type: "checkbox", onchange: () => set(model, { [name]: input.checked }) });
    return { name, input, element: make("label", { title }, input, ` ${text}`) };
  });
  const truthSwitch = switches.find((one) => one.name === "show_truth").element;
  const original = button("Original", "The picture without strokes; press again for the edited one (O on the picture)",
    () => set(model, { original: !get("original") }));
  const newSample = button("New sample", "Show another sample given the edits", () => {
    const seed = Math.floor(Math.random() * 2 ** 31);
    set(model, { view: "sample", seed, omega: Array.from(gaussians(seed, 0, p.rank)) });
  });
  // Starts from the shown size, because a larger zoom has no effect where there is no room.
  const shown = () => Math.floor(board.element.clientWidth / p.shape[2] + 0.01);
  const magnify = (by) => set(model, { zoom: Math.max(1, Math.min(16, shown() + by)) });
  const zoomTo = (zoom) => {
    for (const one of [board, truth, map]) one.resize(p.shape, zoom);
    smaller.disabled = zoom <= 1;
    larger.disabled = zoom >= 16 || (board.element.isConnected && shown() < zoom);
  };
  const smaller = button("\u2212", "Smaller picture", () => magnify(-1));
  const larger = button("+", "Larger picture", () => magnify(1));
  const save = button("Save PNG", "Save the picture without outlines, a pixel for a pixel", () => {
    const link = make("a", { href: picture.toDataURL("image/png"), download: "sos.png" });
    link.click();
  });

  const hex = (x) => Math.round(255 * x).toString(16).padStart(2, "0");
  let sliders = []; // functions that update the elements below from the model
  function colourTools() {
    const gray = p.shape[0] === 1, decimals = (x) => x.toFixed(2);
    const size = slider("Brush", { min: 1, max: 10, step: 1, value: get("brush") },
      (x) => `${x} px`, (x) => set(model, { brush: x }));
    const std = slider("Softness", { min: 0, max: 0.3, step: 0.01, value: get("std"),
      title: "σ, the standard deviation of a stroke's noise; 0: the pixels take exactly this colour" },
      (x) => (+x ? decimals(+x) : "exact"), (x) => set(model, { std: x }));
    const colour = gray
      ? slider("Gray", { min: 0, max: 1, step: 0.01, value: get("colour")[0] }, (x) => decimals(+x), (x) => set(model, { colour: [x] }))
      : { element: null, set: null };
    if (!gray) {
      const input = make("input", { type: "color", oninput: () =>
        set(model, { colour: [1, 3, 5].map((k) => parseInt(input.value.slice(k, k + 2), 16) / 255) }) });
      colour.element = make("label", { className: "sos-row" }, make("span", {}, "Colour"), input);
      colour.set = () => { input.value = `#${get("colour").map(hex).join("")}`; };
      colour.set();
    }
    sliders = [() => size.set(get("brush")), () => std.set(get("std")), () => colour.set(get("colour")[0])];
    return [size.element, colour.element, std.element];
  }

  const reload = perFrame(load);
  let scaleSliders = [];
  function componentSliders() {
    scaleSliders = Array.from({ length: p.rank }, (_, r) =>
      slider(`${r + 1}`, { min: -5, max: 5, step: 0.1, value: get("scales")[r], title: `Scale of component ${r + 1}` },
        (x) => (+x).toFixed(1),
        (x) => {
          const unseen = get("view") !== "sample";
          set(model, { view: "sample", scales: get("scales").map((old, k) => (k === r ? x : old)) });
          if (unseen) say(SWITCHED);
        }));
    const back = button("All to 1", "Every component at its own size", () => set(model, { scales: get("scales").map(() => 1) }));
    return [...scaleSliders.map((one) => one.element), back];
  }

  function follow() {
    sliders.forEach((work) => work());
    scaleSliders.forEach((one, r) => one.set(get("scales")[r]));
    views.forEach((input) => (input.checked = input.value === get("view")));
    switches.forEach(({ name, input }) => (input.checked = get(name)));
    original.setAttribute("aria-pressed", get("original"));
    if (get("view") === "mean") say("");
  }

  adopt(el);
  el.append(
    make("div", { className: "sos-left" },
      make("div", { className: "sos-show", role: "group", "aria-label": "Show" },
        ...views.map((input) => make("label", {}, input, ` ${input.value}`)), newSample, original,
        ...switches.map((one) => one.element)),
      make("div", { className: "sos-pictures" },
        make("figure", {}, board.element, caption), truth.element, map.element),
      status),
    make("div", { className: "sos-right", role: "group", "aria-label": "Tools" },
      tools,
      make("div", { className: "sos-buttons" }, picker, undo, redo, reset,
        smaller, larger, save),
      make("details", {}, make("summary", {}, "Components (eq. 5)"), components)));
  const stops = [
    watch(model, [...DISTRIBUTION, "reference"], () => { stale = true; reload(); }),
    watch(model, ["strokes", "position"], rebuild),
    watch(model, ["omega", "seed"], () => { if (!stale) p.setNoise(get("omega"), get("seed")), refresh(); }),
    watch(model, ["scales"], () => { if (!stale) rescale(), refresh(); }),
    watch(model, ["view", "original", "uncertainty", "outlines", "show_truth"], refresh),
    watch(model, ["zoom"], () => { if (!stale) zoomTo(get("zoom")), refresh(); }),
    watch(model, ["brush", "colour", "std", "view", "original", ...switches.map((one) => one.name), "scales"], () => { if (!stale) follow(); }),
  ];
  load();
  return () => {
    clearTimeout(silence);
    stops.forEach((stop) => stop());
  };
}

// ---------------------------------------------------------------------- the pad between four samples

function renderPad({ model, el }) {
  const get = (name) => model.get(name);
  const board = stage(1, "The picture between the four corners");
  const thumbnails = ["top left", "top right", "bottom left", "bottom right"].map((label) =>
    make("canvas", { role: "img", "aria-label": `${label} corner` }));
  const handle = make("div", { className: "sos-handle" });
  const pad = make("div", { className: "sos-pad", tabIndex: 0, role: "application",
    "aria-label": "Place between the corners. Arrow keys move it." }, ...thumbnails, handle);
  let p, stale;

  const noiseAt = (x, y) => {
    const [a, b, c, d] = get("corners");
    return slerp(slerp(a, b, x), slerp(c, d, x), y);
  };
  const refresh = perFrame(() => {
    if (stale) return;
    const began = performance.now();
    draw(board.canvases[0], p.compose(noiseAt(get("x"), get("y")), p.noise), p.shape);
    Object.assign(handle.style, { left: `${100 * get("x")}%`, top: `${100 * get("y")}%` });
    across.set(get("x")), down.set(get("y"));
    board.element.dispatchEvent(new CustomEvent("sos-drawn", { bubbles: true, detail: performance.now() - began }));
  });
  const reload = perFrame(load);
  function load() {
    stale = false;
    p = observationOf(model);
    board.resize(p.shape, get("zoom"));
    corners();
  }
  function corners() {
    if (stale) return;
    thumbnails.forEach((canvas, k) => {
      Object.assign(canvas, { height: p.shape[1], width: p.shape[2] });
      draw(canvas, p.compose(get("corners")[k], p.noise), p.shape);
    });
    refresh();
  }
  const clip = (value) => Math.max(0, Math.min(1, value));
  const go = (x, y) => set(model, { x: clip(x), y: clip(y) });
  const show = (value) => (+value).toFixed(2);
  const across = slider("t, left to right", { min: 0, max: 1, step: 0.01, value: get("x") }, show, (x) => go(x, get("y")));
  const down = slider("t, top to bottom", { min: 0, max: 1, step: 0.01, value: get("y") }, show, (y) => go(get("x"), y));
  pad.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    pad.setPointerCapture(event.pointerId);
    go(...place(event, pad));
  });
  pad.addEventListener("pointermove", (event) => {
    if (pad.hasPointerCapture(event.pointerId)) go(...place(event, pad));
  });
  pad.addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS)) return;
    const [x, y] = ARROWS[event.key], step = event.shiftKey ? 0.1 : 0.02;
    go(get("x") + x * step, get("y") + y * step);
    event.preventDefault();
  });
  const again = make("button", { type: "button", onclick: () => {
    const seed = Math.floor(Math.random() * 2 ** 31), all = gaussians(seed, 0, 4 * p.rank);
    set(model, { corners: [0, 1, 2, 3].map((k) => Array.from(all.slice(k * p.rank, (k + 1) * p.rank))) });
  } }, "New corners");

  adopt(el);
  el.append(make("div", { className: "sos-left" },
      make("div", { className: "sos-pictures" }, make("figure", {}, board.element, make("figcaption", {}, "Sample between the corners")))),
    make("div", { className: "sos-right", role: "group", "aria-label": "Interpolation" }, pad, across.element, down.element,
      make("div", { className: "sos-buttons" }, again)));
  const stops = [
    watch(model, DISTRIBUTION, () => { stale = true; reload(); }),
    watch(model, ["corners"], () => corners()),
    watch(model, ["x", "y"], refresh),
    watch(model, ["zoom"], () => { if (!stale) board.resize(p.shape, get("zoom")), refresh(); }),
  ];
  load();
  return () => stops.forEach((stop) => stop());
}

export default {
  render: (context) => (context.model.get("kind") === "pad" ? renderPad : renderEditor)(context),
};
