"""What the shortcuts save and cost: `python benchmarks/fast.py` trains ViT-digits with none, each and all of them over several seeds, in alternating
order, and writes report/results/fast_digits.json. `--steps N --seeds N`. (On images of 8 x 8 pixels the shortcuts save little time: launches limit.)"""
import argparse, statistics, tempfile

from common import ROOT, table, write_result
from vit_course.finetune import FinetuneConfig, finetune
from vit_course.tools.config import CHOICES

p = argparse.ArgumentParser(description=__doc__)
p.add_argument('--steps', type=int, default=600); p.add_argument('--seeds', type=int, default=3); p.add_argument('--model', default='ViT-digits'); p.add_argument('--dataset', default='digits')
p.add_argument('--data_dir', default='data'); p.add_argument('--out', default=ROOT/'report'/'results'/'fast_digits.json')
args = p.parse_args()
variants = {'none': ((), 0.), 'patches': (('patches',), 0.), 'drop_path 0.2': ((), 0.2), 'drop_path 0.2, depth': (('depth',), 0.2), 'size': (('size',), 0.), 'all, drop_path 0.2': (CHOICES['fast'], 0.2)}
runs = {k: [] for k in variants}
with tempfile.TemporaryDirectory() as folder:
    for seed in range(1, args.seeds + 1):
        for name, (fast, drop) in variants.items():
            r = finetune(FinetuneConfig(f'{name}-{seed}'.replace(',', ''), dataset=args.dataset, data_dir=args.data_dir, model_type=args.model, output_dir=folder, seed=seed, num_steps=args.steps,
                                        eval_every=args.steps, fast=fast, set=dict(drop_path=drop)), progress=False)
            runs[name].append(dict(seed=seed, test_accuracy=r.test_accuracy, valid_accuracy=r.valid_accuracy, ms_per_step=r.ms_per_step))
base = statistics.median(r['ms_per_step'] for r in runs['none'])
rows = [dict(shortcuts=k, test_accuracy=100*statistics.mean(r['test_accuracy'] for r in v), worst=100*min(r['test_accuracy'] for r in v), best=100*max(r['test_accuracy'] for r in v),
             ms_per_step=(ms := statistics.median(r['ms_per_step'] for r in v)), speedup=base/ms) for k, v in runs.items()]
table(rows)
write_result(args.out, model=args.model, dataset=args.dataset, steps=args.steps, rows=rows, runs=runs)
