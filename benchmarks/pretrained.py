"""A pretrained ViT-S/14 on CIFAR-10, at 224 pixels: `python benchmarks/pretrained.py --part NAME --weights FILE --data_dir DIR` trains with several seeds
and writes report/results/pretrained_NAME.json. Meant for a GPU, where each part takes minutes; `--smoke` runs the same code with a tiny model on
whatever there is, to see that it works; its numbers mean nothing.

    homework   the homework's recipe: SGD at 0.03, 5,000 steps of 64, crops down to a twentieth of the image
    course     the course's: AdamW at 1e-4, 1,500 steps of 256, mild crops, stochastic depth, label smoothing
    scratch    the same without the weights
    linear     a linear head on frozen features, fitted until it moves no more
    precision  500 steps of the homework's recipe in float32, float16 and bfloat16"""
import argparse, csv, statistics, tempfile, time
from pathlib import Path

import torch
from common import ROOT, table, write_result
from torch.nn import functional as F
from vit_course.finetune import finetune
from vit_course.tools.config import TrialConfig, resolve_config
from vit_course.tools.trials import trial_learner

HOMEWORK = dict(optimizer='sgd', learning_rate=3e-2, weight_decay=0., num_steps=5000, warmup_steps=500, train_batch_size=64, eval_every=100, min_area=0.05)
COURSE = dict(optimizer='adamw', learning_rate=1e-4, weight_decay=0.05, num_steps=1500, warmup_steps=150, train_batch_size=256, eval_every=50, min_area=0.35,
              label_smoothing=0.1, set=dict(drop_path=0.1))
PRECISIONS = {'float32': {}, 'float16': dict(fp16=True), 'bfloat16': dict(bf16=True)}
PARTS = {'homework': {'the homework': HOMEWORK | dict(bf16=True)},
         'course': {'the course': COURSE | dict(bf16=True)},
         'scratch': {'the course, from fresh weights': COURSE | dict(bf16=True, learning_rate=5e-4, pretrained_dir=None)},
         'precision': {k: HOMEWORK | dict(num_steps=500, warmup_steps=50) | v for k, v in PRECISIONS.items()}}


def seconds_to(folder, share):
    "Seconds until the validation accuracy was there for the first time, evaluations included; None when it never was."
    with open(folder/'metrics.csv', newline='') as f: return next((float(r['seconds']) for r in csv.DictReader(f) if float(r['valid_accuracy']) >= share), None)


def train(name, settings, args):
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            cfg = TrialConfig(f'{name}-{seed}', seed=seed, output_dir=folder, **(args.base | settings))
            r = finetune(cfg, progress=False, learner=trial_learner)
            runs.append(dict(seed=seed, test_accuracy=r.test_accuracy, valid_accuracy=r.valid_accuracy, seconds=r.seconds, seconds_to_97=seconds_to(Path(folder)/cfg.name, 0.97),
                             images_per_second=r.images_per_second, mfu=r.mfu, peak_memory=r.peak_memory, compiled=r.compiled))
    return runs


def linear(args):
    "Features of every image once, then a head by L-BFGS; the weight decay is chosen on validation."
    start = time.perf_counter()
    cfg = resolve_config(TrialConfig('linear', **(args.base | dict(num_steps=1, min_area=1.))))
    learn = trial_learner(cfg)
    dls, model = learn.dls, learn.model.eval()
    model.head = torch.nn.Identity()
    def features(dl):
        with torch.no_grad(), torch.autocast(torch.device(cfg.device).type, dtype=torch.bfloat16):
            f, y = zip(*((model(x).float(), y) for x, y in map(dl.prepare, torch.arange(len(dl.dataset)).split(cfg.eval_batch_size))))
        return torch.cat(f), torch.cat(y)
    (f, y), (vf, vy), (tf, ty) = (features(dl) for dl in (dls.train, dls.valid, dls.test))
    middle, spread, best = f.mean(0), f.std(0).clamp(min=1e-6), (0., 0., None)
    for decay in (1e-4, 1e-3, 1e-2):
        head = torch.nn.Linear(f.shape[1], dls.c).to(f.device)
        opt = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn='strong_wolfe')
        def closure():
            opt.zero_grad()
            loss = F.cross_entropy(head((f - middle)/spread), y) + decay*head.weight.square().sum()
            loss.backward()
            return loss
        opt.step(closure)
        with torch.no_grad(): valid, test = ((head((x - middle)/spread).argmax(1) == t).float().mean().item() for x, t in ((vf, vy), (tf, ty)))
        best = max(best, (valid, test, decay))
    return [dict(seed=0, test_accuracy=best[1], valid_accuracy=best[0], decay=best[2], seconds=time.perf_counter() - start)]


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--part', choices=[*PARTS, 'linear'], required=True); p.add_argument('--weights', help="a checkpoint of a ViT-S/14, such as DINOv2's")
    p.add_argument('--what', default='DINOv2-S', help='how to call these weights'); p.add_argument('--data_dir', help='CIFAR-10 as images; downloaded when left out')
    p.add_argument('--data_name', default='CIFAR-10', help='what to call it'); p.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    p.add_argument('--out', type=Path, default=ROOT/'report'/'results'); p.add_argument('--smoke', action='store_true')
    args = p.parse_args()
    if not args.smoke and not args.weights: p.error('--weights is needed: `vit_weights fetch dinov2-ViT-S_14` gets some')
    args.base = dict(dataset='folder' if args.data_dir else 'cifar10', data_dir=args.data_dir or 'data', model_type='ViT-S_14', img_size=224, pretrained_dir=args.weights, eval_batch_size=500)
    parts = PARTS.get(args.part)
    if args.smoke:
        args.base |= dict(dataset='digits', model_type='testing', img_size=16, pretrained_dir=None, eval_batch_size=100); args.seeds = args.seeds[:1]
        parts = parts and {k: v | dict(num_steps=4, eval_every=2, train_batch_size=8, warmup_steps=1) for k, v in parts.items()}
    runs = {name: train(name.replace(',', ''), settings, args) for name, settings in parts.items()} if parts else {'linear head': linear(args)}
    def mean(v, scale=1): return scale*statistics.mean(v) if all(x is not None for x in v) else None
    rows = [dict(what=k, test_accuracy=mean([r['test_accuracy'] for r in v], 100), worst=100*min(r['test_accuracy'] for r in v), best=100*max(r['test_accuracy'] for r in v),
                 seconds=mean([r['seconds'] for r in v]), seconds_to_97=mean([r.get('seconds_to_97') for r in v]), images_per_second=mean([r.get('images_per_second') for r in v]))
            for k, v in runs.items()]
    table(rows)
    write_result(args.out/f'pretrained_{args.part}.json', weights=args.what, data=args.data_name, smoke=args.smoke, settings=parts, rows=rows, runs=runs)
