"""What it costs to see all the attention of a ViT-B/16, beside the plain fused forward pass and timm's way: `python benchmarks/attention.py`.

timm shows weights on its unfused path alone, to hooks on `attn_drop`. All ways run in turn, with the same weights and the same images. On a CPU the
seconds are those of the processor, all threads added up, so that a busy machine does not spoil them. Writes report/results/attention.json."""
import argparse, statistics, time

import timm, torch
from common import ROOT, table, write_result
from vit_course.attention_maps import capture_attention
from vit_course.vit import create_vit

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--batch', type=int, nargs='+', help='images at a time (1 and 4; on a GPU 1 and 64)')
p.add_argument('--repeat', type=int, default=15)
p.add_argument('--out', default=ROOT/'report'/'results'/'attention.json')
args = p.parse_args()
device = 'cuda' if torch.cuda.is_available() else 'cpu'

ours = create_vit('ViT-B_16').eval().to(device)
fused, unfused = (timm.create_model('vit_base_patch16_224').eval().to(device) for _ in range(2))
for peer in (fused, unfused): # the same weights under timm's names
    peer.load_state_dict({k.removeprefix('encoder.'): v for k, v in ours.state_dict().items()})
kept = []
for b in unfused.blocks:
    b.attn.fused_attn = False
    b.attn.attn_drop.register_forward_hook(lambda m, i, o: kept.append(o))


def captured(x):
    with capture_attention(ours) as cap: ours(x)
    return cap.weights


def one_row(x):
    with capture_attention(ours, queries=[0]) as cap: ours(x)
    return cap.weights


def hooked(x):
    kept.clear()
    unfused(x)
    return torch.stack(kept)


ways = {'plain, fused': ours, 'all 12 layers captured': captured, 'class token rows of all layers': one_row, 'timm, fused': fused, 'timm, unfused with hooks': hooked}


def seconds(f, x):
    if device == 'cuda': torch.cuda.synchronize()
    clock = time.perf_counter if device == 'cuda' else time.process_time    # CPU seconds: other programs do not count
    start = clock(); f(x)
    if device == 'cuda': torch.cuda.synchronize()
    return clock() - start


results = []
with torch.no_grad():
    for B in args.batch or ([1, 64] if device == 'cuda' else [1, 4]):
        x, times = torch.randn(B, 3, 224, 224, device=device), {name: [] for name in ways}
        assert (captured(x) - hooked(x)).abs().max() < 1e-4     # they see the same
        for i in range(args.repeat + 2):
            names = list(ways)
            for name in names[i % len(ways):] + names[:i % len(ways)]:   # another one begins each round
                t = seconds(ways[name], x)
                if i >= 2: times[name].append(t)                # the first two rounds warm up
        for name, t in times.items():
            ratios = sorted(a/b for a, b in zip(t, times['plain, fused']))   # round by round: a busy machine slows all of them
            results.append(dict(batch=B, way=name, seconds=round(statistics.median(t), 5), fastest=round(min(t), 5), ratio=round(statistics.median(ratios), 3),
                                quartiles=[round(ratios[i], 3) for i in (len(t)//4, 3*len(t)//4)], ratio_of_fastest=round(min(t)/min(times['plain, fused']), 3)))
print(f'{device}, {torch.get_num_threads()} threads, {args.repeat} rounds; ratios to the plain pass of the same round, median and quartiles')
table([{'batch': str(r['batch']), 'way': r['way'], 'seconds': f"{r['seconds']:.4f}", 'ratio': r['ratio'], 'quartiles': '{:.2f} to {:.2f}'.format(*r['quartiles']),
        'of the fastest': r['ratio_of_fastest']} for r in results])
write_result(args.out, threads=torch.get_num_threads(), repeat=args.repeat, timm=timm.__version__, results=results)
