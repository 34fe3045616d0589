"""The checkpoint that ships with the course: `python benchmarks/tiny.py --data_dir DIR --num_steps N` trains ViT-tiny_4 on CIFAR-10 from fresh weights and
writes vit_course/vit-tiny-4-cifar10.safetensors (float16) with its card, vit-tiny-4-cifar10.json. On a GPU or, with patience, without one. DIR has
train/<class>/ and test/<class>/; leave it out to have CIFAR-10 downloaded. A run that was stopped goes on with the same command."""
import argparse, contextlib, hashlib, json
from dataclasses import asdict
from pathlib import Path

import torch
from common import ROOT, table, write_result
from fastai.callback.core import Callback
from torch.nn.attention import SDPBackend, sdpa_kernel
from vit_course.checkpoints import load_checkpoint, save_checkpoint
from vit_course.experiments import TrialConfig, trial_learner
from vit_course.finetune import FAST, complete, drop_patches, finetune
from vit_course.vit import count_parameters, create_vit

NAME = 'vit-tiny-4-cifar10'


class Late(Callback):
    "Half of the patches of each picture until a step (`drop_patches` of chapter 7), and all of them from there on."
    order = -10
    def __init__(self, until): self.until = until
    def before_fit(self): drop_patches(self.model)
    def before_batch(self):
        if self.training: self.model.drop.train(self.dls.train.step < self.until)     # where the hook of `drop_patches` looks


def learner(cfg, until):
    learn = trial_learner(cfg)
    return learn.add_cb(Late(until)) if until else learn


def examine(model, dl, classes):
    "Accuracy, confusion [true class][answer] and calibration on all images of `dl`, in float32."
    model.eval()
    with torch.no_grad(): logits, y = (torch.cat(t) for t in zip(*((model(x).cpu(), y.cpu()) for x, y in dl)))
    p, answer = logits.softmax(1).max(1)
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.long).index_put_((y, answer), torch.ones(len(y), dtype=torch.long), accumulate=True)
    return dict(accuracy=(answer == y).float().mean().item(), mean_confidence=p.mean().item(), loss=torch.nn.functional.cross_entropy(logits, y).item(),
                accuracy_by_class=dict(zip(classes, (confusion.diag() / confusion.sum(1)).tolist())), confusion=confusion.tolist())


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--data_dir', help='CIFAR-10 as pictures; downloaded when left out'); p.add_argument('--data_name', default='CIFAR-10', help='what to call it in the card')
p.add_argument('--num_steps', type=int, default=150_000); p.add_argument('--train_batch_size', type=int, default=256); p.add_argument('--eval_every', type=int, default=1000)
p.add_argument('--learning_rate', type=float, default=3e-3); p.add_argument('--weight_decay', type=float, default=0.05); p.add_argument('--min_area', type=float, default=0.35)
p.add_argument('--label_smoothing', type=float, default=0.1); p.add_argument('--mixup', type=float, default=0.); p.add_argument('--drop_path', type=float, default=0.)
p.add_argument('--half_the_patches', type=float, default=0., metavar='SHARE', help='share of the steps that see half of the patches')
p.add_argument('--seed', type=int, default=1); p.add_argument('--device'); p.add_argument('--output_dir', default='output'); p.add_argument('--out', type=Path, default=ROOT/'vit_course')
args = p.parse_args()

cfg = TrialConfig(NAME, dataset='folder' if args.data_dir else 'cifar10', data_dir=args.data_dir or 'data', model_type='ViT-tiny_4', optimizer='muon', bf16=True, resume=True,
                  decay_type='linear', eval_batch_size=500, set=dict(drop_path=args.drop_path), label_smoothing=args.label_smoothing, mixup=args.mixup or None,
                  **{k: getattr(args, k) for k in ('num_steps', 'train_batch_size', 'eval_every', 'learning_rate', 'weight_decay', 'min_area', 'seed', 'device', 'output_dir')})
# PyTorch's fused attention on processors is slow backwards for short sequences in bfloat16: there, as it is written
explicit = sdpa_kernel(SDPBackend.MATH) if complete(cfg).device == 'cpu' else contextlib.nullcontext()
with explicit: result = finetune(cfg, learner=lambda c: learner(c, round(args.half_the_patches * args.num_steps)))

learn = trial_learner(cfg)
classes = list(learn.dls.classes)
trained = load_checkpoint(None, Path(args.output_dir)/NAME/'best.safetensors').model
path = args.out/f'{NAME}.safetensors'
save_checkpoint(trained.half(), path, dict(classes=json.dumps(classes), trained_on=args.data_name, card=f'{NAME}.json'))
shipped = create_vit('ViT-tiny_4', **cfg.set)
load_checkpoint(shipped, path)
valid, test = (examine(shipped, dl, classes) for dl in (learn.dls.valid.to('cpu'), learn.dls.test.to('cpu')))
with open(Path(args.output_dir)/NAME/'metrics.csv') as f: curve = [line.split(',') for line in f.read().splitlines()]
curve = [dict(zip(curve[0], map(float, row))) for row in curve[1:]]
keep = {k: v for k, v in asdict(cfg).items() if v is not None and k not in ('output_dir', 'data_dir', 'resume', 'name', 'local_rank')}
table([dict(set='validation', images=len(learn.dls.valid.dataset), accuracy=100*valid['accuracy']), dict(set='test', images=len(learn.dls.test.dataset), accuracy=100*test['accuracy'])])
write_result(path.with_suffix('.json'), model=NAME, model_type='ViT-tiny_4', parameters=count_parameters(shipped), classes=classes, data=args.data_name,
             bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), steps_with_half_of_the_patches=round(args.half_the_patches*args.num_steps),
             test=test, valid_accuracy=valid['accuracy'], valid_images=len(learn.dls.valid.dataset), test_images=len(learn.dls.test.dataset),
             settings=keep, run=asdict(result), curve=curve)
