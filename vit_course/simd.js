// The one loop in which a Vision Transformer spends its time, x Wᵀ + b, as WebAssembly: four numbers at a time. The bytes of the
// module are put together here, an instruction a word, so that nothing has to be compiled beforehand or fetched.

const ROWS = 4, COLUMNS = 2;    // of the tile: each number that is loaded is used that often

/** Assemble linear(x, w, b, y, n, O, D): addresses of x (n,D), W (O,D), b (O) and y (n,O), then sizes; D is a multiple of 4. */
function assemble() {
  const number = x => { const out = []; do { out.push(x & 127 | (x > 127 ? 128 : 0)); x >>>= 7; } while (x); return out; };
  const signed = x => x < 64 ? [x] : [x & 127 | 128, ...signed(x >> 7)];
  const section = (id, ...body) => [id, ...number(body.length), ...body], text = s => [s.length, ...new TextEncoder().encode(s)];
  const names = ['x', 'w', 'b', 'y', 'n', 'O', 'D', 't', 'o', 'i', 'end', 'stop'], list = (name, n) => Array.from({ length: n }, (_, k) => `${name}${k}`);
  names.push(...list('xr', ROWS), ...list('yr', ROWS), ...list('wc', COLUMNS), ...list('oc', COLUMNS));
  const integers = names.length - 7, vectors = ['v', ...list('u', COLUMNS), ...Array.from({ length: ROWS * COLUMNS }, (_, k) => `sum${k}`)];
  names.push(...vectors);
  const get = name => [0x20, names.indexOf(name)], set = name => [0x21, names.indexOf(name)], constant = x => [0x41, ...signed(x)];
  const add = [0x6a], sub = [0x6b], multiply = [0x6c], less = [0x48], select = [0x1b], vadd = [0xfd, 0xe4, 1], vmul = [0xfd, 0xe6, 1], load = [0xfd, 0, 2, 0];
  const least = (a, b) => [...a, ...b, ...a, ...b, ...less, ...select];                       // a if a < b, else b
  const loop = (name, to, step, ...body) => [...constant(0), ...set(name), 0x03, 0x40, ...body.flat(), ...get(name), ...step, ...add, ...set(name),
    ...get(name), ...get(to), ...less, 0x0d, 0, 0x0b];
  const four = [...constant(4), ...multiply], last = name => [...get(name), ...constant(1), ...sub];
  const each = (n, f) => Array.from({ length: n }, (_, k) => f(k)).flat(), tile = f => each(ROWS, r => each(COLUMNS, c => f(r, c, `sum${r * COLUMNS + c}`)));
  const row = r => least([...get('t'), ...constant(r), ...add], last('n')), column = c => least([...get('o'), ...constant(c), ...add], last('O'));

  const body = [
    ...get('D'), ...four, ...set('end'),
    ...loop('t', 'n', constant(ROWS),
      each(ROWS, r => [...row(r), ...get('end'), ...multiply, ...get('x'), ...add, ...set(`xr${r}`), ...row(r), ...get('O'), ...multiply, ...four, ...get('y'), ...add, ...set(`yr${r}`)]),
      loop('o', 'O', constant(COLUMNS),
        each(COLUMNS, c => [...column(c), ...four, ...set(`oc${c}`), ...column(c), ...get('end'), ...multiply, ...get('w'), ...add, ...set(`wc${c}`)]),
        tile((r, c, sum) => [0xfd, 0x0c, ...new Array(16).fill(0), ...set(sum)]),
        loop('i', 'end', constant(16),
          each(COLUMNS, c => [...get(`wc${c}`), ...get('i'), ...add, ...load, ...set(`u${c}`)]),
          each(ROWS, r => [...get(`xr${r}`), ...get('i'), ...add, ...load, ...set('v'),
            ...each(COLUMNS, c => [...get(`sum${r * COLUMNS + c}`), ...get('v'), ...get(`u${c}`), ...vmul, ...vadd, ...set(`sum${r * COLUMNS + c}`)])])),
        tile((r, c, sum) => [...get(`yr${r}`), ...get(`oc${c}`), ...add, ...each(4, lane => [...get(sum), 0xfd, 0x1f, lane, ...(lane ? [0x92] : [])]),
          ...get('b'), ...get(`oc${c}`), ...add, 0x2a, 2, 0, 0x92, 0x38, 2, 0]))),
    0x0b];
  const code = [2, ...number(integers), 0x7f, ...number(vectors.length), 0x7b, ...body];
  return Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, 1, 0x60, 7, ...new Array(7).fill(0x7f), 0), ...section(2, 1, ...text('js'), ...text('memory'), 2, 0, 1), ...section(3, 1, 0),
    ...section(7, 1, ...text('linear'), 0, 0), ...section(10, 1, ...number(code.length), ...code)]);
}

/** Memory for `floats` numbers that stay (`keep` gives them out) and for what passes through; `linear` as in vit.js, or null when
 *  D is no multiple of 4. Throws where WebAssembly or its SIMD are missing. */
export class Simd {
  constructor(floats, passing) {
    this.memory = new WebAssembly.Memory({ initial: Math.ceil((4 * (floats + passing) + 64) / 65536) });
    const module = new WebAssembly.Module(assemble());
    this.run = new WebAssembly.Instance(module, { js: { memory: this.memory } }).exports.linear;
    this.all = new Float32Array(this.memory.buffer);
    this.kept = this.calls = 0;
  }

  keep(length) { return this.all.subarray(this.kept, this.kept += length); }

  linear(x, { weight, bias }) {
    const O = bias.length, D = weight.length / O, n = x.length / D;
    const here = array => array.buffer === this.memory.buffer, passing = [x, weight, bias].filter(array => !here(array));
    let free = this.kept;
    if (D % 4 || passing.reduce((sum, array) => sum + array.length, free + n * O) > this.all.length) return null;
    const place = array => {                                            // an address, in bytes
      if (here(array)) return array.byteOffset;
      this.all.set(array, free);
      return 4 * ((free += array.length) - array.length);
    };
    this.calls++;
    this.run(place(x), place(weight), place(bias), 4 * free, n, O, D);
    return this.all.slice(free, free + n * O);
  }
}
