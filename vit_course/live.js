// A page with the model in it: choose an image, change it, and see what the model makes of it. The forward pass (vit.js) runs in a
// Worker; the explorer (explorer.js) draws. tools/live_page.ipynb joins the files into one page and leaves the imports out.
import { State, View, bytes, clamp, followTheme, make, percent } from './explorer.js';
import { Walk } from './walk.js';

/** The model, in a Worker of its own. Questions are answered by promises. */
class Model {
  constructor(code) {
    code = code.replace(/^export /gm, '');   // a plain script: a page from a file may not start a module in a Worker
    this.worker = new Worker(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })));
    this.open = new Map();
    this.asked = 0;
    this.worker.onmessage = ({ data }) => {
      const [done, failed] = this.open.get(data.id);
      this.open.delete(data.id);
      if (data.error) failed(new Error(data.error)); else done(data);
    };
    this.worker.onerror = e => { for (const [, failed] of this.open.values()) failed(new Error(e.message || 'the Worker cannot be started')); };
  }

  ask(question) {
    const id = ++this.asked;
    return new Promise((...settle) => { this.open.set(id, settle); this.worker.postMessage({ id, ...question }); });
  }
}

/** As the explorer's state; the fragment names the example, too. */
class LiveState extends State {
  static kept = ['example', ...State.kept.filter(name => name !== 'image')];
  read() {
    super.read();
    const n = new URLSearchParams(location.hash.slice(1)).get('example');
    if (/^\d+$/.test(n) && n < this.values.examples) this.set('example', Number(n));
  }
}

/** Something to look at when there are no examples. */
function drawShip() {
  const canvas = make('canvas', { width: 320, height: 320 }), c = canvas.getContext('2d');
  const fill = (colour, ...points) => { c.fillStyle = colour; c.beginPath(); for (const [x, y] of points) c.lineTo(x, y); c.fill(); };
  fill('#b8d4ea', [0, 0], [320, 0], [320, 190], [0, 190]);
  fill('#2f6d91', [0, 190], [320, 190], [320, 320], [0, 320]);
  fill('#a33b2e', [60, 180], [270, 180], [235, 225], [95, 225]);
  fill('#f4f1e6', [160, 40], [160, 170], [75, 170]);
  fill('#f4f1e6', [172, 65], [172, 170], [245, 170]);
  return canvas;
}

/** The image and all that is done to it. `pixels` is what the model sees, `photo` the same for people; both are canvases. */
class ImageEditor {
  constructor({ img_size: [H, W], patch_size: [ph, pw], grid: [h, w], mean }) {
    Object.assign(this, { H, W, ph, pw, h, w, grey: mean.map(m => Math.round(255 * m)) });
    this.pixels = make('canvas', { width: W, height: H });
    this.photo = make('canvas');
    this.reset();
  }

  reset() {
    this.shift = [0, 0];                                             // pixels of the model, down and to the right
    this.order = Array.from({ length: this.h * this.w }, (_, n) => n);
    this.paint = new Map();                                          // patch -> colour
  }

  get changed() { return this.paint.size > 0 || this.shift.some(Boolean) || this.order.some((from, n) => from !== n); }

  /** A new image: the file's pixels for people, and those that the model's size leaves, RGBA (H,W,4). */
  open(source, small) { this.source = source; this.small = small; }

  compose() {
    const small = make('canvas', { width: this.W, height: this.H });
    small.getContext('2d').putImageData(new ImageData(this.small, this.W, this.H), 0, 0);
    this.drawInto(this.pixels, small);
    [this.photo.width, this.photo.height] = [this.source.width, this.source.height];
    this.drawInto(this.photo, this.source);
    return this.pixels.getContext('2d').getImageData(0, 0, this.W, this.H).data;
  }

  /** Shift, shuffle and paint, at any size. */
  drawInto(canvas, source) {
    const { width, height } = canvas, c = canvas.getContext('2d', { willReadFrequently: canvas === this.pixels });
    const [dy, dx] = [this.shift[0] * height / this.H, this.shift[1] * width / this.W];
    const [g, r, b] = [this.grey[1] ?? this.grey[0], this.grey[0], this.grey[2] ?? this.grey[0]];
    const box = n => [n % this.w, Math.floor(n / this.w)].flatMap((i, axis) => {      // whole pixels: x, width, y, height
      const [size, count] = axis ? [height, this.h] : [width, this.w], from = Math.round(i * size / count);
      return [from, Math.round((i + 1) * size / count) - from];
    });
    const moved = make('canvas', { width, height }), m = moved.getContext('2d');
    m.fillStyle = `rgb(${r} ${g} ${b})`;
    m.fillRect(0, 0, width, height);
    m.drawImage(source, dx, dy);
    c.drawImage(moved, 0, 0);
    this.order.forEach((from, n) => {
      if (from === n) return;
      const [x, wide, y, high] = box(n), [x0, wide0, y0, high0] = box(from);
      c.drawImage(moved, x0, y0, wide0, high0, x, y, wide, high);
    });
    for (const [n, colour] of this.paint) {
      const [x, wide, y, high] = box(n);
      c.fillStyle = colour;
      c.fillRect(x, y, wide, high);
    }
  }
}

const SHARPEST = 1024;   // pixels a side: more are taken away by the browser before the model's own resize

class Live {
  constructor(el, page, code, weights) {
    const { cfg, examples } = page;
    Object.assign(this, { page, cfg, label: '', before: null, camera: null, waiting: false, busy: false });
    this.editor = new ImageEditor(cfg);
    this.off = new Set();
    this.model = new Model(code);
    this.message = make('p', { className: 'lv-message', role: 'status' }, 'Unpacking the model …');
    this.main = make('div');
    el.append(this.header(), this.bar(examples), this.message, this.main);
    this.start(weights).catch(error => this.say(error.message));
  }

  say(text) { this.message.textContent = text; this.message.hidden = !text; }

  header() {
    const theme = make('button', { type: 'button', className: 'vx-button' }, 'Light / dark');
    theme.addEventListener('click', () => {
      const root = document.documentElement, dark = root.dataset.scheme ? root.dataset.scheme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
      root.dataset.scheme = dark ? 'light' : 'dark';
      for (const key of ['quarto-color-scheme', 'smalldocs-scheme']) {
        try { localStorage.setItem(key, dark ? 'default' : 'alternate'); } catch { /* a private window */ }
      }
    });
    return make('header', { className: 'lv-header' }, make('h1', {}, this.page.title),
      make('p', {}, `The model runs in this page; no image leaves it. ${this.page.facts}`), make('a', { href: `${this.page.site}index.html` }, 'The course'), theme);
  }

  bar(examples) {
    const file = make('input', { type: 'file', accept: 'image/*' });
    file.addEventListener('change', () => { if (file.files[0]) this.openFile(file.files[0]); file.value = ''; });
    const button = (text, act, title = '') => {
      const b = make('button', { type: 'button', className: 'vx-button', title }, text);
      b.addEventListener('click', () => act(b));
      return b;
    };
    this.cameraButton = button('Camera', () => this.toggleCamera());
    this.colour = make('input', { type: 'color', value: '#808080', 'aria-label': 'colour of the brush' });
    this.samples = examples.map((example, i) => {
      const b = button('', () => this.openExample(i), example.label), canvas = make('canvas', { width: 48, height: 48 });
      b.className = 'lv-sample';
      b.setAttribute('aria-label', example.label);
      b.append(canvas);
      createImageBitmap(new Blob([bytes(example.file)])).then(bitmap => canvas.getContext('2d').drawImage(bitmap, 0, 0, 48, 48));
      return b;
    });
    const tools = { ask: ['Ask', 'pointing moves the query'], paint: ['Paint', 'pointing covers patches'], restore: ['Restore', 'pointing uncovers patches'],
      move: ['Move', 'dragging moves the image; so do arrow keys'], heads: ['Heads off', 'a click on a small map switches the head off or on; so does Shift with a click, or the key x'] };
    this.toolButtons = Object.entries(tools).map(([name, [text, title]]) => {
      const b = button(text, () => this.use(name), title);
      b.dataset.tool = name;
      return b;
    });
    addEventListener('dragover', e => e.preventDefault());
    addEventListener('drop', e => { e.preventDefault(); if (e.dataTransfer.files[0]) this.openFile(e.dataTransfer.files[0]); });
    addEventListener('paste', e => { if (e.clipboardData.files[0]) this.openFile(e.clipboardData.files[0]); });
    const group = (label, ...children) => make('div', { className: 'lv-group', role: 'group', 'aria-label': label }, ...children);
    return make('div', { className: 'lv-bar' },
      group('Image', make('label', { className: 'vx-button lv-file' }, 'Open image', file), this.cameraButton, ...this.samples, make('small', {}, 'or drop or paste one')),
      group('Changes', ...this.toolButtons, this.colour, button('Shuffle patches', () => this.shuffle()), button('Reset', () => this.reset(), 'the image and all heads as they were')));
  }

  async start(weights) {
    this.positions = (await this.model.ask({ cfg: this.cfg, weights })).positions;
    this.say('');
    this.use('ask');
    const { layers: L, heads: H } = this.page.record;
    this.state = new LiveState({ ...this.page.state, layer: L - 1, head: -1, examples: this.page.examples.length, example: 0, images: [{ ...this.page.record, classes: [] }] });
    this.state.on('change:example', () => this.openExample(this.state.get('example')));
    this.heads = L * H;
    if (this.page.examples.length) await this.openExample(this.state.get('example'));
    else await this.open(drawShip(), 'a drawing');
  }

  async openExample(i) {
    const example = this.page.examples[i];
    await this.openFile(new Blob([bytes(example.file)]), example.label);
    this.state.set('example', i);
    this.state.save_changes();
  }

  /** Any file. What is no image, the message says. */
  async openFile(file, label = file.name || 'pasted image') {
    let bitmap;
    try { bitmap = await createImageBitmap(file); } catch { this.say(`${label}: not an image that this browser can read`); return; }
    this.stopCamera();
    await this.open(bitmap, label);
  }

  /** An image, a frame of a video or a canvas. */
  async open(source, label, keep = false) {
    const [width, height] = [source.videoWidth ?? source.width, source.videoHeight ?? source.height];
    const scale = Math.min(1, SHARPEST / Math.max(width, height)), size = [Math.max(1, Math.round(height * scale)), Math.max(1, Math.round(width * scale))];
    const canvas = make('canvas', { height: size[0], width: size[1] }), c = canvas.getContext('2d', { willReadFrequently: true });
    c.imageSmoothingQuality = 'high';
    c.fillStyle = '#fff';                                            // transparency on white, as in Python
    c.fillRect(0, 0, canvas.width, canvas.height);
    c.drawImage(source, 0, 0, canvas.width, canvas.height);
    const turn = this.turn = (this.turn ?? 0) + 1, { pixels } = await this.model.ask({ resize: c.getImageData(0, 0, canvas.width, canvas.height).data, size });
    if (turn !== this.turn) return;                                  // another image was chosen meanwhile
    this.editor.open(canvas, pixels);
    if (!keep) { this.editor.reset(); this.before = null; }
    this.label = label;
    this.say('');
    await this.run();
  }

  async toggleCamera() {
    if (this.camera) { this.stopCamera(); return; }
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
      this.camera = make('video', { srcObject: stream, muted: true, playsInline: true });
      await this.camera.play();
    } catch (error) {
      this.camera = null;
      this.say(`No camera: ${error.message || error.name}`);
      return;
    }
    this.cameraButton.textContent = 'Freeze';
    let first = true;
    while (this.camera) {
      await this.open(this.camera, 'camera', !first);
      first = false;
      this.before = null;
      await new Promise(requestAnimationFrame);
    }
  }

  stopCamera() {
    for (const track of this.camera?.srcObject.getTracks() ?? []) track.stop();
    this.camera = null;
    this.cameraButton.textContent = 'Camera';
  }

  use(name) {
    this.toolName = name;
    for (const b of this.toolButtons) b.setAttribute('aria-pressed', b.dataset.tool === name);
    this.colour.hidden = name !== 'paint';
    const { editor } = this, patch = token => token - this.page.record.n_prefix;
    const touch = change => (token => { if (patch(token) >= 0) { change(patch(token)); this.run(); } });
    const brush = change => ({ press: touch(change), drag: touch(change) });
    const shift = (dy, dx) => { editor.shift = [clamp(dy + editor.H, 2 * editor.H) - editor.H, clamp(dx + editor.W, 2 * editor.W) - editor.W]; this.run(); };
    let from;
    const tools = {
      ask: null,
      paint: brush(n => editor.paint.set(n, this.colour.value)),
      restore: brush(n => editor.paint.delete(n)),
      move: {
        press: (_, e) => { if (e) from = [e.clientX, e.clientY, ...editor.shift]; },
        drag: (_, e, stage) => {
          const box = stage.getBoundingClientRect();
          shift(Math.round(from[2] + (e.clientY - from[1]) / box.height * editor.H), Math.round(from[3] + (e.clientX - from[0]) / box.width * editor.W));
        },
        key: key => {
          const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[key];
          if (step) shift(editor.shift[0] + step[0], editor.shift[1] + step[1]);
          return Boolean(step);
        },
      },
      heads: { heads: true, press: token => this.view.set({ query: token }), drag: token => this.view.set({ query: token }) },
    };
    this.tool = tools[name];
    if (this.view) this.setTool();
  }

  setTool() {
    this.view.tool = this.tool;
    this.view.root.classList.toggle('vx-tool', Boolean(this.tool));
  }

  shuffle() {
    const { order } = this.editor;
    for (let n = order.length - 1; n > 0; n--) {
      const other = Math.floor(Math.random() * (n + 1));
      [order[n], order[other]] = [order[other], order[n]];
    }
    this.run();
  }

  reset() { this.editor.reset(); this.off.clear(); this.run(); }

  toggle(layer, head) {
    const number = layer * this.page.record.heads + head;
    if (!this.off.delete(number)) this.off.add(number);
    this.run();
  }

  /** Show the image as it is now, and ask the model; while it works, the latest wish waits, and older ones are forgotten. */
  async run() {
    const rgba = this.editor.compose();
    for (const pane of this.view?.panes ?? []) { pane.drawn = null; pane.draw(); }
    this.wish = { rgba, off: [...this.off], lens: this.cfg.num_classes <= 100 };
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.wish) {
        const wish = this.wish;
        this.wish = null;
        const untouched = !this.editor.changed && !this.off.size;
        this.show(await this.model.ask(wish), untouched);
      }
    } catch (error) { this.say(error.message); }
    this.busy = false;
  }

  /** Put an answer into the explorer. */
  show(made, untouched) {
    this.made = made;
    const { record, classes } = this.page, K = made.logits.length, top = Math.max(...made.logits), e = made.logits.map(x => Math.exp(x - top));
    const p = e.map(x => x / e.reduce((a, b) => a + b, 0));
    if (untouched || !this.before) this.before = p;
    const ids = Array.from({ length: K }, (_, i) => i).sort((a, b) => this.before[b] - this.before[a]), shown = ids.slice(0, 5), first = p.indexOf(Math.max(...p));
    if (K && !shown.includes(first)) shown[shown.length - 1] = first;
    const name = i => classes?.[i] ?? `class ${i}`, changed = !untouched && !this.camera;
    this.probabilities = p;
    const big = this.editor.source.width > this.editor.W && this.editor.source.height > this.editor.H;
    this.state.set('images', [{
      ...record, label: this.label, image: this.editor.pixels, photo: big ? this.editor.photo : null, weights: made.weights, relevance: null,
      why: 'it needs gradients, which this page does not compute', classes: shown.map(id => ({ id, name: name(id), p: p[id], ...(changed ? { before: this.before[id] } : {}) })),
    }]);
    if (!this.view) {
      this.view = new View(this.state, this.main);
      Object.assign(this.view, { off: this.off, toggle: (l, h) => this.toggle(l, h) });
      this.setTool();
      this.walk = new Walk(this);
      this.main.append(this.walk.element);
    }
    this.view.changed();
    this.view.clock ??= this.view.body.parentElement.appendChild(make('p', { className: 'vx-note lv-clock' }));
    this.view.clock.textContent = `Forward pass: ${made.ms.toFixed(0)} ms${this.off.size ? `; heads switched off: ${this.off.size}` : ''}`;
    this.walk.changed();
  }
}

export function start() {
  followTheme();
  const text = id => document.getElementById(id).textContent, el = document.getElementById('live');
  if (typeof Worker === 'undefined' || typeof createImageBitmap === 'undefined') { el.textContent = 'This page needs a browser with Web Workers.'; return; }
  el.live = new Live(el, JSON.parse(text('page')), text('vit'), text('weights'));
}
