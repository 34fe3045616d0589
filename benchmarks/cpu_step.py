"""A training step on a processor, and where its time goes: `python benchmarks/cpu_step.py` writes report/results/cpu_step.json.

`this` is the `Learner` of `vit_train`, input and callbacks included. `plain` is the same model in a bare loop, `timm` timm's
model of the same shape in that loop: same batches, same optimizer, clipping and autocast. All take turns in one run; the
times are medians. `--before DIR` adds another version of this repository, whose `Learner` then takes turns, too. The second
table is one profile of the bare loop, by kind of operation, and what the `Learner` adds to it."""
import argparse, contextlib, json, os, statistics, subprocess, sys, time
from pathlib import Path

import torch
from common import ROOT, table, write_result
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from vit_course.finetune import FinetuneConfig, get_learner

JOBS = {'ViT-digits': 64, 'ViT-tiny_4': 128}     # images in a batch
KINDS = {'matrix products': ('mm', 'linear', 'matmul', 'baddbmm'), 'attention kernel': ('scaled_dot_product', 'flash'),
         'softmax': ('softmax',), 'LayerNorm': ('layer_norm',), 'GELU': ('gelu',), 'convolution': ('conv',),
         'copies and casts': ('copy_', '_to_copy', 'cat', 'clone', 'contiguous'), 'optimizer, clipping': ('adamw', 'foreach', 'norm')}


def config(name, bf16, steps): return FinetuneConfig(
    'step', dataset='digits', model_type=name, bf16=bf16, train_batch_size=JOBS[name], num_steps=10**9, eval_every=steps,
    warmup_steps=10, min_area=0.8, device='cpu', optimizer='adamw', learning_rate=1e-3, weight_decay=0.05, img_size=8 if name == 'ViT-digits' else 32)


class Stopwatch(Callback):
    "Seconds of training, evaluation left out."
    def before_train(self): self.start = time.perf_counter()
    def after_train(self): self.seconds = time.perf_counter() - self.start


class Ours:
    "The `Learner` of `vit_train`, `steps` at a time."
    def __init__(self, name, bf16, steps):
        self.learn = get_learner(config(name, bf16, steps))
        self.learn.remove_cb(ProgressCallback)
        self.stopwatch = Stopwatch()
        self.learn.add_cb(self.stopwatch)
    def __call__(self):
        with self.learn.no_logging(): self.learn.fit(1)
        return self.stopwatch.seconds


class Loop:
    "A model in the shortest loop that does the same."
    def __init__(self, model, name, bf16, steps):
        from vit_course.tools.optimizers import make_optimizer   # not in the version before
        cfg = config(name, bf16, steps)
        self.model, self.steps, self.bf16, self.dls = model.train(), steps, bf16, get_learner(cfg).dls
        self.opt = make_optimizer(model, cfg.optimizer, cfg.learning_rate, cfg.weight_decay)
        self.params = list(model.parameters())
    def step(self, i):
        x, y = self.dls.train.batch(i)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=self.bf16): loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.)
        self.opt.step(); self.opt.zero_grad()
    def __call__(self):
        start = time.perf_counter()
        for i in range(self.steps): self.step(i)
        return time.perf_counter() - start


def timm_model(name):
    from timm.models.vision_transformer import VisionTransformer
    from vit_course.vit import CONFIGS
    c = CONFIGS[name]
    return VisionTransformer(c.img_size, c.patch_size, 3, 10, embed_dim=c.dim, depth=c.depth, num_heads=c.heads,
                             mlp_ratio=c.mlp_dim/c.dim)


def rounds(name, bf16, steps, repeat, others):
    "{job: ms of a step in each round}."
    jobs = {'this': Ours(name, bf16, steps), 'plain': Loop(get_learner(config(name, bf16, steps)).model, name, bf16, steps),
            'timm': Loop(timm_model(name), name, bf16, steps)} | others
    times = {k: [] for k in jobs}
    for i in range(repeat + 1):
        for k in list(jobs)[::(-1)**i]:
            seconds = jobs[k]()
            if i: times[k].append(1e3*seconds/steps)
    return times, jobs['plain']


def where(loop, learner_ms):
    "Milliseconds of a step by kind of operation, and what is left for Python and the callbacks."
    loop()
    with contextlib.redirect_stderr(None), profile(activities=[ProfilerActivity.CPU]) as p: loop()
    spent = dict.fromkeys([*KINDS, 'other operations'], 0.)
    for e in p.key_averages():
        kind = next((k for k, words in KINDS.items() if any(w in e.key.lower() for w in words)), 'other operations')
        spent[kind] += e.self_cpu_time_total / 1e3 / loop.steps
    spent['Learner, beyond the loop'] = learner_ms
    return spent


class Other:
    "The `Learner` of another version, in a process of its own that waits for its turn."
    def __init__(self, folder, name, bf16, steps):
        env = os.environ | dict(PYTHONPATH=str(folder))
        self.p = subprocess.Popen([sys.executable, __file__, '--serve', name, str(int(bf16)), str(steps)], env=env, text=True,
                                  cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.p.stdout.readline()
    def __call__(self):
        print(file=self.p.stdin, flush=True)
        return float(self.p.stdout.readline())


def serve(name, bf16, steps):
    with contextlib.redirect_stdout(sys.stderr): job = Ours(name, bool(int(bf16)), int(steps))
    print('ready', flush=True)
    for _ in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr): seconds = job()
        print(seconds, flush=True)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--models', nargs='+', choices=JOBS, default=list(JOBS))
    p.add_argument('--repeat', type=int, default=7)
    p.add_argument('--before', type=Path, metavar='DIR', help='another version of this repository')
    p.add_argument('--out', default=ROOT/'report'/'results'/'cpu_step.json')
    p.add_argument('--serve', nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.serve: serve(*args.serve); sys.exit()
    rows, profiles = [], {}
    for name in args.models:
        steps = 100 if name == 'ViT-digits' else 8
        for bf16 in (False, True):
            others = {'before': Other(args.before, name, bf16, steps)} if args.before else {}
            times, loop = rounds(name, bf16, steps, args.repeat, others)
            for other in others.values(): other.p.kill()
            mid = {k: statistics.median(t) for k, t in times.items()}
            for k, t in times.items():
                rows.append(dict(model=name, precision='bfloat16' if bf16 else 'float32', job=k, ms_per_step=mid[k],
                                 images_per_second=1e3*JOBS[name]/mid[k], over_this=mid[k]/mid['this'], spread=(max(t) - min(t))/mid[k]))
            profiles[f"{name} {'bfloat16' if bf16 else 'float32'}"] = where(loop, mid['this'] - mid['plain'])
    table(rows)
    print('\nmilliseconds of a step'); table([dict(run=k) | v for k, v in profiles.items()])
    write_result(args.out, threads=torch.get_num_threads(), rows=rows, profiles=profiles)
