"""How far the same run is the same: `python benchmarks/determinism.py` trains one model with 1, 2 and 4 threads in float32, bfloat16 and float64, over several seeds, and writes
report/results/determinism.json. Threads change the order in which numbers are added, types change how they are rounded. `--steps N --seeds N`."""
import argparse, os

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')     # more threads than cores: do not let the idle ones spin
import torch
from common import ROOT, table, write_result
from fastai.callback.progress import ProgressCallback
from fastai.callback.core import Callback
from vit_course.finetune import FinetuneConfig, get_learner

p = argparse.ArgumentParser(description=__doc__)
p.add_argument('--steps', type=int, default=60); p.add_argument('--seeds', type=int, default=3); p.add_argument('--model', default='ViT-digits')
p.add_argument('--out', default=ROOT/'report'/'results'/'determinism.json')
args = p.parse_args()


class Double(Callback):
    "Images in float64."
    order = 2
    def before_batch(self): self.learn.xb = (self.xb[0].double(),)


def train(dtype, threads, seed):
    "Weights, and what the model says of the test images, in float64."
    torch.set_num_threads(threads)
    learn = get_learner(FinetuneConfig('d', model_type=args.model, num_steps=args.steps, eval_every=args.steps, seed=seed, bf16=dtype == 'bfloat16', device='cpu'))
    if dtype == 'float64': learn.model.double(); learn.add_cb(Double())
    learn.remove_cb(ProgressCallback); learn.logger = lambda *a: None
    learn.fit(1)
    loss, accuracy = learn.validate(dl=learn.dls.test)
    with torch.no_grad(): logits = torch.cat([learn.model(x.double() if dtype == 'float64' else x).double() for x, _ in learn.dls.test])
    return dict(weights=torch.cat([v.double().flatten() for v in learn.model.state_dict().values()]), logits=logits, loss=loss, accuracy=accuracy)


def compare(a, b):
    "How far two runs are apart; all zero when they are equal bit for bit."
    return dict(weights=((a['weights'] - b['weights']).norm() / b['weights'].norm()).item(), logits=(a['logits'] - b['logits']).abs().max().item(),
                answers=(a['logits'].argmax(1) != b['logits'].argmax(1)).double().mean().item(), loss=abs(a['loss'] - b['loss']), accuracy=abs(a['accuracy'] - b['accuracy']))


rows, dtypes, many = [], ('float32', 'bfloat16', 'float64'), (1, 2, 4)
for seed in range(1, args.seeds + 1):
    runs = {(d, t): train(d, t, seed) for d in dtypes for t in many}
    for d in dtypes:
        for t in many:
            if seed == 1: rows.append(dict(what='again', dtype=d, threads=t, seed=seed) | compare(train(d, t, seed), runs[d, t]))
            if t > 1: rows.append(dict(what='threads', dtype=d, threads=t, seed=seed) | compare(runs[d, t], runs[d, 1]))
        if d != 'float64': rows.append(dict(what='dtype', dtype=d, threads=1, seed=seed) | compare(runs[d, 1], runs['float64', 1]))
    rows.append(dict(what='seed', dtype='float64', threads=1, seed=seed) | compare(runs['float64', 1], train('float64', 1, seed + 100)))
measures = ('weights', 'logits', 'answers', 'loss', 'accuracy')
worst = [dict(what=w, dtype=d) | {m: max(r[m] for r in rows if (r['what'], r['dtype']) == (w, d)) for m in measures}
         for w, d in dict.fromkeys((r['what'], r['dtype']) for r in sorted(rows, key=lambda r: ('again', 'threads', 'dtype', 'seed').index(r['what'])))]
table([{k: v if isinstance(v, str) else f'{v:.2g}' for k, v in r.items()} for r in worst])
write_result(args.out, model=args.model, steps=args.steps, seeds=list(range(1, args.seeds + 1)), worst=worst, rows=rows)
