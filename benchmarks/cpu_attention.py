"""Explicit and fused attention on a processor: `python benchmarks/cpu_attention.py` prints which is faster for how many
tokens, width of a head and number format, in training (forward and backward) and without gradients, and writes
report/results/cpu_attention.json. `EXPLICIT_UP_TO` of chapter 2 is read off that table."""
import argparse, time

import torch
from common import ROOT, table, write_result
from torch.nn import functional as F
from vit_course.attention import EXPLICIT_UP_TO, attention

FORMS = {'fused': F.scaled_dot_product_attention, 'explicit': attention}
TOKENS, WIDTHS = (17, 33, 65, 129, 197, 257, 401, 577, 1025), (16, 48, 64)
DTYPES = torch.float32, torch.bfloat16


def once(form, qkv, heads, training):
    "As in the layer: heads split from one tensor, attention, heads put side by side; and the way back."
    with torch.set_grad_enabled(training):
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        out = form(q, k, v).transpose(1, 2).flatten(2)
    if training: torch.autograd.grad(out, qkv, torch.ones_like(out))


def seconds(form, args, at_least):
    start, n = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < at_least or not n: once(form, *args); n += 1
    return passed / n


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--repeat', type=int, default=6, help='rounds; the best one counts')
    p.add_argument('--seconds', type=float, default=0.04, help='of each form in each round')
    p.add_argument('--out', default=ROOT/'report'/'results'/'cpu_attention.json')
    args = p.parse_args()
    configs = [(dtype, training, d, T) for dtype in DTYPES for training in (True, False) for d in WIDTHS for T in TOKENS]
    best = {}                                            # the least of all rounds, which go through everything in turn
    for i in range(args.repeat + 1):
        for c in configs:
            dtype, training, d, T = c
            heads = max(1, 192//d)
            qkv = torch.randn(max(1, 4096//T), T, 3*heads*d, dtype=dtype, requires_grad=training)
            for name in list(FORMS)[::(-1)**i]:
                took = seconds(FORMS[name], (qkv, heads, training), args.seconds)
                if i: best[c, name] = min(took, best.get((c, name), took))     # the first round warms up
    rows = []
    for c in configs:
        dtype, training, d, T = c
        fused, explicit = (1e3*best[c, name] for name in FORMS)
        limit = EXPLICIT_UP_TO.get((dtype, training), 0)
        rows.append(dict(dtype=str(dtype).split('.')[1], training=training, d=d, T=T, heads=max(1, 192//d),
                         images=max(1, 4096//T), fused_ms=fused, explicit_ms=explicit, fused_over_explicit=fused/explicit,
                         chosen='explicit' if T <= limit else 'fused'))
    table(rows)
    write_result(args.out, threads=torch.get_num_threads(), rows=rows)
