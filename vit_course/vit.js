// The forward pass of a Vision Transformer, in the names and the order of vit_course/vit.py. All arrays are flat and row-major,
// so (T,D) is T rows of D numbers; T counts the class token and registers. One image at a time, float32, no dependencies.
// A page runs this file in a Worker: see the last lines for what it is asked and what it answers.
import { Simd } from './simd.js';

let simd = null;    // the same product in WebAssembly, where the browser has it: several times as fast

/** Image (C,H,W) -> tokens (N, C*P_h*P_w), patches in row-major order, each flattened as (C,P_h,P_w). */
export function patchify(x, { in_chans: C, img_size: [H, W], patch_size: [ph, pw] }) {
  const tokens = new Float32Array(x.length);
  let i = 0;
  for (let r = 0; r < H; r += ph) for (let s = 0; s < W; s += pw)      // a patch begins in row r, column s
    for (let c = 0; c < C; c++) for (let y = r; y < r + ph; y++) for (let z = s; z < s + pw; z++)
      tokens[i++] = x[(c * H + y) * W + z];
  return tokens;
}

/** x Wᵀ + b: (n,D) -> (n,O), with W (O,D). Four rows of x meet four of W at a time, so that each number that is loaded is
 *  used four times. Past the end the last row is computed again, which changes nothing. */
export function linear(x, { weight, bias }) {
  const fast = simd?.linear(x, { weight, bias });
  if (fast) return fast;
  const O = bias.length, D = weight.length / O, n = x.length / D, y = new Float32Array(n * O);
  for (let t = 0; t < n; t += 4) {
    const t1 = Math.min(t + 1, n - 1), t2 = Math.min(t + 2, n - 1), t3 = Math.min(t + 3, n - 1);
    const a0 = t * D, a1 = t1 * D, a2 = t2 * D, a3 = t3 * D;
    for (let o = 0; o < O; o += 2) {
      const o1 = Math.min(o + 1, O - 1), b0 = o * D, b1 = o1 * D;
      let s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, s30 = 0, s31 = 0;
      for (let i = 0; i < D; i++) {
        const w0 = weight[b0 + i], w1 = weight[b1 + i], x0 = x[a0 + i], x1 = x[a1 + i], x2 = x[a2 + i], x3 = x[a3 + i];
        s00 += x0 * w0; s01 += x0 * w1; s10 += x1 * w0; s11 += x1 * w1;
        s20 += x2 * w0; s21 += x2 * w1; s30 += x3 * w0; s31 += x3 * w1;
      }
      const c0 = bias[o], c1 = bias[o1];
      y[t * O + o] = s00 + c0; y[t * O + o1] = s01 + c1; y[t1 * O + o] = s10 + c0; y[t1 * O + o1] = s11 + c1;
      y[t2 * O + o] = s20 + c0; y[t2 * O + o1] = s21 + c1; y[t3 * O + o] = s30 + c0; y[t3 * O + o1] = s31 + c1;
    }
  }
  return y;
}

/** Each row of x (n,D) to mean 0 and variance 1, then times weight (D), plus bias (D). */
export function layer_norm(x, { weight, bias }, eps) {
  const D = weight.length, y = new Float32Array(x.length);
  for (let t = 0; t < x.length; t += D) {
    let mean = 0, variance = 0;
    for (let i = 0; i < D; i++) mean += x[t + i] / D;
    for (let i = 0; i < D; i++) variance += (x[t + i] - mean) ** 2 / D;
    const scale = 1 / Math.sqrt(variance + eps);
    for (let i = 0; i < D; i++) y[t + i] = (x[t + i] - mean) * scale * weight[i] + bias[i];
  }
  return y;
}

/** The error function, to 2e-7 (Abramowitz and Stegun, 7.1.26). */
function erf(x) {
  const a = Math.abs(x), t = 1 / (1 + 0.3275911 * a);
  const p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - p * Math.exp(-a * a));
}

export const ACTIVATIONS = {
  gelu: x => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  gelu_tanh: x => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** softmax over rows of T numbers, in place. */
export function softmax(rows, T) {
  for (let i = 0; i < rows.length; i += T) {
    let top = -Infinity, sum = 0;
    for (let j = i; j < i + T; j++) if (rows[j] > top) top = rows[j];
    for (let j = i; j < i + T; j++) sum += rows[j] = Math.exp(rows[j] - top);
    for (let j = i; j < i + T; j++) rows[j] /= sum;
  }
  return rows;
}

/** softmax(q kᵀ / √d): queries (T,d) and keys (T,d) of one head -> weights (T,T); Eq. 6 of Appendix A. */
export function attention_weights(q, k, d) {
  const T = q.length / d;
  const scores = linear(q, { weight: k, bias: new Float32Array(T) });
  for (let i = 0; i < scores.length; i++) scores[i] /= Math.sqrt(d);
  return softmax(scores, T);
}

/** Weights (T,T) times values (T,d), written into columns of out (T,D) that begin at `at`; Eq. 7. */
function average_values(weights, v, d, out, at, D) {
  const T = v.length / d;
  for (let t = 0; t < T; t++) for (let j = 0; j < T; j++) {
    const w = weights[t * T + j];
    for (let c = 0; c < d; c++) out[t * D + at + c] += w * v[j * d + c];
  }
}

/** Multi-head self-attention, Eq. 5 to 8. A head in `off` adds nothing. `see(h, weights, q, k)` is shown each head. */
export function multi_head_attention(x, p, { dim: D, heads, qk_norm, norm_eps }, off, see) {
  const d = D / heads, T = x.length / D, qkv = linear(x, p.qkv), out = new Float32Array(T * D);
  for (let h = 0; h < heads; h++) {
    let [q, k, v] = [0, 1, 2].map(part => {                             // (T, 3, heads, d) -> (T,d)
      const one = new Float32Array(T * d);
      for (let t = 0; t < T; t++) one.set(qkv.subarray(t * 3 * D + part * D + h * d, t * 3 * D + part * D + h * d + d), t * d);
      return one;
    });
    if (qk_norm) { q = layer_norm(q, p.q_norm, norm_eps); k = layer_norm(k, p.k_norm, norm_eps); }
    const weights = attention_weights(q, k, d);
    see(h, weights, q, k);
    if (!off(h)) average_values(weights, v, d, out, h * d, D);
  }
  return linear(out, p.proj);
}

/** Two linear layers with a GELU between them, for each token alone. */
export function mlp(x, p, act) {
  const hidden = linear(x, p.fc1), f = ACTIVATIONS[act];
  for (let i = 0; i < hidden.length; i++) hidden[i] = f(hidden[i]);
  return linear(hidden, p.fc2);
}

/** x + branch, where LayerScale's gamma (D) multiplies the branch if the model has one. */
function add(x, branch, scale) {
  const gamma = scale?.gamma, D = gamma?.length;
  return x.map((value, i) => value + branch[i] * (gamma ? gamma[i % D] : 1));
}

/** One pre-norm block of the encoder: (T,D) -> (T,D); Eq. 2 and 3. */
export function encoder_block(x, p, cfg, off, see) {
  x = add(x, multi_head_attention(layer_norm(x, p.norm1, cfg.norm_eps), p.attn, cfg, off, see), p.ls1);
  return add(x, mlp(layer_norm(x, p.norm2, cfg.norm_eps), p.mlp, cfg.act), p.ls2);
}

/** The whole model. `params` is a tree of Float32Arrays with the names of PyTorch's state_dict. */
export class VisionTransformer {
  constructor(cfg, params) {
    this.cfg = cfg;
    this.params = params;
    this.n_prefix = 1 + cfg.registers;
    this.tokens = this.n_prefix + cfg.grid[0] * cfg.grid[1];
  }

  /** Image (C,H,W) -> z_0 (T,D): class token, registers, patches; Eq. 1. */
  embed(x) {
    const { cfg, params: p, n_prefix, tokens } = this, D = cfg.dim, z = new Float32Array(tokens * D), pos = p.pos_embed;
    z.set(p.cls_token);
    if (p.reg_token) z.set(p.reg_token, D);                             // registers have no position
    z.set(linear(patchify(x, cfg), p.patch_embed.proj), n_prefix * D);
    if (pos) for (let i = 0; i < pos.length; i++) z[i < D ? i : i + cfg.registers * D] += pos[i];
    return z;
  }

  /** What the head says of each row of (n,D): logits (n,K). */
  head(z) {
    const { pre_logits, head } = this.params;
    if (pre_logits) z = linear(z, pre_logits['0']).map(Math.tanh);
    return linear(z, head);
  }

  /** Image (C,H,W) -> logits (K), tokens z_0 (T,D), attention weights (L,H,T,T), queries and keys (L,H,T,d), and, when `lens` is asked for, the
   *  probabilities (L+1,T,K) that the head gives to each token after each layer (the logit lens).
   *  `off` holds the numbers layer*H+head of the heads that shall add nothing. */
  forward(x, { off = [], lens = false } = {}) {
    const { cfg, params, tokens: T, n_prefix } = this, { depth: L, heads: H, dim: D, num_classes: K } = cfg;
    const weights = new Float32Array(L * H * T * T), q = new Float32Array(L * T * D), k = new Float32Array(L * T * D);
    const silent = new Set(off), probabilities = lens && K ? new Float32Array((L + 1) * T * K) : null;
    const look = (z, layer) => probabilities?.set(softmax(this.head(layer_norm(z, params.encoder.norm, cfg.norm_eps)), K), layer * T * K);
    const z_0 = this.embed(x);
    let z = z_0;
    look(z, 0);
    for (let layer = 0; layer < L; layer++) {
      z = encoder_block(z, params.encoder.blocks[layer], cfg, h => silent.has(layer * H + h), (h, w, qh, kh) => {
        const m = layer * H + h;
        weights.set(w, m * T * T);
        q.set(qh, m * qh.length);
        k.set(kh, m * kh.length);
      });
      look(z, layer + 1);
    }
    z = layer_norm(z, params.encoder.norm, cfg.norm_eps);               // Eq. 4
    let pooled = z.slice(0, D);
    if (cfg.pool === 'mean') {
      pooled = new Float32Array(D);
      for (let i = n_prefix * D; i < z.length; i++) pooled[i % D] += z[i] / (T - n_prefix);
    }
    return { logits: K ? this.head(pooled) : new Float32Array(0), tokens: z_0, weights, q, k, lens: probabilities };
  }
}

/** Pixels to what the model was trained on: RGBA bytes (H,W,4) -> (C,H,W), (value/255 - mean) / std. */
export function normalise(rgba, { in_chans: C, mean, std }) {
  const n = rgba.length / 4, x = new Float32Array(C * n);
  for (let i = 0; i < n; i++) {
    const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
    if (C === 1) x[i] = (Math.round(0.299 * r + 0.587 * g + 0.114 * b) / 255 - mean[0]) / std[0];
    else [r, g, b].forEach((value, c) => { x[c * n + i] = (value / 255 - mean[c]) / std[c]; });
  }
  return x;
}

/** Bilinear resize with antialiasing, as Pillow does it: RGBA bytes (h,w,4) -> (H,W,4). */
export function resize(rgba, [h, w], [H, W]) {
  return resize_width(resize_width(rgba, h, w, W), W, h, H);            // each turns rows into columns: twice is none
}

function resize_width(rgba, h, w, W) {                                  // (h,w,4) -> (W,h,4)
  const output = new Uint8ClampedArray(W * h * 4), scale = w / W, reach = Math.max(scale, 1);
  for (let s = 0; s < W; s++) {
    const centre = (s + 0.5) * scale, from = Math.max(0, Math.floor(centre - reach + 0.5));
    const n = Math.min(w, Math.floor(centre + reach + 0.5)) - from;
    const share = Array.from({ length: n }, (_, i) => Math.max(0, 1 - Math.abs((from + i + 0.5 - centre) / reach)));
    const sum = share.reduce((a, b) => a + b);
    for (let r = 0; r < h; r++) for (let c = 0; c < 4; c++) {
      let value = 0;
      for (let i = 0; i < n; i++) value += share[i] * rgba[4 * (r * w + from + i) + c];
      output[4 * (s * h + r) + c] = Math.floor(value / sum + 0.5);
    }
  }
  return output;
}

/** At most how many numbers go into and come out of one `linear`. */
function passing({ grid: [h, w], registers, dim, mlp_dim, num_classes, in_chans, patch_size: [ph, pw] }) {
  const T = 1 + registers + h * w;
  return (2 * T + 1) * Math.max(3 * dim, mlp_dim, num_classes, in_chans * ph * pw, T);
}

/** float16 weights as they lie in the page -> a tree of Float32Arrays. `index` has a name and a length for each, in order.
 *  RangeError when the block is not what was written. */
export function unpack_weights(bytes, cfg) {
  const { index, crc32: expected } = cfg;
  const table = Uint32Array.from({ length: 256 }, (_, n) => { for (let i = 0; i < 8; i++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n; });
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = table[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  if ((~crc >>> 0) !== expected) throw new RangeError('the weights in this page are damaged: save it again');
  const float = Float32Array.from({ length: 65536 }, (_, h) => {        // what each of the 65,536 codes stands for
    const sign = h >> 15 ? -1 : 1, exponent = h >> 10 & 31, fraction = h & 1023;
    return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
  });
  const total = index.reduce((sum, [, length]) => sum + length, 0);
  try { simd = new Simd(total, passing(cfg)); } catch { simd = null; }
  const codes = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >> 1), params = {};
  let at = 0;
  for (const [name, length] of index) {
    const path = name.split('.'), last = path.pop(), place = path.reduce((o, key) => o[key] ??= {}, params);
    const numbers = place[last] = simd ? simd.keep(length) : new Float32Array(length);
    for (let i = 0; i < length; i++) numbers[i] = float[codes[at++]];
  }
  return params;
}

// In a Worker: each question has an `id`, which its answer repeats, with an `error` when there is one. First { cfg, weights }, the
// weights as base64 text; then { resize: rgba, size: [h,w] } -> { pixels }; and { rgba or x, off, lens } -> { ms, ...forward }.
if (typeof WorkerGlobalScope !== 'undefined') {
  let model;
  const answer = ({ cfg, weights, resize: rgba, size, ...question }) => {
    if (cfg) {
      const text = atob(weights), bytes = new Uint8Array(text.length);
      for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
      model = new VisionTransformer(cfg, unpack_weights(bytes, cfg));
      return { positions: model.params.pos_embed ?? null };
    }
    if (rgba) return { pixels: resize(rgba, size, model.cfg.img_size) };
    const start = performance.now(), made = model.forward(question.x ?? normalise(question.rgba, model.cfg), question);
    return { ms: performance.now() - start, simd: simd?.calls ?? 0, ...made };
  };
  self.onmessage = ({ data }) => {
    try { self.postMessage({ id: data.id, ...answer(data) }); } catch (error) { self.postMessage({ id: data.id, error: error.message }); }
  };
}
