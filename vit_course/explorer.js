// The attention explorer: one ES module without dependencies or build step. In a notebook anywidget calls `render` with a
// model that is connected to Python; `save_html` puts this very text into a page, with a stand-in for that model.

/**
 * What Python sends of one image as one model sees it. Buffers are uint8: DataViews from a kernel, base64 in a page.
 * T = n_prefix + h*w tokens, M = layers*heads maps.
 * @typedef {object} ImageRecord
 * @property {string} label
 * @property {[number, number]} grid   patches (h, w)
 * @property {number} n_prefix         class token and registers, which come first
 * @property {string[]} [front]        their names
 * @property {number} layers
 * @property {number} heads
 * @property {[number, number]} patch  pixels of a patch (height, width)
 * @property {{id: number, name: string, p: number}[]} classes  the best predictions; none when there is no head
 * @property {Buffer} image            a PNG or JPEG file: what the model sees
 * @property {?Buffer} photo           a JPEG file: the same with more pixels, when there were more
 * @property {?Buffer} maps            (M,T,T) rows of every head, or null when q and k are here instead
 * @property {?Buffer} q               (M,T,d)
 * @property {?Buffer} k               (M,T,d)
 * @property {[number, number, number][]} steps  of each map: smallest q, step of q, step of k divided by √d
 * @property {Buffer} rollout          (T,T)
 * @property {?Buffer} relevance       (classes,T,T)
 *
 * A page that runs the model itself (live.js) has no files and no codes: `image` and `photo` are canvases, and `weights` is a
 * Float32Array (M,T,T). Its classes also have `before`, their probability before the image was changed.
 */

const METHODS = {
  raw: 'Raw: what softmax gives, one head at a time.',
  rollout: 'Rollout: the layers’ mean weights multiplied, skip connections counted: where a token may have got its content.',
  relevance: 'Relevance: weights times gradients, through all layers: what speaks for the chosen class.',
};
const DISCARDS = { 0: 'nothing', 0.5: 'the weaker half', 0.9: 'the weakest 90 %' };   // of the links in each row
const MOST_TOKENS = 600;    // for cutting links: all rows of all heads are needed, two seconds of work
const TRAITS = ['images', 'image', 'compare', 'query', 'layer', 'head', 'method', 'discard', 'target', 'opacity', 'interpolation', 'scale', 'sharp'];

// matplotlib's inferno at 17 places, and the 256 colours between them as RGBA
const INFERNO = '000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4'
  .split(' ').map(c => [0, 2, 4].map(i => parseInt(c.slice(i, i + 2), 16)));
const COLOURS = new Uint8ClampedArray(256 * 4).map((_, i) => {
  if (i % 4 === 3) return 255;
  const x = (i >> 2) / 255 * (INFERNO.length - 1), n = Math.min(Math.floor(x), INFERNO.length - 2);
  return INFERNO[n][i % 4] + (x - n) * (INFERNO[n + 1][i % 4] - INFERNO[n][i % 4]);
});

/** A buffer as bytes, without a copy where there is a choice. */
function bytes(buffer) {
  if (typeof buffer !== 'string') return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  const text = atob(buffer), out = new Uint8Array(text.length);
  for (let i = 0; i < out.length; i++) out[i] = text.charCodeAt(i);
  return out;
}

/** An image with its buffers unpacked, which gives rows of weights: each sums to 1 (or is all 0, when nothing is relevant). */
export class Maps {
  /** @param {ImageRecord} record */
  constructor(record) {
    Object.assign(this, record);
    const coded = record.weights ? [] : ['image', 'photo', 'maps', 'q', 'k', 'rollout', 'relevance'];
    for (const name of coded) if (this[name]) this[name] = bytes(this[name]);
    [this.h, this.w] = this.grid;
    this.tokens = this.n_prefix + this.h * this.w;
    this.drawings = {};
  }

  /** What can be drawn: the canvas that is here already, or a promise of the file's bitmap. */
  drawing(name) {
    return this.drawings[name] ??= this.weights ? this[name] : createImageBitmap(new Blob([this[name]]));
  }

  /** Rows of `query` in all layers and heads: Float32Array (M*T). */
  raw(query) {
    const T = this.tokens, M = this.layers * this.heads, out = new Float32Array(M * T);
    for (let m = 0; this.weights && m < M; m++) out.set(this.weights.subarray((m * T + query) * T, (m * T + query + 1) * T), m * T);
    if (this.weights) return out;
    if (this.maps) { for (let m = 0; m < M; m++) this.unpack(this.maps, (m * T + query) * T, out, m * T); return out; }
    const d = this.q.length / (M * T), q = new Float64Array(d), k = this.k;
    for (let m = 0; m < M; m++) {
      const [q0, qStep, kStep] = this.steps[m];
      for (let c = 0; c < d; c++) q[c] = (q0 + qStep * this.q[(m * T + query) * d + c]) * kStep;
      // The smallest k of each channel is left out: it adds the same number to all scores of a query, and softmax forgets that.
      let top = -Infinity, sum = 0;
      for (let j = 0, i = m * T * d; j < T; j++) {
        let score = 0;
        for (let c = 0; c < d; c++) score += q[c] * k[i++];
        out[m * T + j] = score;
        if (score > top) top = score;
      }
      for (let j = m * T; j < (m + 1) * T; j++) sum += out[j] = Math.exp(out[j] - top);
      for (let j = m * T; j < (m + 1) * T; j++) out[j] /= sum;
    }
    return out;
  }

  /** Of all rows that `raw` gives, the one of a layer and a head; the mean of all where one of them is -1. */
  pick(rows, layer, head) {
    const T = this.tokens, out = new Float32Array(T), all = n => Array.from({ length: n }, (_, i) => i);
    const layers = layer < 0 ? all(this.layers) : [layer], heads = head < 0 ? all(this.heads) : [head];
    for (const l of layers) for (const h of heads) for (let j = 0; j < T; j++) out[j] += rows[(l * this.heads + h) * T + j];
    return out.map(x => x / (layers.length * heads.length));
  }

  /** The row of `query` after rollout, or of its relevance for the class with this rank. */
  joint(method, query, rank, discard) {
    const T = this.tokens, out = new Float32Array(T);
    if (method === 'rollout' && (discard || !this.rollout)) return this.rolled(query, discard);
    if (method === 'rollout') this.unpack(this.rollout, query * T, out, 0);
    else if (this.relevance && rank >= 0) this.unpack(this.relevance, (rank * T + query) * T, out, 0);
    return out;
  }

  /** What each layer hands on, `fuse_heads` of chapter 9: the mean of the heads, of each row the weakest links cut (never the
   *  one to the class token), rows that sum to 1. Float32Array (T*T) of each layer, made once for a `discard`. */
  fused(discard) {
    if (this.made?.discard === discard) return this.made.layers;
    const T = this.tokens, cut = Math.floor(discard * (T - 1)), layers = Array.from({ length: this.layers }, () => new Float32Array(T * T));
    for (let query = 0; query < T; query++) {
      const rows = this.raw(query);
      layers.forEach((layer, l) => {
        const row = this.pick(rows, l, -1);
        if (cut) for (const j of Array.from({ length: T - 1 }, (_, j) => j + 1).sort((a, b) => row[a] - row[b]).slice(0, cut)) row[j] = 0;
        const sum = row.reduce((a, b) => a + b, 0);
        if (sum) layer.set(row.map(x => x / sum), query * T); else layer[query * T + query] = 1;
      });
    }
    this.made = { discard, layers };
    return layers;
  }

  /** The row of `query` after rollout, from the weights themselves: it goes through the layers from the last to the first. */
  rolled(query, discard) {
    const T = this.tokens, layers = this.fused(discard);
    let row = new Float32Array(T);
    row[query] = 1;
    for (let l = this.layers - 1; l >= 0; l--) {
      const next = row.map(x => x / 2);                                // the skip connection
      for (let i = 0; i < T; i++) if (row[i]) for (let j = 0; j < T; j++) next[j] += row[i] / 2 * layers[l][i * T + j];
      row = next;
    }
    return row;
  }

  /** Codes are square roots, so that small weights keep their digits; dividing by the sum replaces a scale for each row. */
  unpack(codes, from, out, to) {
    let sum = 0;
    for (let j = 0; j < this.tokens; j++) sum += out[to + j] = codes[from + j] ** 2;
    if (sum) for (let j = 0; j < this.tokens; j++) out[to + j] /= sum;
  }

  /** Entropy in nats, mass on prefix tokens, and the mean distance in pixels to the patches (null from a prefix token). */
  figures(row, query) {
    const { n_prefix: n, w, patch } = this, from = query - n;
    let entropy = 0, prefix = 0, rest = 0, distance = 0;
    row.forEach((weight, j) => {
      if (weight > 0) entropy -= weight * Math.log(weight);
      if (j < n) { prefix += weight; return; }
      const dy = (Math.floor((j - n) / w) - Math.floor(from / w)) * patch[0], dx = ((j - n) % w - from % w) * patch[1];
      rest += weight;
      distance += weight * Math.hypot(dy, dx);
    });
    return { entropy, prefix, distance: from < 0 || !rest ? null : distance / rest };
  }

  /** What to call a token. */
  name(query) {
    if (query < this.n_prefix) return this.front?.[query] ?? (query ? `register ${query}` : 'class token');
    return `row ${Math.floor((query - this.n_prefix) / this.w)}, column ${(query - this.n_prefix) % this.w}`;
  }
}

/** Make an element. Text goes in as text nodes, so that no label can become markup. */
function make(tag, properties = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in e) e[name] = value; else e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

const percent = x => `${(100 * x).toFixed(1)} %`;
const clamp = (x, most) => Math.max(0, Math.min(x, most));

/** Of the patches of a row that starts at `at`: the largest weight, and where their own colour scale ends. That is the
 *  98th percentile, so that one patch cannot darken all others, but not less than a hundredth of the largest. */
function range(rows, at, maps) {
  const sorted = rows.slice(at + maps.n_prefix, at + maps.tokens).sort(), last = sorted.length - 1;
  const i = Math.floor(.98 * last), next = sorted[Math.min(i + 1, last)];
  return { largest: sorted[last], top: Math.max(sorted[i] + (.98 * last - i) * (next - sorted[i]), sorted[last] / 100) };
}

/** Paint the patches of a row from 0 to `top`, one pixel each: CSS makes them larger, so the browser does the interpolation. */
function paint(canvas, rows, at, maps, top) {
  canvas.pixels ??= canvas.getContext('2d').createImageData(maps.w, maps.h);
  const { data } = canvas.pixels, factor = top > 0 ? 255 / top : 0;
  for (let i = 0, j = at + maps.n_prefix; i < data.length; i += 4, j++) {
    const c = 4 * Math.round(clamp(rows[j] * factor, 255));
    data[i] = COLOURS[c]; data[i + 1] = COLOURS[c + 1]; data[i + 2] = COLOURS[c + 2]; data[i + 3] = 255;
  }
  canvas.getContext('2d').putImageData(canvas.pixels, 0, 0);
}

/** What to call a place in the table of heads. */
const place = (layer, head) => (layer < 0 ? 'mean of layers' : `layer ${layer}`) + (head < 0 ? ', mean of heads' : `, head ${head}`);

/** One image: itself, the enlarged map, its heads, the figures. Comparing shows two of these. */
class Pane {
  constructor(maps, view) {
    this.view = view;
    const { h, w, layers, heads, n_prefix } = maps;
    this.marks = [0, 1].map(() => make('div', { className: 'vx-mark' }));
    this.photos = [0, 1].map(() => make('canvas', { className: 'vx-photo', role: 'img' }));
    this.big = make('canvas', { width: w, height: h, className: 'vx-map vx-over', role: 'img' });
    this.stages = [0, 1].map(i => this.makeStage(this.photos[i], ...(i ? [this.big] : []), this.marks[i]));
    this.stage = this.stages[0];
    for (const [name, value] of Object.entries({ tabindex: 0, role: 'application', 'aria-roledescription': 'patch picker' })) {
      this.stage.setAttribute(name, value);
    }
    this.stage.addEventListener('keydown', e => this.walk(e));

    this.chips = Array.from({ length: n_prefix }, (_, i) => {
      const chip = make('button', { type: 'button', className: 'vx-chip' }, maps.name(i));
      chip.addEventListener('click', () => view.set({ query: i }));
      chip.addEventListener('pointerenter', e => { if (e.pointerType === 'mouse') view.hover(i); });
      chip.addEventListener('pointerleave', () => view.hover(null));
      return chip;
    });

    this.rows = [...Array(layers).keys(), -1];          // the last row and column are the means
    this.columns = [...Array(heads).keys(), -1];
    this.thumbs = this.rows.flatMap(layer => this.columns.map(head => this.thumb(layer, head, w, h)));
    const label = (text, role) => make('div', { className: 'vx-label', role }, text);
    const row = (...cells) => make('div', { className: 'vx-row', role: 'row' }, ...cells);
    const number = i => i < 0 ? 'mean' : i;
    this.grid = make('div', { className: 'vx-heads', role: 'grid', 'aria-label': 'Attention of every head' },
      row(label('', 'columnheader'), ...this.columns.map(i => label(number(i), 'columnheader'))),
      ...this.rows.map((l, r) => row(label(number(l), 'rowheader'), ...this.thumbs.slice(r * this.columns.length, (r + 1) * this.columns.length))));
    for (const [name, value] of Object.entries({ heads, rows: layers + 1, aspect: w / h })) this.grid.style.setProperty(`--${name}`, value);

    this.ends = [make('span'), make('span')];
    this.facts = make('dl', { className: 'vx-facts' });
    this.element = make('section', { className: heads > 8 ? 'vx-pane vx-many' : 'vx-pane' }, make('div', { className: 'vx-columns' },
      make('div', { className: 'vx-query' }, make('div', { className: 'vx-head' }, this.label = make('h3'),
        make('div', { className: 'vx-chips', role: 'group', 'aria-label': 'Prefix tokens' }, ...this.chips)), this.stage),
      make('div', { className: 'vx-large' }, make('div', { className: 'vx-head' }, this.title = make('h3')), this.stages[1],
        make('div', { className: 'vx-bar' }, this.ends[0], make('i', { className: 'vx-ramp' }), this.ends[1]),
        this.limit = make('p', { className: 'vx-note' })),
      make('div', { className: 'vx-all' }, make('div', { className: 'vx-head' }, make('h3', {}, 'All heads', this.scale = make('small'))), this.grid),
      this.facts));
    this.show(maps);
  }

  /** Whether another image has the same tokens, layers and heads, so that nothing need be made anew to show it. */
  fits(maps) { return ['h', 'w', 'n_prefix', 'layers', 'heads'].every(name => maps[name] === this.maps[name]); }

  show(maps) {
    this.maps = maps;
    this.drawn = null;
    this.label.textContent = maps.label;
    for (const e of [this.element, ...this.photos]) e.setAttribute('aria-label', maps.label);
  }

  /** A place to point at. A click moves the query, unless the view has a tool, which then hears of press, drag and release. */
  makeStage(...children) {
    const stage = make('div', { className: 'vx-stage' }, ...children), { view } = this, at = e => this.patchAt(e, stage);
    stage.addEventListener('click', e => { if (!view.tool) view.set({ query: at(e) }); });
    stage.addEventListener('pointerdown', e => {
      if (!view.tool || e.button) return;
      e.preventDefault();
      stage.setPointerCapture(e.pointerId);
      this.dragging = true;
      view.tool.press(at(e), e, stage);
    });
    stage.addEventListener('pointermove', e => {
      if (this.dragging) view.tool?.drag(at(e), e, stage);
      else if (e.pointerType === 'mouse') view.hover(at(e));
    });
    for (const name of ['pointerup', 'pointercancel']) stage.addEventListener(name, () => { this.dragging = false; });
    stage.addEventListener('pointerleave', () => view.hover(null));
    return stage;
  }

  thumb(layer, head, w, h) {
    const mean = layer < 0 || head < 0, { view } = this;
    const thumb = make('canvas', { width: w, height: h, className: mean ? 'vx-map vx-mean' : 'vx-map', role: 'gridcell', 'aria-label': place(layer, head) });
    thumb.addEventListener('click', e => {
      if (!mean && view.toggle && (view.tool?.heads || e.shiftKey || e.altKey)) view.toggle(layer, head);
      else view.set({ layer, head, method: 'raw' });
    });
    thumb.addEventListener('keydown', e => this.step(e, layer, head));
    return thumb;
  }

  /** The image under both stages: the photograph, or the pixels that the model sees. */
  async draw() {
    const { maps } = this, name = maps.photo && this.view.get('sharp') ? 'photo' : 'image';
    if (this.drawn === name) return;
    this.drawn = name;
    const source = await maps.drawing(name);
    if (this.maps !== maps || this.drawn !== name) return;
    const seen = [maps.w * maps.patch[1], maps.h * maps.patch[0]];
    for (const canvas of this.photos) {
      [canvas.width, canvas.height] = name === 'photo' ? [source.width, source.height] : seen;
      canvas.classList.toggle('vx-tiny', canvas.width < 64);
      canvas.getContext('2d').drawImage(source, 0, 0, canvas.width, canvas.height);
    }
    this.element.style.setProperty('--aspect', this.photos[0].width / this.photos[0].height);
  }

  /** The token under the pointer. */
  patchAt(event, stage) {
    const box = stage.getBoundingClientRect(), { h, w, n_prefix } = this.maps;
    const c = clamp(Math.floor((event.clientX - box.left) / box.width * w), w - 1);
    const r = clamp(Math.floor((event.clientY - box.top) / box.height * h), h - 1);
    return n_prefix + r * w + c;
  }

  /** Arrow keys, Home and End move the query over the image. */
  walk(event) {
    const { h, w, n_prefix } = this.maps, now = this.view.look(this.maps).query - n_prefix;
    const at = now < 0 ? Math.floor(h / 2) * w + Math.floor(w / 2) : now;   // from a prefix token: begin in the middle
    let [r, c] = [Math.floor(at / w), at % w];
    const moves = { ArrowLeft: () => c--, ArrowRight: () => c++, ArrowUp: () => r--, ArrowDown: () => r++, Home: () => c = 0, End: () => c = w - 1 };
    if (this.view.tool?.key?.(event.key)) { event.preventDefault(); event.stopPropagation(); return; }
    const use = event.key === 'Enter' || event.key === ' ';
    if (use && this.view.tool) { event.preventDefault(); this.view.tool.press(this.view.get('query')); return; }
    if (!moves[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();     // the page shall not scroll,
    event.stopPropagation();    // and a notebook not change cells
    if (now >= 0) moves[event.key]();
    this.view.set({ query: n_prefix + clamp(r, h - 1) * w + clamp(c, w - 1) });
  }

  /** Arrow keys go from head to head. */
  step(event, layer, head) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Enter: [0, 0], ' ': [0, 0] };
    const off = ['x', 'Delete'].includes(event.key) && this.view.toggle && layer >= 0 && head >= 0;
    if (!(moves[event.key] || off) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (off) { this.view.toggle(layer, head); return; }
    const r = clamp(this.rows.indexOf(layer) + moves[event.key][0], this.rows.length - 1);
    const c = clamp(this.columns.indexOf(head) + moves[event.key][1], this.columns.length - 1);
    this.view.set({ layer: this.rows[r], head: this.columns[c], method: 'raw' });
    const thumb = this.thumbs[r * this.columns.length + c];
    thumb.tabIndex = 0;
    thumb.focus();
  }

  /** Draw everything for what is looked at; returns it in words. */
  update() {
    const { maps, view } = this, { n_prefix, tokens, classes } = maps, look = view.look(maps);
    const { query, layer, head, method, rank, discard } = look;
    this.draw();

    const patch = query - n_prefix;
    for (const mark of this.marks) {
      mark.hidden = patch < 0;
      mark.classList.toggle('vx-hover', view.preview !== null);
      const [left, top] = [patch % maps.w, Math.floor(patch / maps.w)];
      mark.style.cssText = `left: ${100 * left / maps.w}%; top: ${100 * top / maps.h}%; width: ${100 / maps.w}%; height: ${100 / maps.h}%`;
    }
    this.chips.forEach((chip, i) => chip.setAttribute('aria-pressed', i === query));
    this.stage.setAttribute('aria-label', `${maps.label}: query ${maps.name(query)} of ${maps.h} rows and ${maps.w} columns. Arrow keys move it.`);

    const all = maps.raw(query), rows = this.rows.flatMap(l => this.columns.map(h => maps.pick(all, l, h)));
    const ranges = rows.map(row => range(row, 0, maps));
    const whole = Math.max(...ranges.map(r => r.largest)), shared = view.get('scale') === 'shared';
    this.thumbs.forEach((thumb, m) => {
      const l = this.rows[Math.floor(m / this.columns.length)], h = this.columns[m % this.columns.length], chosen = l === layer && h === head;
      paint(thumb, rows[m], 0, maps, shared ? whole : ranges[m].top);
      const off = view.off?.has(l * maps.heads + h) && l >= 0 && h >= 0;
      thumb.title = `${place(l, h)}: largest weight ${percent(ranges[m].largest)}${off ? ' (switched off)' : ''}`;
      thumb.classList.toggle('vx-off', Boolean(off));
      thumb.setAttribute('aria-selected', method === 'raw' && chosen);
      thumb.tabIndex = chosen ? 0 : -1;
    });

    const row = this.row = method === 'raw' ? maps.pick(all, layer, head) : maps.joint(method, query, rank, discard);
    const { largest, top } = range(row, 0, maps), end = !shared ? top : method === 'raw' ? whole : largest;
    paint(this.big, row, 0, maps, end);
    this.ends[0].textContent = percent(0);
    this.ends[1].textContent = (end < largest ? '≥ ' : '') + percent(end);
    this.scale.textContent = shared ? 'one scale for all' : 'each on its own scale';
    this.limit.textContent = `${shared ? 'One scale for all' : 'Own scale, saturated above its 98th percentile'}; largest weight ${percent(largest)}`;
    const what = method === 'raw' ? place(layer, head) : method === 'rollout' ? `rollout of ${maps.layers} layers${discard ? `, ${DISCARDS[discard]} cut` : ''}`
      : rank < 0 ? 'relevance: not computed for this class' : `relevance for ${classes[rank].name}`;
    this.title.textContent = what[0].toUpperCase() + what.slice(1);
    this.big.setAttribute('aria-label', `${what}, from ${maps.name(query)}`);

    const { entropy, prefix, distance } = maps.figures(row, query);
    const facts = row.some(x => x > 0) ? {
      entropy: ['Entropy', `${entropy.toFixed(2)} nats`, `of at most ${Math.log(tokens).toFixed(2)}`],
      prefix: [n_prefix > 1 ? 'On prefix tokens' : 'On the class token', percent(prefix), 'of the weight'],
      distance: distance === null ? ['Mean distance', '–', 'only from a patch'] : ['Mean distance', `${distance.toFixed(1)} pixels`, 'from patch to patch'],
    } : { entropy: ['Relevance', 'none', 'from this token'] };
    const tile = ([name, [term, text, note]]) => make('div', {}, make('dt', {}, term), make('dd', { 'data-fact': name }, text, make('small', {}, note)));
    const prediction = classes.map(c => {
      const bar = make('i');
      bar.style.setProperty('--p', c.p);
      const before = 'before' in c ? [make('u', { title: `${percent(c.before)} before the image was changed` })] : [];
      for (const e of before) e.style.setProperty('--p', c.before);
      bar.append(...before);
      return make('li', {}, make('span', {}, c.name), bar, make('b', {}, percent(c.p)));
    });
    this.facts.replaceChildren(...Object.entries({ query: ['Query', maps.name(query), `token ${query}`], ...facts }).map(tile),
      ...(classes.length ? [make('div', { className: 'vx-wide' }, make('dt', {}, 'Prediction'), make('dd', {}, make('ol', {}, ...prediction)))] : []));
    return `${maps.label}, query ${maps.name(query)}, ${what}: ` + Object.values(facts).map(f => f.join(' ')).join(', ');
  }
}

/** The whole explorer: a bar of controls and one or two panes, always drawn from the traits of the model. */
class View {
  constructor(model, el) {
    this.model = model;
    this.preview = null;            // the query under the mouse: not worth a trait, nobody else wants to know
    this.unpacked = new WeakMap();  // ImageRecord -> Maps, unpacked when first seen
    this.panes = [];
    this.tool = null;               // what pointing does instead of moving the query: { press, drag, heads }
    this.bar = make('div', { className: 'vx-tools' });
    this.hint = make('p', { className: 'vx-hint' });
    this.body = make('div', { className: 'vx-panes' });
    this.status = make('p', { className: 'vx-status', role: 'status', 'aria-live': 'polite' });
    this.root = make('div', { className: 'vx' }, this.bar, this.hint, this.body, this.status);
    this.root.explorer = this;      // for the console, and for tests
    el.append(this.root);

    // Several traits often change together; one repaint after all of them is enough.
    let waiting = false;
    this.changed = () => {
      if (waiting) return;
      waiting = true;
      queueMicrotask(() => { waiting = false; this.update(); });
    };
    for (const name of TRAITS) model.on(`change:${name}`, this.changed);
    this.update();
  }

  close() { for (const name of TRAITS) this.model.off(`change:${name}`, this.changed); }
  get(name) { return this.model.get(name); }

  /** Change traits here, and in Python when there is one. */
  set(values) {
    this.preview = null;
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  hover(query) { if (this.preview !== query) { this.preview = query; this.changed(); } }

  maps(i) {
    const record = this.get('images')[i];
    if (!this.unpacked.has(record)) this.unpacked.set(record, new Maps(record));
    return this.unpacked.get(record);
  }

  /** What to show of an image. The other one of a comparison may have fewer layers or heads, and other classes. */
  look(maps) {
    return {
      query: clamp(this.preview ?? this.get('query'), maps.tokens - 1),
      layer: Math.min(this.get('layer'), maps.layers - 1), head: Math.min(this.get('head'), maps.heads - 1),
      method: this.get('method'), discard: maps.tokens > MOST_TOKENS ? 0 : this.get('discard'), rank: maps.classes.findIndex(c => c.id === this.get('target')),
    };
  }

  /** Go to another image: the traits move along when they do not fit it. */
  open(i) {
    const maps = this.maps(i), { layer, head, method, rank } = this.look(maps), query = this.get('query');
    this.set({
      image: i, layer, head, query: query < maps.tokens ? query : 0, compare: this.comparable(i).includes(this.get('compare')) ? this.get('compare') : -1,
      method: method === 'relevance' && !maps.relevance ? 'raw' : method, target: rank < 0 ? maps.classes[0]?.id ?? -1 : this.get('target'),
    });
  }

  /** Images with the same tokens, which can share a query. */
  comparable(i) {
    const all = this.get('images'), key = p => String([p.grid, p.n_prefix]);
    return all.map((_, j) => j).filter(j => j !== i && key(all[j]) === key(all[i]));
  }

  /** The controls; made anew when the choices in them change. */
  tools() {
    const images = this.get('images'), i = this.get('image'), { classes, relevance, photo } = images[i], others = this.comparable(i);
    const few = this.maps(i).tokens <= MOST_TOKENS;
    const key = JSON.stringify([images.map(p => p.label), i, relevance ? classes : 0, others, Boolean(photo), few]);
    if (key === this.toolsKey) return;
    this.toolsKey = key;
    const field = (text, control, name) => make('label', { className: `vx-field vx-${name}` }, make('span', {}, text), control);
    const choice = (text, name, options, pick) => {
      const select = this.controls[name] = make('select', {}, ...options.map(([value, label]) => make('option', { value }, label)));
      select.addEventListener('change', () => pick(Number(select.value)));
      return field(text, select, name);
    };
    const tick = (text, name, [off, on]) => {
      const box = this.controls[name] = make('input', { type: 'checkbox' });
      box.addEventListener('change', () => this.set({ [name]: box.checked ? on : off }));
      return make('label', { className: 'vx-tick' }, box, make('span', {}, text));
    };
    this.controls = { method: [] };
    const focused = this.bar.contains(document.activeElement) && document.activeElement.closest('.vx-field')?.className;
    const id = `vx-${Math.random().toString(36).slice(2)}`;   // radio buttons of two explorers in one page must not mix
    const methods = Object.keys(METHODS).map(value => {
      const radio = make('input', { type: 'radio', name: id, value, disabled: value === 'relevance' && !relevance });
      radio.addEventListener('change', () => this.set({ method: value }));
      this.controls.method.push(radio);
      return make('label', {}, radio, make('span', {}, value));
    });
    const opacity = this.controls.opacity = make('input', { type: 'range', min: 0, max: 1, step: 0.05 });
    opacity.addEventListener('input', () => this.set({ opacity: Number(opacity.value) }));
    const png = make('button', { type: 'button', className: 'vx-button' }, 'Save PNG');
    png.addEventListener('click', () => this.save());
    const name = j => [j, images[j].label];
    this.bar.replaceChildren(
      ...(images.length > 1 ? [choice('Image', 'image', images.map((_, j) => name(j)), j => this.open(j))] : []),
      ...(others.length ? [choice('Beside it', 'compare', [[-1, 'nothing'], ...others.map(name)], compare => this.set({ compare }))] : []),
      make('fieldset', { className: 'vx-methods' }, make('legend', {}, 'Method'), ...methods),
      ...(relevance ? [choice('Class', 'target', classes.map(c => [c.id, `${c.name} (${percent(c.p)})`]), target => this.set({ target, method: 'relevance' }))] : []),
      ...(few ? [choice('Rollout cuts', 'discard', Object.entries(DISCARDS), discard => this.set({ discard, method: 'rollout' }))] : []),
      field('Opacity', opacity, 'opacity'),
      make('div', { className: 'vx-ticks' }, tick('bilinear', 'interpolation', ['nearest', 'bilinear']), tick('one scale for all', 'scale', ['own', 'shared']),
        ...(photo ? [tick('what the model sees', 'sharp', [true, false])] : [])), png);
    if (focused) this.bar.querySelector(`[class="${focused}"] :is(select, input)`)?.focus();
  }

  update() {
    const shown = [this.get('image'), this.get('compare')].filter((i, n) => n === 0 || i >= 0);
    const maps = shown.map(i => this.maps(i));
    this.tools();
    for (const name of ['image', 'compare', 'target', 'discard', 'opacity']) if (this.controls[name]) this.controls[name].value = this.get(name);
    for (const radio of this.controls.method) radio.checked = radio.value === this.get('method');
    this.controls.interpolation.checked = this.get('interpolation') === 'bilinear';
    this.controls.scale.checked = this.get('scale') === 'shared';
    if (this.controls.sharp) this.controls.sharp.checked = !this.get('sharp');
    const refused = (maps[0].relevance ? '' : ` No relevance: ${maps[0].why ?? 'this model has no classes'}.`)
      + (this.get('method') !== 'rollout' || maps[0].tokens <= MOST_TOKENS ? '' : ` No links are cut: more than ${MOST_TOKENS} tokens.`);
    this.hint.textContent = `Point at a patch: all maps show what it attends to. ${METHODS[this.get('method')]}${refused}`;
    this.root.style.setProperty('--vx-opacity', this.get('opacity'));
    this.root.classList.toggle('vx-smooth', this.get('interpolation') === 'bilinear');
    this.root.classList.toggle('vx-two', shown.length === 2);
    const panes = maps.map((m, n) => {
      const pane = this.panes[n];
      if (!pane?.fits(m)) return new Pane(m, this);
      if (pane.maps !== m) pane.show(m);
      return pane;
    });
    if (panes.length !== this.panes.length || panes.some((pane, n) => pane !== this.panes[n])) this.body.replaceChildren(...panes.map(p => p.element));
    this.panes = panes;
    const words = this.panes.map(pane => pane.update());
    if (this.preview === null && this.status.textContent !== words.join('. ')) this.status.textContent = words.join('. ');
  }

  /** Image, map and all heads of what is shown, in one PNG file. */
  save() {
    const size = 480, gap = 16, line = 28, sheets = this.panes.map(pane => {
      const { maps, thumbs, columns, rows } = pane, height = Math.round(size * maps.h / maps.w);
      const cell = Math.floor(Math.min(height / rows.length, size / columns.length * maps.h / maps.w)), wide = Math.round(cell * maps.w / maps.h);
      const sheet = make('canvas', { width: 2 * size + columns.length * wide + 4 * gap, height: height + line + 2 * gap }), c = sheet.getContext('2d');
      c.fillStyle = '#fff';
      c.fillRect(0, 0, sheet.width, sheet.height);
      c.fillStyle = '#000';
      c.font = '16px system-ui, sans-serif';
      c.imageSmoothingEnabled = this.get('interpolation') === 'bilinear';
      for (const [i, text] of [maps.label, `${pane.title.textContent}, from ${maps.name(this.look(maps).query)}`].entries()) {
        const x = gap + i * (size + gap), patch = this.look(maps).query - maps.n_prefix, side = size / maps.w;
        c.fillText(text, x, gap + 16, size);
        c.drawImage(pane.photos[i], x, gap + line, size, height);
        c.globalAlpha = this.get('opacity');
        if (i) c.drawImage(pane.big, x, gap + line, size, height);
        c.globalAlpha = 1;
        for (const [width, colour] of patch < 0 ? [] : [[4, '#000'], [2, '#fff']]) {
          Object.assign(c, { lineWidth: width, strokeStyle: colour });
          c.strokeRect(x + patch % maps.w * side, gap + line + Math.floor(patch / maps.w) * height / maps.h, side, height / maps.h);
        }
      }
      c.fillText(pane.scale.textContent, 3 * gap + 2 * size, gap + 16);
      thumbs.forEach((thumb, m) => c.drawImage(thumb, 3 * gap + 2 * size + m % columns.length * wide, gap + line + Math.floor(m / columns.length) * cell, wide - 2, cell - 2));
      return sheet;
    });
    const page = make('canvas', { width: Math.max(...sheets.map(s => s.width)), height: sheets.reduce((sum, s) => sum + s.height, 0) });
    sheets.forEach((sheet, i) => page.getContext('2d').drawImage(sheet, 0, i * sheets[0].height));
    page.toBlob(file => {
      const link = make('a', { href: URL.createObjectURL(file), download: 'attention.png' });
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
}

/** In a page without a kernel: traits that keep themselves, and what is looked at in the URL's fragment, so that a view can be shared. */
export class State {
  static kept = ['image', 'query', 'layer', 'head', 'method', 'discard', 'scale'];

  constructor(values) {
    this.values = values;
    this.heard = {};
    this.read();
    addEventListener('hashchange', () => this.read());
  }

  get(name) { return this.values[name]; }
  on(event, f) { (this.heard[event] ??= []).push(f); }
  off(event, f) { this.heard[event] = this.heard[event]?.filter(other => other !== f); }

  set(name, value) {
    if (this.values[name] === value) return;
    this.values[name] = value;
    this.heard[`change:${name}`]?.forEach(f => f());
  }

  save_changes() {
    const text = '#' + new URLSearchParams(this.constructor.kept.map(name => [name, this.get(name)]));
    try { history.replaceState(null, '', text); } catch { /* a page inside a page has no address of its own */ }
  }

  /** The fragment's values, as far as they exist. */
  read() {
    const given = new URLSearchParams(location.hash.slice(1)), { images } = this.values, number = name => /^-?\d+$/.test(given.get(name)) ? Number(given.get(name)) : NaN;
    const valid = (name, from, end) => Number.isInteger(number(name)) && number(name) >= from && number(name) < end;
    if (valid('image', 0, images.length)) this.set('image', number('image'));
    const p = images[this.get('image')];
    const ends = { query: [0, p.n_prefix + p.grid[0] * p.grid[1]], layer: [-1, p.layers], head: [-1, p.heads] };
    for (const [name, [from, end]] of Object.entries(ends)) if (valid(name, from, end)) this.set(name, number(name));
    const [method, discard, scale] = ['method', 'discard', 'scale'].map(name => given.get(name));
    if (Object.hasOwn(METHODS, method ?? '') && (method !== 'relevance' || p.relevance)) this.set('method', method);
    if (Object.hasOwn(DISCARDS, discard ?? '')) this.set('discard', Number(discard));
    if (['own', 'shared'].includes(scale)) this.set('scale', scale);
  }
}

/** Light or dark as the course's site was set, now and when the page around this one says otherwise; that one is told our height. */
export function followTheme() {
  const use = scheme => { if (['light', 'dark'].includes(scheme)) document.documentElement.dataset.scheme = scheme; };
  try {
    const kept = localStorage.getItem('quarto-color-scheme') ?? localStorage.getItem('smalldocs-scheme');
    use({ alternate: 'dark', default: 'light' }[kept]);
  } catch { /* storage is forbidden in some pages */ }
  addEventListener('message', ({ data }) => use(data?.scheme));
  if (parent === window) return;
  document.documentElement.dataset.framed = '';
  new ResizeObserver(() => parent.postMessage({ explorerHeight: document.documentElement.offsetHeight }, '*')).observe(document.documentElement);
}

/** anywidget calls this for every place where the widget is shown. */
function render({ model, el }) {
  const view = new View(model, el);
  return () => view.close();
}

export { View, bytes, clamp, make, paint, percent };
export default { render };
