// Seven steps through the model, and an eighth behind it, with the image, the query, the layer and the head that are looked at above.
import { make, paint, percent } from './explorer.js';

/** Signed numbers as blue (below 0), white and red, one pixel each. */
function paintSigned(canvas, values, w, h) {
  [canvas.width, canvas.height] = [w, h];
  const c = canvas.getContext('2d'), image = c.createImageData(w, h), top = values.reduce((a, x) => Math.max(a, Math.abs(x)), 1e-9);
  values.forEach((x, i) => {
    const fade = 255 * (1 - Math.abs(x) / top);
    image.data.set(x < 0 ? [fade, fade + (255 - fade) * 0.4, 255, 255] : [255, fade + (255 - fade) * 0.25, fade, 255], 4 * i);
  });
  c.putImageData(image, 0, 0);
}

const numbers = (...values) => values.join(' × ');

export class Walk {
  constructor(live) {
    this.live = live;
    const { cfg, page } = live, { img_size: [H, W], patch_size: [ph, pw], in_chans: C, dim: D, depth: L, heads, num_classes: K } = cfg;
    const N = cfg.grid[0] * cfg.grid[1], n = page.record.n_prefix, d = D / heads;
    const steps = [
      ['pixels', 'Pixels', `The image becomes ${numbers(W, H)} pixels. Each of its ${C} colours is scaled to lie around 0. Here is the patch of the query, and its first colour as numbers.`,
        'x = normalise(image)', `(1, ${C}, ${H}, ${W})`, '09_attention_maps', 'chapter 9'],
      ['patches', 'Patches', `Squares of ${numbers(pw, ph)} pixels are cut out and laid flat: ${N} rows of ${C * ph * pw} numbers. From here on nobody knows what was beside what.`,
        `patches = patchify(x, ${ph})`, `(1, ${N}, ${C * ph * pw})`, '01_patches', 'chapter 1'],
      ['tokens', 'Tokens and positions', `One matrix makes ${D} numbers of each patch. A position embedding is added, learned in training: the map shows which places have one like the query’s. ${n > 1 ? `${n} tokens` : 'The class token'} stand${n > 1 ? '' : 's'} in front.`,
        'z = model.embed(x)', `(1, ${n + N}, ${D})`, '01_patches', 'chapter 1'],
      ['scores', 'A query meets a key', `Each token asks with a query and answers with a key of ${d} numbers. Multiplied number by number and added, they give one score: here for the key that fits best. Then all scores of this query.`,
        'scores = q @ k.mT / d**0.5', `(1, ${heads}, ${n + N}, ${n + N})`, '02_attention', 'chapter 2'],
      ['weights', 'Weights', 'Softmax makes the scores positive, with a sum of 1: the attention weights. The token takes that share of each value.',
        'weights = scores.softmax(-1)', `(1, ${heads}, ${n + N}, ${n + N})`, '02_attention', 'chapter 2'],
      ['layers', 'Heads and layers', `${heads} heads do this side by side, and ${L} layers one after the other, with an MLP behind each. The mean of the heads in each layer, for the query:`,
        'for block in encoder.blocks: z = block(z)', `(1, ${n + N}, ${D})`, '03_encoder', 'chapter 3'],
      ['prediction', cfg.pool === 'cls' ? 'The class token' : 'The mean of the patches', `${cfg.pool === 'cls' ? 'Only the class token is asked in the end. What it attends to in the last layer,' : 'In the end all patches are averaged. What the class token attends to,'} and the probabilities of the ${K} classes:`,
        `model.head(z[:, ${cfg.pool === 'cls' ? '0' : `${n}:].mean(1`}${cfg.pool === 'cls' ? ']' : ')'}).softmax(-1)`, `(1, ${K})`, '04_vit', 'chapter 4'],
      ['lens', 'Behind the curtain: a logit lens', 'The head can be asked too early, and of any token. How probable does it find the winning class after each layer: in each patch, and below in the class token (solid) and in the query’s token (dashed)?',
        'model.head(encoder.norm(z)).softmax(-1)', `(${L + 1}, ${n + N}, ${K})`, '04_vit', 'chapter 4'],
    ].filter(([name]) => K || !['prediction', 'lens'].includes(name));
    this.figures = {};
    const items = steps.map(([name, title, text, line, shape, chapter, where]) => make('li', { className: `lv-step lv-step-${name}` },
      make('h3', {}, title), make('p', {}, text), make('p', { className: 'lv-line' }, make('code', {}, line), make('small', {}, shape), make('a', { href: `${page.site}${chapter}.html` }, where)),
      this.figures[name] = make('div', { className: 'lv-figure' })));
    this.element = make('section', { className: 'lv-walk' }, make('h2', {}, 'How it got there, in steps'),
      make('p', {}, 'Every drawing is of your image, and follows the query, the layer and the head that you choose above.'), make('ol', {}, ...items));
    for (const name of ['query', 'layer', 'head']) live.state.on(`change:${name}`, () => this.changed());
  }

  /** One repaint for many changes. */
  changed() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.update(); });
  }

  map(values, label, { signed = false, mark = -1, top = Math.max(...values) } = {}) {
    const { grid: [h, w], n_prefix } = this.live.page.record, canvas = make('canvas', { width: w, height: h, className: 'lv-map', role: 'img', 'aria-label': label });
    if (signed) paintSigned(canvas, values, w, h); else paint(canvas, values, 0, { w, h, n_prefix: 0 }, top);
    const frame = make('i', { className: 'vx-mark', hidden: mark < n_prefix });
    const [x, y] = [(mark - n_prefix) % w, Math.floor((mark - n_prefix) / w)];
    frame.style.cssText = `left: ${100 * x / w}%; top: ${100 * y / h}%; width: ${100 / w}%; height: ${100 / h}%`;
    return make('figure', {}, make('div', { className: 'lv-frame' }, canvas, frame), make('figcaption', {}, label));
  }

  strip(values, label) {
    const canvas = make('canvas', { className: 'lv-strip', role: 'img', 'aria-label': label });
    paintSigned(canvas, values, values.length, 1);
    return make('figure', { className: 'lv-wide' }, canvas, make('figcaption', {}, label));
  }

  /** A patch, cut out of what the model sees. */
  cut(token, label) {
    const { editor, page } = this.live, { grid: [, w], n_prefix } = page.record, { pw, ph } = editor, n = token - n_prefix;
    const canvas = make('canvas', { width: pw, height: ph, className: 'lv-map', role: 'img', 'aria-label': label });
    canvas.getContext('2d').drawImage(editor.pixels, n % w * pw, Math.floor(n / w) * ph, pw, ph, 0, 0, pw, ph);
    return make('figure', {}, canvas, make('figcaption', {}, label));
  }

  update() {
    const { live } = this, { made, state, cfg, editor, page } = live, { grid: [h, w], n_prefix: n, heads: H, layers: L } = page.record;
    const T = n + h * w, D = cfg.dim, d = D / H, query = state.get('query'), layer = Math.max(0, state.get('layer')), head = Math.max(0, state.get('head')), m = layer * H + head;
    const patch = Math.max(query, n), view = live.view, maps = view.panes[0].maps, name = maps.name(query), patches = row => Array.from(row.slice(n));
    const put = (step, ...children) => this.figures[step]?.replaceChildren(...children);
    if (maps.weights !== made.weights) { this.changed(); return; }
    const at = (array, token, width) => array.subarray(token * width, (token + 1) * width);

    const data = editor.pixels.getContext('2d').getImageData((patch - n) % w * editor.pw, Math.floor((patch - n) / w) * editor.ph, editor.pw, editor.ph).data;
    const few = [Math.min(editor.ph, 6), Math.min(editor.pw, 6)];
    put('pixels', this.cut(patch, maps.name(patch)), make('table', {}, ...Array.from({ length: few[0] }, (_, r) => make('tr', {}, ...Array.from({ length: few[1] }, (_, c) =>
      make('td', {}, ((data[4 * (r * editor.pw + c)] / 255 - cfg.mean[0]) / cfg.std[0]).toFixed(2)))))));

    const gap = Math.max(1, Math.round(editor.pw / 4)), sheet = make('canvas', { width: w * (editor.pw + gap), height: h * (editor.ph + gap), className: 'lv-cuts', role: 'img', 'aria-label': 'the patches' });
    const c = sheet.getContext('2d');
    for (let i = 0; i < h * w; i++) {
      const [x, y] = [i % w, Math.floor(i / w)];
      if (i === patch - n) { c.fillStyle = '#e0218a'; c.fillRect(x * (editor.pw + gap), y * (editor.ph + gap), editor.pw + gap, editor.ph + gap); }
      c.drawImage(editor.pixels, x * editor.pw, y * editor.ph, editor.pw, editor.ph, x * (editor.pw + gap) + gap / 2, y * (editor.ph + gap) + gap / 2, editor.pw, editor.ph);
    }
    put('patches', sheet);

    const z = at(made.tokens, query, D), position = live.positions && !(query > 0 && query < n) ? at(live.positions, query ? query - n + 1 : 0, D) : new Float32Array(D);
    const cosine = (a, b) => { let ab = 0, aa = 0, bb = 0; for (let i = 0; i < D; i++) { ab += a[i] * b[i]; aa += a[i] ** 2; bb += b[i] ** 2; } return ab / (Math.sqrt(aa * bb) || 1); };
    put('tokens', this.strip(z.map((x, i) => x - position[i]), query < n ? name : `${name}, its pixels alone`), this.strip(position, 'its position'), this.strip(z, 'the sum: the token'),
      ...(live.positions ? [this.map(Array.from({ length: h * w }, (_, i) => cosine(at(live.positions, patch - n + 1, D), at(live.positions, i + 1, D))), 'positions like it', { signed: true, mark: patch })] : []));

    const q = at(made.q.subarray(m * T * d), query, d), score = token => { const k = at(made.k.subarray(m * T * d), token, d); let s = 0; for (let i = 0; i < d; i++) s += q[i] * k[i]; return s / Math.sqrt(d); };
    const scores = Array.from({ length: T }, (_, j) => score(j)), best = scores.indexOf(Math.max(...scores.slice(n)), n), k = at(made.k.subarray(m * T * d), best, d);
    const where = `layer ${layer}, head ${head}`;
    put('scores', this.strip(q, `query of ${name}, ${where}`), this.strip(k, `key of ${maps.name(best)}`), this.strip(q.map((x, i) => x * k[i]), `product: adds up to ${(scores[best] * Math.sqrt(d)).toFixed(2)}, a score of ${scores[best].toFixed(2)}`),
      ...(query < n ? [] : [this.cut(query, 'asks')]), this.cut(best, 'answers best'), this.map(scores.slice(n), `all scores, ${where}`, { signed: true, mark: query }));

    const all = maps.raw(query), row = maps.pick(all, layer, head), largest = Math.max(...row.slice(n));
    put('weights', this.map(patches(row), `${where}: up to ${percent(largest)}`, { mark: query }), make('p', { className: 'lv-note' }, `${percent(row.slice(0, n).reduce((a, b) => a + b, 0))} go to ${n > 1 ? `the ${n} tokens` : 'the class token'} in front.`));
    put('layers', ...Array.from({ length: L }, (_, l) => this.map(patches(maps.pick(all, l, -1)), `layer ${l}`, { mark: query })));

    if (!cfg.num_classes) return;
    const bars = maps.classes.map(c => { const bar = make('i'); bar.style.setProperty('--p', c.p); return make('li', {}, make('span', {}, c.name), bar, make('b', {}, percent(c.p))); });
    put('prediction', this.map(patches(maps.pick(maps.raw(0), L - 1, -1)), `class token, layer ${L - 1}`), make('ol', { className: 'lv-bars' }, ...bars));
    if (!made.lens) { put('lens', make('p', { className: 'lv-note' }, 'Left out: this model has too many classes to ask for in every token.')); return; }
    const K = cfg.num_classes, winner = live.probabilities.indexOf(Math.max(...live.probabilities)), p = (l, token) => made.lens[(l * T + token) * K + winner];
    const title = page.classes?.[winner] ?? `class ${winner}`, chart = make('canvas', { width: 640, height: 200, className: 'lv-chart', role: 'img', 'aria-label': `probability of ${title} after each layer` });
    this.chart(chart, [Array.from({ length: L + 1 }, (_, l) => p(l, 0)), Array.from({ length: L + 1 }, (_, l) => p(l, query))]);
    put('lens', ...Array.from({ length: L + 1 }, (_, l) => this.map(Array.from({ length: h * w }, (_, i) => p(l, n + i)), l ? `after layer ${l - 1}` : 'before', { top: 1, mark: query })),
      make('figure', { className: 'lv-wide' }, chart, make('figcaption', {}, `probability of ${title}, from before layer 0 to after layer ${L - 1}: class token solid, ${name} dashed`)));
  }

  /** Lines of probabilities, 0 at the bottom and 1 at the top. */
  chart(canvas, lines) {
    const c = canvas.getContext('2d'), { width, height } = canvas, colour = getComputedStyle(this.element).color;
    Object.assign(c, { strokeStyle: colour, fillStyle: colour, font: '14px system-ui, sans-serif', lineWidth: 1 });
    const x = (i, n) => 44 + i * (width - 60) / (n - 1), y = p => height - 12 - p * (height - 24);
    for (const p of [0, 0.5, 1]) {
      c.globalAlpha = 0.35;
      c.strokeRect(44, y(p), width - 60, 0);
      c.globalAlpha = 1;
      c.fillText(percent(p).replace('.0', ''), 0, y(p) + 5);
    }
    c.lineWidth = 3;
    lines.forEach((line, i) => {
      c.setLineDash(i ? [8, 6] : []);
      c.beginPath();
      line.forEach((p, l) => c.lineTo(x(l, line.length), y(p)));
      c.stroke();
    });
  }
}
