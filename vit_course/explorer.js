// The attention explorer: one ES module without dependencies or build step. In a notebook anywidget calls `render` with a
// model that is connected to Python; `save_html` puts this very text into a page, with a stand-in for that model.

/**
 * What Python sends of one image as one model sees it. Buffers are uint8: DataViews from a kernel, base64 in a page.
 * T = n_prefix + h*w tokens, M = layers*heads maps.
 * @typedef {object} ImageRecord
 * @property {string} label
 * @property {[number, number]} grid   patches (h, w)
 * @property {number} n_prefix         class token and registers, which come first
 * @property {number} layers
 * @property {number} heads
 * @property {[number, number]} patch  pixels of a patch (height, width)
 * @property {{id: number, name: string, p: number}[]} classes  the best predictions; none when there is no head
 * @property {Buffer} image            a PNG or JPEG file
 * @property {?Buffer} maps            (M,T,T) rows of every head, or null when q and k are here instead
 * @property {?Buffer} q               (M,T,d)
 * @property {?Buffer} k               (M,T,d)
 * @property {[number, number, number][]} steps  of each map: smallest q, step of q, step of k divided by √d
 * @property {Buffer} rollout          (T,T)
 * @property {?Buffer} relevance       (classes,T,T)
 */

const METHODS = ['raw', 'rollout', 'relevance'];
const TRAITS = ['images', 'image', 'compare', 'query', 'layer', 'head', 'method', 'target', 'opacity', 'interpolation', 'scale'];

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
    for (const name of ['image', 'maps', 'q', 'k', 'rollout', 'relevance']) if (this[name]) this[name] = bytes(this[name]);
    [this.h, this.w] = this.grid;
    this.tokens = this.n_prefix + this.h * this.w;
  }

  /** Rows of `query` in all layers and heads: Float32Array (M*T). */
  raw(query) {
    const T = this.tokens, M = this.layers * this.heads, out = new Float32Array(M * T);
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

  /** The row of `query` after rollout, or of its relevance for the class with this rank. */
  joint(method, query, rank) {
    const T = this.tokens, out = new Float32Array(T);
    if (method === 'rollout') this.unpack(this.rollout, query * T, out, 0);
    else if (this.relevance && rank >= 0) this.unpack(this.relevance, (rank * T + query) * T, out, 0);
    return out;
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
    if (query < this.n_prefix) return query ? `register ${query}` : 'class token';
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

/** One image: itself, its heads, the enlarged map, the figures. Comparing shows two of these. */
class Pane {
  constructor(maps, view) {
    this.maps = maps;
    this.view = view;
    const { h, w, layers, heads, n_prefix } = maps;
    const stage = (...more) => make('div', { className: 'vx-stage' }, this.photo(), ...more);

    this.marks = [0, 1].map(() => make('div', { className: 'vx-mark' }));
    this.stage = stage(this.marks[0]);
    for (const [name, value] of Object.entries({ tabindex: 0, role: 'application', 'aria-roledescription': 'patch picker' })) {
      this.stage.setAttribute(name, value);
    }
    this.stage.addEventListener('click', e => view.set({ query: this.patchAt(e) }));
    this.stage.addEventListener('pointermove', e => { if (e.pointerType === 'mouse') view.hover(this.patchAt(e)); });
    this.stage.addEventListener('pointerleave', () => view.hover(null));
    this.stage.addEventListener('keydown', e => this.walk(e));

    this.chips = Array.from({ length: n_prefix }, (_, i) => {
      const chip = make('button', { type: 'button', className: 'vx-chip' }, maps.name(i));
      chip.addEventListener('click', () => view.set({ query: i }));
      chip.addEventListener('pointerenter', e => { if (e.pointerType === 'mouse') view.hover(i); });
      chip.addEventListener('pointerleave', () => view.hover(null));
      return chip;
    });

    this.thumbs = Array.from({ length: layers * heads }, (_, m) => {
      const [layer, head] = [Math.floor(m / heads), m % heads];
      const thumb = make('canvas', { width: w, height: h, className: 'vx-map', role: 'gridcell', 'aria-label': `layer ${layer}, head ${head}` });
      thumb.addEventListener('click', () => view.set({ layer, head, method: 'raw' }));
      thumb.addEventListener('keydown', e => this.step(e, layer, head));
      return thumb;
    });
    const label = (text, role) => make('div', { className: 'vx-label', role }, text);
    const row = (...cells) => make('div', { className: 'vx-row', role: 'row' }, ...cells);
    this.grid = make('div', { className: 'vx-heads', role: 'grid', 'aria-label': 'Attention of every head' },
      row(label('', 'columnheader'), ...Array.from({ length: heads }, (_, i) => label(i, 'columnheader'))),
      ...Array.from({ length: layers }, (_, l) => row(label(l, 'rowheader'), ...this.thumbs.slice(l * heads, (l + 1) * heads))));
    this.grid.style.setProperty('--heads', heads);
    this.grid.style.setProperty('--thumb', `${clamp(900 / layers * w / h, 120)}px`);   // all layers fit on a screen

    this.big = make('canvas', { width: w, height: h, className: 'vx-map vx-over', role: 'img' });
    this.ends = [make('span'), make('span')];
    this.facts = make('dl', { className: 'vx-facts' });
    this.element = make('section', { className: 'vx-pane', 'aria-label': maps.label }, make('div', { className: 'vx-columns' },
      make('div', { className: 'vx-left' },
        make('div', { className: 'vx-query' }, make('h3', {}, maps.label), this.stage,
          make('div', { className: 'vx-chips', role: 'group', 'aria-label': 'Prefix tokens' }, ...this.chips)),
        make('div', { className: 'vx-large' }, this.title = make('h3'), stage(this.big, this.marks[1]),
          make('div', { className: 'vx-bar' }, this.ends[0], make('i', { className: 'vx-ramp' }), this.ends[1]),
          this.limit = make('p', { className: 'vx-note' }))),
      make('div', { className: 'vx-right' },
        make('div', { className: 'vx-all' }, make('h3', {}, 'All heads', this.scale = make('small')), this.grid),
        this.facts)));
  }

  /** A canvas with the image, drawn as soon as the browser has decoded it. */
  photo() {
    const canvas = make('canvas', { className: 'vx-photo', role: 'img', 'aria-label': this.maps.label });
    canvas.width = this.maps.w * this.maps.patch[1];
    canvas.height = this.maps.h * this.maps.patch[0];
    canvas.classList.toggle('vx-tiny', canvas.width < 64);
    createImageBitmap(new Blob([this.maps.image])).then(bitmap => canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height));
    return canvas;
  }

  /** The token under the pointer. */
  patchAt(event) {
    const box = this.stage.getBoundingClientRect(), { h, w, n_prefix } = this.maps;
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
    if (!moves[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();     // the page shall not scroll,
    event.stopPropagation();    // and a notebook not change cells
    if (now >= 0) moves[event.key]();
    this.view.set({ query: n_prefix + clamp(r, h - 1) * w + clamp(c, w - 1) });
  }

  /** Arrow keys go from head to head. */
  step(event, layer, head) {
    const { layers, heads } = this.maps;
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Enter: [0, 0], ' ': [0, 0] };
    if (!moves[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    layer = clamp(layer + moves[event.key][0], layers - 1);
    head = clamp(head + moves[event.key][1], heads - 1);
    this.view.set({ layer, head, method: 'raw' });
    this.thumbs[layer * heads + head].tabIndex = 0;
    this.thumbs[layer * heads + head].focus();
  }

  /** Draw everything for what is looked at; returns it in words. */
  update() {
    const { maps, view } = this, { n_prefix, heads, tokens, classes } = maps, look = view.look(maps);
    const { query, layer, head, method, rank } = look, chosen = layer * heads + head;

    const patch = query - n_prefix;
    for (const mark of this.marks) {
      mark.hidden = patch < 0;
      mark.classList.toggle('vx-hover', view.preview !== null);
      const [left, top] = [patch % maps.w, Math.floor(patch / maps.w)];
      mark.style.cssText = `left: ${100 * left / maps.w}%; top: ${100 * top / maps.h}%; width: ${100 / maps.w}%; height: ${100 / maps.h}%`;
    }
    this.chips.forEach((chip, i) => chip.setAttribute('aria-pressed', i === query));
    this.stage.setAttribute('aria-label', `${maps.label}: query ${maps.name(query)} of ${maps.h} rows and ${maps.w} columns. Arrow keys move it.`);

    const rows = maps.raw(query), ranges = this.thumbs.map((_, m) => range(rows, m * tokens, maps));
    const whole = Math.max(...ranges.map(r => r.largest)), shared = view.get('scale') === 'shared';
    this.thumbs.forEach((thumb, m) => {
      paint(thumb, rows, m * tokens, maps, shared ? whole : ranges[m].top);
      thumb.title = `layer ${Math.floor(m / heads)}, head ${m % heads}: largest weight ${percent(ranges[m].largest)}`;
      thumb.setAttribute('aria-selected', method === 'raw' && m === chosen);
      thumb.tabIndex = m === chosen ? 0 : -1;
    });

    const row = this.row = method === 'raw' ? rows.slice(chosen * tokens, (chosen + 1) * tokens) : maps.joint(method, query, rank);
    const { largest, top } = range(row, 0, maps), end = !shared ? top : method === 'raw' ? whole : largest;
    paint(this.big, row, 0, maps, end);
    this.ends[0].textContent = percent(0);
    this.ends[1].textContent = (end < largest ? '≥ ' : '') + percent(end);
    this.scale.textContent = `layers down, heads across; ${shared ? 'one scale for all' : 'each on its own scale'}`;
    this.limit.textContent = `${shared ? 'One scale for all' : 'Own scale, saturated above its 98th percentile'}; largest weight ${percent(largest)}`;
    const what = method === 'raw' ? `layer ${layer}, head ${head}` : method === 'rollout' ? `rollout of ${maps.layers} layers`
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
    this.bar = make('div', { className: 'vx-tools' });
    this.body = make('div', { className: 'vx-panes' });
    this.status = make('p', { className: 'vx-status', role: 'status', 'aria-live': 'polite' });
    this.root = make('div', { className: 'vx' }, this.bar, this.body, this.status);
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
      layer: clamp(this.get('layer'), maps.layers - 1), head: clamp(this.get('head'), maps.heads - 1),
      method: this.get('method'), rank: maps.classes.findIndex(c => c.id === this.get('target')),
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
    const images = this.get('images'), i = this.get('image'), { classes, relevance } = images[i], others = this.comparable(i);
    const key = JSON.stringify([images.map(p => p.label), i, classes, others]);
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
    const methods = METHODS.map(value => {
      const radio = make('input', { type: 'radio', name: id, value, disabled: value === 'relevance' && !relevance });
      radio.addEventListener('change', () => this.set({ method: value }));
      this.controls.method.push(radio);
      return make('label', { title: radio.disabled ? 'this model has no classes' : '' }, radio, make('span', {}, value));
    });
    const opacity = this.controls.opacity = make('input', { type: 'range', min: 0, max: 1, step: 0.05 });
    opacity.addEventListener('input', () => this.set({ opacity: Number(opacity.value) }));
    const name = j => [j, images[j].label];
    this.bar.replaceChildren(
      ...(images.length > 1 ? [choice('Image', 'image', images.map((_, j) => name(j)), j => this.open(j))] : []),
      ...(others.length ? [choice('Beside it', 'compare', [[-1, 'nothing'], ...others.map(name)], compare => this.set({ compare }))] : []),
      make('fieldset', { className: 'vx-methods' }, make('legend', {}, 'Method'), ...methods),
      ...(relevance ? [choice('Class', 'target', classes.map(c => [c.id, `${c.name} (${percent(c.p)})`]), target => this.set({ target, method: 'relevance' }))] : []),
      field('Opacity', opacity, 'opacity'),
      make('div', { className: 'vx-ticks' }, tick('bilinear', 'interpolation', ['nearest', 'bilinear']), tick('one scale for all', 'scale', ['own', 'shared'])));
    if (focused) this.bar.querySelector(`[class="${focused}"] :is(select, input)`)?.focus();
  }

  update() {
    const shown = [this.get('image'), this.get('compare')].filter((i, n) => n === 0 || i >= 0);
    const maps = shown.map(i => this.maps(i));
    this.tools();
    for (const name of ['image', 'compare', 'target', 'opacity']) if (this.controls[name]) this.controls[name].value = this.get(name);
    for (const radio of this.controls.method) radio.checked = radio.value === this.get('method');
    this.controls.interpolation.checked = this.get('interpolation') === 'bilinear';
    this.controls.scale.checked = this.get('scale') === 'shared';
    this.root.style.setProperty('--vx-opacity', this.get('opacity'));
    this.root.classList.toggle('vx-smooth', this.get('interpolation') === 'bilinear');
    this.root.classList.toggle('vx-two', shown.length === 2);
    if (this.panes.length !== maps.length || this.panes.some((pane, n) => pane.maps !== maps[n])) {
      this.panes = maps.map((m, n) => this.panes[n]?.maps === m ? this.panes[n] : new Pane(m, this));
      this.body.replaceChildren(...this.panes.map(pane => pane.element));
    }
    const words = this.panes.map(pane => pane.update());
    if (this.preview === null && this.status.textContent !== words.join('. ')) this.status.textContent = words.join('. ');
  }
}

/** anywidget calls this for every place where the widget is shown. */
function render({ model, el }) {
  const view = new View(model, el);
  return () => view.close();
}

export default { render };
