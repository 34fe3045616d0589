"""ViT-B/16 at 224 pixels on a CPU beside timm, torchvision and Hugging Face: `python benchmarks/vit.py` prints ratios and writes
report/results/vit_cpu.json. Each number is the median of repetitions in alternating order, in one run. `--part NAME` runs one part of it and leaves
the others in the file: forward, train, memory, import. A ratio above 1 means that this course is faster (or smaller)."""
import argparse, json, statistics, subprocess, sys, time
from pathlib import Path

import torch
from common import ROOT, table, write_result
from peers import PEERS, make

PEAK = r"""
import re, sys, torch
sys.path.insert(0, sys.argv[3])
from peers import make
from torch.nn import functional as F
def status(key): return 1024*int(re.search(key + r':\s*(\d+) kB', open('/proc/self/status').read())[1])
model = make(sys.argv[1], sys.argv[2])
n, size = int(sys.argv[4]), int(sys.argv[5])
before = status('VmRSS')
F.cross_entropy(model(torch.randn(n, 3, size, size)), torch.zeros(n, dtype=torch.long)).backward()
print(status('VmHWM') - before)
"""


def alternate(jobs, repeat):
    "{name: function} -> {name: seconds of each repetition}; each round begins with another one, the first round is not counted."
    names, times = list(jobs), {n: [] for n in jobs}
    for i in range(repeat + 1):
        for name in names[i % len(names):] + names[:i % len(names)]:
            start = time.perf_counter(); jobs[name]()
            if i: times[name].append(time.perf_counter() - start)
    return times


def rows(times, images=1):
    "A table: medians, spread, and the ratio of each peer to `this`."
    mid = {n: statistics.median(t) for n, t in times.items()}
    return [dict(library=n, seconds=mid[n], spread=max(t) - min(t), images_per_second=images / mid[n], ratio=mid[n] / mid['this']) for n, t in times.items()]


def forward(name, n, repeat):
    x = torch.randn(n, 3, *[size_of(name)]*2)
    models = {p: make(p, name).eval() for p in PEERS}
    def job(m):
        with torch.no_grad(): m(x)
    return rows(alternate({p: lambda m=m: job(m) for p, m in models.items()}, repeat), n)


def train(name, n, repeat):
    x, y = torch.randn(n, 3, *[size_of(name)]*2), torch.arange(n) % 10
    models = {p: make(p, name).train() for p in PEERS}
    def job(m): torch.nn.functional.cross_entropy(m(x), y).backward(); m.zero_grad()
    return rows(alternate({p: lambda m=m: job(m) for p, m in models.items()}, repeat), n)


def memory(name, n, repeat):
    out = []
    for p in PEERS:
        runs = [int(subprocess.run([sys.executable, '-c', PEAK, p, name, str(ROOT/'benchmarks'), str(n), str(size_of(name))], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
                for _ in range(min(repeat, 2))]
        out.append(dict(library=p, peak_bytes=statistics.median(runs), spread=max(runs) - min(runs)))
    return [r | dict(ratio=r['peak_bytes'] / out[0]['peak_bytes']) for r in out]


def imports(name, n, repeat):
    modules = {'this': 'vit_course.vit', 'timm': 'timm', 'torchvision': 'torchvision.models', 'Hugging Face': 'transformers.models.vit.modeling_vit', 'torch alone': 'torch'}
    return rows(alternate({p: lambda m=m: subprocess.run([sys.executable, '-c', f'import {m}'], cwd=ROOT, check=True, capture_output=True) for p, m in modules.items()}, min(repeat, 2)))


def size_of(name): return make('this', name).cfg.img_size


PARTS = {'forward': (forward, 4), 'train': (train, 2), 'memory': (memory, 4), 'import': (imports, 1)}   # with images in a batch

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--part', choices=PARTS, nargs='+', default=list(PARTS)); p.add_argument('--out', default=ROOT/'report'/'results'/'vit_cpu.json')
    p.add_argument('--model', default='ViT-B_16'); p.add_argument('--repeat', type=int, default=4)
    args = p.parse_args()
    parts = json.loads(Path(args.out).read_text())['parts'] if Path(args.out).exists() else {}
    for name in args.part:
        f, n = PARTS[name]
        result = f(args.model, n, args.repeat)
        print(f'\n{name}: {args.model}, {n} images, {torch.get_num_threads()} threads'); table(result)
        best = min(r['ratio'] for r in result if r['library'] not in ('this', 'torch alone'))
        parts[name] = dict(model=args.model, images=n, threads=torch.get_num_threads(), repetitions=args.repeat, fastest_peer_over_this=best, rows=result)
    sys.argv[1:] = []
    write_result(args.out, parts=parts)
