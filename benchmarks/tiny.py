"""The checkpoint that ships with the course: `python benchmarks/tiny.py --data_dir DIR --num_steps N` trains ViT-tiny_4
on CIFAR-10 from fresh weights and writes vit_course/vit-tiny-4-cifar10.safetensors (float16) with its card,
vit-tiny-4-cifar10.json. On a GPU or, with patience, without one. DIR has train/<class>/ and test/<class>/; leave it out
to have CIFAR-10 downloaded.

Behind other work, in a folder outside of the repository:

    OMP_WAIT_POLICY=PASSIVE nice -n 19 python benchmarks/tiny.py --data_dir DIR --output_dir RUNS --num_steps 100000 &

A run that was stopped or killed goes on with the same command. `kill -STOP` and `kill -CONT` pause it. The learning rate
stays at its peak for the first four fifths of the steps (wsd), and until then --num_steps may change: a larger one
prolongs the run; one of 5/4 of the steps made begins the decay (a smaller one says the least that is possible). To
have a checkpoint and still go on, copy RUNS first and let the copy decay.

`--weights vit-tiny-4-cifar10` begins with the checkpoint that ships, where its run folder is gone: a new warm-up, a new
order of images (`--seed`), the same images held out. The card says what came before, and counts all images. A peak rate of 3e-3
undoes what it has learned, 1.5e-3 (with weight decay 0.1 and half of the patches) does not. On two processor cores with bfloat16:

    --mixup 0.2                                            72 to 77 % in 92 minutes; it knew its training images by heart then
    --cutmix 1 --trivial_augment 4 --min_area 0.5          77 to 81 % in 95 minutes; it no longer does (`train_accuracy` in the card)"""
import argparse, hashlib, json, sys, tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
from common import ROOT, table, write_result
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix
from torchvision.transforms.v2 import TrivialAugmentWide
from vit_course.checkpoints import load_checkpoint, save_checkpoint
from vit_course.data import Batches, DataError
from vit_course.finetune import finetune
from vit_course.studies import perturb
from vit_course.tools.config import ConfigError, TrialConfig, decay_start, resolve_config
from vit_course.tools.run_folder import Interrupted
from vit_course.tools.shortcuts import PatchDropout
from vit_course.tools.trials import trial_learner
from vit_course.vit import count_parameters, create_vit

NAME = 'vit-tiny-4-cifar10'
CHANGES = dict(none=[0], shuffle=[16, 8, 4], shift=[2, 4, 8], hide=[0.25, 0.5, 0.75])    # of test images, for `perturb` of chapter 8


class Late(Callback):
    "Half of the patches of each image until a step (`PatchDropout`), and all of them from there on."
    order = -10
    def __init__(self, until): self.until = until
    def before_fit(self): PatchDropout.attach(self.model)
    def before_batch(self):
        if self.training: self.model.drop.train(self.dls.train.step < self.until)     # where its hook looks


class TrivialAugment(Callback):
    "torchvision's `TrivialAugmentWide` for the training images: one operation and strength for `together` images at a time."
    order, run_valid = -20, False                                          # before images are mixed
    def __init__(self, together): self.together, self.change = together, TrivialAugmentWide()
    def before_batch(self):
        mean, std = (t.to(self.x.device) for t in (self.dls.train.mean, self.dls.train.std))
        pixels = ((self.x*std + mean)*255).round().clamp(0, 255).to(torch.uint8)
        pixels = torch.cat([self.change(part) for part in pixels.split(self.together)])
        self.learn.xb = ((pixels.float()/255 - mean)/std,)


def learner(cfg, args, half):
    "The run of `cfg`, with the augmentation that the arguments ask for."
    learn = trial_learner(cfg)
    if args.trivial_augment: learn.add_cb(TrivialAugment(args.trivial_augment))
    if args.cutmix: learn.add_cb(CutMix(args.cutmix))
    if half: learn.add_cb(Late(decay_start(cfg.num_steps)))
    return learn


@torch.no_grad()
def examine(model, dl, classes, change=lambda x: x):
    "Accuracy, confusion [true class][answer] and calibration on all images of `dl`, in float32."
    logits, y = (torch.cat(t) for t in zip(*((model.eval()(change(x)), y) for x, y in dl)))
    p, answer = logits.softmax(1).max(1)
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.long).index_put_((y, answer), torch.ones(len(y), dtype=torch.long), accumulate=True)
    return dict(accuracy=(answer == y).float().mean().item(), mean_confidence=p.mean().item(), loss=torch.nn.functional.cross_entropy(logits, y).item(),
                accuracy_by_class=dict(zip(classes, (confusion.diag() / confusion.sum(1)).tolist())), confusion=confusion.tolist())


def earlier(args):
    "What the card says of the runs whose weights this one began with, the oldest first."
    if not args.weights: return []
    card = json.loads((ROOT/'vit_course'/f'{args.weights}.json').read_text())
    kept, last = ('sha256', 'date', 'commit', 'command', 'settings', 'train_accuracy', 'valid_accuracy', 'changed'), card['curve'][-1]
    return card.get('earlier', []) + [dict({k: card[k] for k in kept}, images=card['run']['images'], test_accuracy=card['test']['accuracy'],
                                           train_loss=last['train_loss'], valid_loss=last['valid_loss'])]


def ship(cfg, result, args):
    "Weights in float16, and the card: what they are, how they were made, and what they can do."
    dls = trial_learner(cfg).dls
    classes, folder, path = list(dls.classes), Path(args.output_dir)/NAME, args.out/f'{NAME}.safetensors'
    trained = load_checkpoint(None, folder/'best.safetensors').model
    save_checkpoint(trained.half(), path, dict(classes=json.dumps(classes), trained_on=args.data_name, card=f'{NAME}.json'))
    shipped = create_vit('ViT-tiny_4', **cfg.set)
    load_checkpoint(shipped, path)                                         # from here on, what a user has: float16 weights in a float32 model
    valid, test = (dl.to('cpu') for dl in (dls.valid, dls.test))
    def part(data, n): return Batches(data[torch.arange(0, len(data), n)], 500, test.size, classes)   # every n-th image, as it is
    on_test, learned, some = examine(shipped, test, classes), part(dls.train.dataset, 10), part(test.dataset, 4)       # a quarter is enough for differences of several points
    changed = [dict(kind=kind, amount=amount, accuracy=examine(shipped, some, classes, lambda x: perturb(x, kind, amount) if amount else x)['accuracy'])
               for kind, amounts in CHANGES.items() for amount in amounts]
    head, *rows = (line.split(',') for line in (folder/'metrics.csv').read_text().splitlines())
    settings = {k: v for k, v in asdict(cfg).items() if v is not None and k not in ('output_dir', 'data_dir', 'resume', 'name', 'local_rank')}
    before = earlier(args)
    table([dict(images='all, as they are', accuracy=100*on_test['accuracy'])] + [dict(images=f"{r['kind']} {r['amount']}", accuracy=100*r['accuracy']) for r in changed])
    write_result(path.with_suffix('.json'), model=NAME, model_type='ViT-tiny_4', parameters=count_parameters(shipped), classes=classes, data=args.data_name,
                 bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), train_images=len(dls.train.dataset), valid_images=len(valid.dataset),
                 test_images=len(test.dataset), steps_with_half_of_the_patches=decay_start(cfg.num_steps)*args.half_the_patches,
                 train_accuracy=examine(shipped, learned, classes)['accuracy'], valid_accuracy=examine(shipped, valid, classes)['accuracy'], test=on_test,
                 changed=changed, changed_images=len(some.dataset), settings=settings, run=asdict(result),
                 earlier=before, images=result.images + sum(run['images'] for run in before),
                 curve=[dict(zip(head, map(float, row))) for row in rows])


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data_dir', help='CIFAR-10 as images; downloaded when left out'); p.add_argument('--data_name', default='CIFAR-10', help='what to call it in the card')
    p.add_argument('--num_steps', type=int, default=50_000); p.add_argument('--minutes', type=float, help='choose --num_steps for so many minutes, by the speed of a short run')
    p.add_argument('--train_batch_size', type=int, default=256); p.add_argument('--eval_every', type=int, default=1000)
    p.add_argument('--learning_rate', type=float, default=3e-3); p.add_argument('--weight_decay', type=float, default=0.05); p.add_argument('--min_area', type=float, default=0.35)
    p.add_argument('--label_smoothing', type=float, default=0.1)
    mix = p.add_mutually_exclusive_group(); mix.add_argument('--mixup', type=float, default=0.); mix.add_argument('--cutmix', type=float, default=0., help='of fastai: alpha of its Beta distribution')
    p.add_argument('--trivial_augment', type=int, default=0, metavar='N', help="torchvision's TrivialAugmentWide, one operation for N images (small N: more variety; large N: faster on a GPU)")
    p.add_argument('--drop_path', type=float, default=0.)
    p.add_argument('--weights', choices=[NAME], help='begin with the checkpoint that ships')
    p.add_argument('--no_bf16', dest='bf16', action='store_false', help='float32: faster where a processor has no bfloat16 of its own')
    p.add_argument('--half_the_patches', action='store_true', help='see half of the patches of each image, until the decay')
    p.add_argument('--seed', type=int, default=1); p.add_argument('--device'); p.add_argument('--output_dir', default='output'); p.add_argument('--out', type=Path, default=ROOT/'vit_course')
    args = p.parse_args()

    cfg = TrialConfig(NAME, dataset='folder' if args.data_dir else 'cifar10', data_dir=args.data_dir or 'data', model_type='ViT-tiny_4', optimizer='muon', bf16=args.bf16, resume=True, pretrained_dir=args.weights,
                      decay_type='wsd', eval_batch_size=500, set=dict(drop_path=args.drop_path), label_smoothing=args.label_smoothing, mixup=args.mixup or None,
                      **{k: getattr(args, k) for k in ('num_steps', 'train_batch_size', 'eval_every', 'learning_rate', 'weight_decay', 'min_area', 'seed', 'device', 'output_dir')})
    try:
        if args.minutes and not (Path(args.output_dir)/NAME).exists():
            with tempfile.TemporaryDirectory() as folder: short = finetune(replace(cfg, num_steps=200, eval_every=200, output_dir=folder), progress=False, learner=lambda c: learner(c, args, False))
            args.num_steps = max(1, int(60e3*args.minutes / short.ms_per_step) // args.eval_every) * args.eval_every
            cfg = replace(cfg, num_steps=args.num_steps)
        result = finetune(cfg, learner=lambda c: learner(c, args, args.half_the_patches))
    except (ConfigError, DataError, Interrupted) as e: print(f'tiny.py: {e}', file=sys.stderr); sys.exit(2)
    ship(resolve_config(cfg), result, args)
