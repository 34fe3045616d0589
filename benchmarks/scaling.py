"""Time and memory of a training step against image size, batch and depth, each with its exponent; and what the same numbers say about 8, 64 and 512
devices. `python benchmarks/scaling.py` prints, writes report/results/scaling_DEVICE.json and draws scaling_DEVICE.png beside it. Memory is what
autograd keeps for the backward pass, counted tensor by tensor. `--smoke` runs three small points of each."""
import argparse, math, os, statistics, tempfile, time
from datetime import timedelta
from pathlib import Path

import torch
from common import ROOT, table, write_result
from vit_course.tools.throughput import roofline
from vit_course.vit import count_flops, count_parameters, create_vit

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
SMALL = dict(patch_size=16, dim=192, depth=4, heads=3, mlp_dim=768, num_classes=10)


def kept_bytes(f):
    "Bytes that autograd keeps for the backward pass of what `f` computes, each storage once."
    seen = {}
    def pack(t): seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes(); return t
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t): out = f()
    return sum(seen.values()), out


def point(size, batch, depth, repeat):
    "Least seconds of a step (what else the machine does can only add), and bytes kept without the weights."
    model = create_vit('ViT-B_16', size, **(SMALL | dict(depth=depth))).to(DEVICE).train()
    x = torch.randn(batch, 3, size, size, device=DEVICE)
    weights = sum(p.nbytes for p in model.parameters())
    kept, out = kept_bytes(lambda: model(x).sum()); out.backward()
    times = []
    for _ in range(repeat):
        start = time.perf_counter(); model(x).sum().backward(); model.zero_grad()
        if DEVICE == 'cuda': torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return dict(size=size, batch=batch, depth=depth, seconds=min(times), gflop=3*batch*count_flops(model.cfg)/1e9, kept_mb=(kept - weights)/2**20)


def slope(xs, ys):
    "Exponent of a power law through the points: the slope of their logarithms (least squares)."
    x, y = [math.log(v) for v in xs], [math.log(v) for v in ys]
    mx, my = sum(x)/len(x), sum(y)/len(y)
    return sum((a - mx)*(b - my) for a, b in zip(x, y)) / sum((a - mx)**2 for a in x)


def _reduce(rank, path, mb, out):
    from torch import distributed as dist
    dist.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2, timeout=timedelta(minutes=2))
    x, times = torch.ones(mb * 2**18), []
    for _ in range(6):
        dist.barrier(); start = time.perf_counter(); dist.all_reduce(x); times.append(time.perf_counter() - start)
    if rank == 0: Path(out).write_text(str(statistics.median(times[1:])))
    dist.destroy_process_group()


def link(mb=64):
    "Bytes a second through each of two processes that average (gloo, inside this machine): 2 (k - 1)/k of the tensor, k = 2."
    with tempfile.TemporaryDirectory() as d:
        torch.multiprocessing.spawn(_reduce, (os.path.join(d, 'meet'), mb, os.path.join(d, 'out')), nprocs=2)
        return mb * 2**20 / float((Path(d)/'out').read_text())


def on_paper(step_seconds, images, links):
    """What limits k devices with `images` of ViT-B/16 on each, if each is as fast as this one: seconds of a step's arithmetic, and of averaging float32
    gradients over a link, of which two thirds of the arithmetic can hide."""
    nbytes = 4 * count_parameters(create_vit('ViT-B_16'))
    for name, speed in links.items():
        for k in (8, 64, 512):
            average = 2*(k - 1)/k * nbytes / speed
            exposed = max(0., average - step_seconds*2/3)
            yield dict(link=name, devices=k, batch=k*images, compute_s=step_seconds, average_s=average, efficiency=step_seconds/(step_seconds + exposed),
                       images_each_to_hide=average/(step_seconds*2/3/images))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--repeat', type=int, default=5); p.add_argument('--smoke', action='store_true'); p.add_argument('--out', default=str(ROOT/'report'/'results'))
    args = p.parse_args()
    sweeps = dict(size=(32, 64, 96) if args.smoke else (64, 128, 192, 256, 384, 512), batch=(1, 2, 4) if args.smoke else (1, 2, 4, 8, 16, 32), depth=(1, 2, 3) if args.smoke else (1, 2, 4, 8, 16))
    base, results, exponents = dict(size=64, batch=2, depth=2) if args.smoke else dict(size=128, batch=4, depth=4), {}, {}
    for name, values in sweeps.items():
        results[name] = [point(**(base | {name: v}), repeat=args.repeat) for v in values]
        print(f'\n{name} ({DEVICE})'); table(results[name])
        x = [(r['size']/16)**2 if name == 'size' else r[name] for r in results[name]]     # against the number of patches
        exponents[name] = {k: round(slope(x[-3:], [r[k] for r in results[name]][-3:]), 3) for k in ('seconds', 'gflop', 'kept_mb')}
        print(f"exponents of the last three points{' against patches' if name == 'size' else ''}: {exponents[name]}")
    images = 1 if args.smoke else 4
    big = create_vit('testing' if args.smoke else 'ViT-B_16').to(DEVICE)
    x = torch.randn(images, 3, big.cfg.img_size, big.cfg.img_size, device=DEVICE); times = []
    for _ in range(4):
        start = time.perf_counter(); big(x).sum().backward(); big.zero_grad()
        if DEVICE == 'cuda': torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    links = {'two processes here, gloo': link(4 if args.smoke else 64), '10 Gbit/s Ethernet': 1.25e9, '400 Gbit/s InfiniBand': 5e10}
    paper = list(on_paper(min(times[1:]), images, links))
    print(f'\non paper, devices like this one ({images} images each; the first link is measured, the others are nominal)'); table(paper)
    import matplotlib; matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout='constrained')
    for ax, (name, rows) in zip(axes, results.items()):
        x = [r[name] for r in rows]
        ax.loglog(x, [r['seconds']/rows[-1]['seconds'] for r in rows], 'k-o', ms=3, label='time'); ax.loglog(x, [r['kept_mb']/rows[-1]['kept_mb'] for r in rows], 'k--s', ms=3, label='memory')
        ax.set(xlabel=dict(size='image side, pixels', batch='batch', depth='blocks')[name], title=f"time exponent {exponents[name]['seconds']:.2f}" + (' (patches)' if name == 'size' else ''))
        ax.set_xticks(x, x); ax.minorticks_off(); ax.spines[['top', 'right']].set_visible(False)
    axes[0].set_ylabel('share of the largest'); axes[0].legend(frameon=False)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    fig.savefig(Path(args.out)/f'scaling_{DEVICE}.png', dpi=80)
    write_result(Path(args.out)/f'scaling_{DEVICE}.json', model=SMALL, base=base, threads=torch.get_num_threads(), sweeps=results, exponents=exponents, limits=roofline(DEVICE),
                 links=links, on_paper=paper)
