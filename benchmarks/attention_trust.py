"""Which map names the patches that a really pretrained model needs? `python benchmarks/attention_trust.py --data_dir CIFAR10_FOLDER`

Fits a linear head for CIFAR-10 on the frozen features of a pretrained ViT, then measures deletion and insertion areas
of five maps on held-out test images, and how far each map changes when the weights are shuffled from the top down. Writes
report/results/attention_trust.json, which chapter 9 reads. CIFAR10_FOLDER holds train/<class>/ and test/<class>/ with images. With
`--checkpoint vit-tiny-4-cifar10` the model is one that has a head for these classes, and the file attention_trust_tiny.json."""
import argparse, sys, time
from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from common import ROOT, table, write_result
from vit_course.attention_maps import SCALES, attention_maps, relevance, rollout, to_grid
from vit_course.checkpoints import load_checkpoint
from vit_course.data import Batches, ImageSet
from vit_course.faithfulness import deletion_insertion, pixel_norm, rank_correlation, weight_randomisation
from vit_course.tools.image_files import list_images, read_images
from vit_course.vit import create_vit

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--data_dir', type=Path, required=True)
p.add_argument('--weights', type=Path, default=ROOT.parent/'shared'/'weights'/'dinov2_small_fp16.safetensors')
p.add_argument('--checkpoint', help='a checkpoint with a head for these classes, a file or a name of `vit_weights list`: no head is fitted')
p.add_argument('--what', default='DINOv2-S (saliency-tuned)', help='how to call these weights')
p.add_argument('--size', type=int, default=98)
p.add_argument('--fills', nargs='+', choices=('grey', 'blur'), default=['grey'], help='what deleted patches show')
p.add_argument('--train', type=int, default=100, help='training images of each class')
p.add_argument('--images', type=int, default=10, help='held-out images of each class')
p.add_argument('--steps', type=int, default=7, help='points of a curve')
p.add_argument('--seed', type=int, default=0)
p.add_argument('--out', type=Path, help='default attention_trust.json, or with --checkpoint attention_trust_tiny.json, in report/results')
args = p.parse_args()
if args.out is None: args.out = ROOT/'report'/'results'/f"attention_trust{'_tiny'*bool(args.checkpoint)}.json"
if args.checkpoint: args.what = args.checkpoint
elif not args.weights.exists(): sys.exit(f'{args.weights} is not here: give --weights, a checkpoint of a ViT-S/14')
start, g = time.perf_counter(), torch.Generator().manual_seed(args.seed)
device = 'cuda' if torch.cuda.is_available() else 'cpu'
mean, std = SCALES['half' if args.checkpoint else 'imagenet']
classes = sorted(d.name for d in (args.data_dir/'train').iterdir())


def batches(split, per_class, bs=64):
    files, labels = list_images(args.data_dir/split, classes)
    chosen = torch.cat([(labels == c).nonzero()[:, 0][torch.randperm((labels == c).sum(), generator=g)[:per_class]] for c in range(len(classes))])
    images = read_images([files[i] for i in chosen], (32, 32))[0]
    return Batches(ImageSet(images, labels[chosen]), bs, args.size, classes, mean, std).to(device)


def note(text): print(f'{time.perf_counter() - start:6.0f} s  {text}', flush=True)


if args.checkpoint:
    model = load_checkpoint(None, args.checkpoint).model.eval().to(device)
    args.size, args.train = model.cfg.img_size, 0
else:
    model = create_vit('ViT-S_14', args.size, num_classes=len(classes)).eval().to(device)
    load_checkpoint(model, args.weights, head='new')


def features(loader):
    with torch.no_grad(): rows = [(model.forward_features(x)[:, 0], y) for x, y in loader]
    return torch.cat([f for f, _ in rows]), torch.cat([y for _, y in rows])


def fit_head(train):
    "A linear head on what the model makes of these images, which are standardised first."
    f, y = features(train)
    middle, spread = f.mean(0), f.std(0)
    weight, bias = torch.zeros(len(classes), f.shape[1], device=device, requires_grad=True), torch.zeros(len(classes), device=device, requires_grad=True)
    opt = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn='strong_wolfe')
    def closure():
        opt.zero_grad()
        loss = F.cross_entropy((f - middle)/spread @ weight.T + bias, y) + 1e-2*weight.square().sum()
        loss.backward()
        return loss
    opt.step(closure)
    with torch.no_grad():
        model.head.weight.copy_(weight/spread)
        model.head.bias.copy_(bias - (weight*middle/spread).sum(1))
    note(f'head fitted to {len(f)} images')


if not args.checkpoint: fit_head(batches('train', args.train))
test = batches('test', args.images, bs=50)
tf, ty = features(test)
with torch.no_grad(): accuracy = (model.head(tf).argmax(1) == ty).float().mean().item()
note(f'accuracy of the head on {len(tf)} test images {accuracy:.3f}')


def maps_of(m, x, target):
    weights, grid = attention_maps(m, x), m.grid
    first = lambda rows: to_grid(rows, grid, m.n_prefix)   # of the class token
    return {'raw, last layer': first(weights[-1].mean(1)[:, 0]), 'rollout': first(rollout(weights)[:, 0]), 'relevance': first(relevance(m, x, target)[:, 0])}


areas, same = {}, {}
L = model.cfg.depth
twins = {n: weight_randomisation(model, n, args.seed) for n in (1, L//3, L)}
for x, _ in test:
    with torch.no_grad(): target = model(x).argmax(1)
    maps = maps_of(model, x, target)
    controls = {'pixel norm': pixel_norm(x, model.cfg.patch_size).view(len(x), *model.grid), 'random': torch.rand(len(x), *model.grid, generator=g)}
    blurred = gaussian_blur(x, 2*(args.size//4) + 1, args.size/8)
    for name, m in (maps | controls).items():
        for kind in args.fills:
            fill = 0. if kind == 'grey' else blurred
            r = deletion_insertion(model, x, m, target, args.steps, fill)
            areas.setdefault((name, kind), []).append(torch.stack([r.deletion_area, r.insertion_area, r.insertion_area - r.deletion_area], 1))
    for n, twin in twins.items():
        for name, m in maps_of(twin, x, target).items():
            same.setdefault((name, n), []).append(rank_correlation(m.flatten(1), maps[name].flatten(1)).cpu())
    note(f'{len(areas["random", "grey"])} of {len(test)} batches')


def summary(v): return dict(mean=round(v.mean().item(), 4), se=round((v.std()/len(v)**.5).item(), 4))


areas = {k: torch.cat(v) for k, v in areas.items()}
rows = [dict(map=name, fill=kind) | {what: summary(v[:, i]) for i, what in enumerate(('deletion', 'insertion', 'difference'))} for (name, kind), v in areas.items()]
against = {kind: {name: summary(areas[name, kind][:, 2] - areas['relevance', kind][:, 2]) for name, k in areas if k == kind and name != 'relevance'}
           for kind in args.fills}
randomised = [dict(map=name, blocks=n) | summary(torch.cat(v)) for (name, n), v in same.items()]
write_result(args.out, what=args.what, size=args.size, grid=list(model.grid), seed=args.seed, depth=L, train_images=args.train*len(classes), test_images=len(tf), steps=args.steps,
             threads=torch.get_num_threads(), seconds=round(time.perf_counter() - start), head_accuracy=round(accuracy, 4), areas=rows,
             difference_minus_relevance=against, randomised=randomised)
table([{'map': r['map'], 'fill': r['fill']} | {k: f"{r[k]['mean']:.3f} ± {r[k]['se']:.3f}" for k in ('deletion', 'insertion', 'difference')} for r in rows])
table([{'map': r['map'], 'blocks shuffled': str(r['blocks']), 'rank correlation': f"{r['mean']:.3f} ± {r['se']:.3f}"} for r in randomised])
