"""Everything that needs a GPU, one part at a time, each under eight minutes: `python benchmarks/gpu.py --part NAME --out DIR` prints a table and writes
DIR/gpu_NAME.json. `--smoke` runs the same code with a tiny model on whatever there is, to see that it works; its numbers mean nothing.

    rate       matrix product, copy and launch: what the device can do
    train      a training step in bfloat16 of this / timm / torchvision / Hugging Face, eager and compiled (--batch 64, 256, 512)
    infer      the same without gradients
    compile    how long compiling takes, block by block and whole, and the run length from which it pays
    end2end    the homework's 454,400 images with input, augmentation, logging, evaluation and saving, beside steps on synthetic images
    homework   images a second written the homework's way (PIL transforms in 4 workers, float32, eager), and ours, in one run
    waits      how often a training step makes the processor wait
    layout     the patch embedding in channels-last or not; images on the device or streamed
    memory     peak memory of a step against batch, accumulation and recomputed activations
    attention  recording the attention of all layers beside a plain forward pass"""
import argparse, importlib.util, statistics, tempfile, time, warnings
from dataclasses import replace
from pathlib import Path

import torch
from common import ROOT, table, write_result
from peers import PEERS, make
from torch.nn import functional as F
from vit_course.data import ImageSet, Splits, TrainBatches, make_dls
from vit_course.finetune import FinetuneConfig, finetune, get_learner
from vit_course.tools.device import COMPILE_FROM, try_compile
from vit_course.tools.optimizers import make_optimizer
from vit_course.tools.throughput import peak_flops, peak_memory, roofline
from vit_course.vit import CONFIGS, count_flops

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
GPU = DEVICE == 'cuda'
BF16 = torch.bfloat16


def wait():
    if GPU: torch.cuda.synchronize()


def seconds(f, steps):
    "Of one call, in a series of `steps` without waiting in between."
    wait(); start = time.perf_counter()
    for _ in range(steps): f()
    wait()
    return (time.perf_counter() - start) / steps


def alternate(jobs, args):
    "Median seconds and spread of a call of each job: repetitions in alternating order, after a warm-up."
    names = list(jobs)
    for n in names: seconds(jobs[n], 3)
    times = {n: [] for n in names}
    for i in range(args.repeat):
        for n in names[i % len(names):] + names[:i % len(names)]: times[n].append(seconds(jobs[n], args.steps))
    return {n: (statistics.median(t), max(t) - min(t)) for n, t in times.items()}


def batch(args, n):
    side = CONFIGS[args.model].img_size
    return torch.randn(n, 3, side, side, device=DEVICE), torch.randint(0, 10, (n,), device=DEVICE)


def step_of(model, x, y):
    "A training step: forward in bfloat16, loss, backward, clip, fused SGD with momentum; nothing is read."
    opt = make_optimizer(model, 'sgd', 1e-3)
    def step():
        with torch.autocast(DEVICE, dtype=BF16): loss = F.cross_entropy(model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step(); opt.zero_grad()
    return step


def look_of(model, x):
    def look():
        with torch.no_grad(), torch.autocast(DEVICE, dtype=BF16): model(x)
    return look


def compiled(model, how, x, args):
    "The same model compiled: `blocks` as vit_train does it, or `whole`. In a smoke test without code generation."
    if how == 'blocks' and not args.smoke: assert try_compile(model, x, BF16)
    elif how == 'blocks': [b.compile(backend='eager') for b in model.encoder.blocks]
    else: model.compile(backend='eager' if args.smoke else 'inductor')
    return model


def versus(args, training):
    x, y = batch(args, args.batch)
    variants = [(p, 'eager') for p in PEERS] + [('this', 'blocks')] + [(p, 'whole') for p in PEERS]
    flops, rate, out = count_flops(CONFIGS[args.model]) * (3 if training else 1), peak_flops(DEVICE, BF16), []
    for group in (variants[:len(PEERS)], variants[len(PEERS):]):             # compiled ones hold memory: one group at a time
        jobs = {}
        for peer, how in group:
            m = make(peer, args.model).to(DEVICE).train(training)
            if how != 'eager': m = compiled(m, how, x, args)
            jobs[peer, how] = step_of(m, x, y) if training else look_of(m, x)
        for (peer, how), (t, spread) in alternate(jobs, args).items():
            out.append(dict(library=peer, compiled=how, ms=1e3*t, spread_ms=1e3*spread, images_per_second=args.batch/t, mfu=flops*args.batch/t/rate))
        del jobs, m
    timm = min(r['ms'] for r in out if r['library'] == 'timm')
    return dict(batch=args.batch, matmul_flops=rate, rows=[r | dict(faster_than_best_timm=timm/r['ms']) for r in out])


def part_rate(args):
    return dict(rows=[dict(dtype=str(t).split('.')[1]) | roofline(DEVICE, t) for t in (torch.float32, BF16, torch.float16)])


def part_train(args): return versus(args, True)


def part_infer(args): return versus(args, False)


def part_compile(args):
    x, y = batch(args, args.batch)
    eager, rows = seconds_of(step_of(make('this', args.model).to(DEVICE), x, y), args), []
    for how in ('blocks', 'whole'):
        torch._dynamo.reset()
        m = make('this', args.model).to(DEVICE); step = step_of(compiled_lazily(m, how, args), x, y)
        first = seconds(step, 1)
        t = seconds_of(step, args)
        saved = eager - t
        rows.append(dict(how=how, compile_seconds=first - t, eager_ms=1e3*eager, compiled_ms=1e3*t, speedup=eager/t, pays_after_steps=(first - t)/saved if saved > 0 else None,
                         pays_after_seconds=(first - t)/saved*eager if saved > 0 else None))
    rate = peak_flops(DEVICE, BF16)
    return dict(batch=args.batch, rows=rows, rule_says_from_seconds=COMPILE_FROM, seconds_at_half_rate_of_a_step=3*count_flops(CONFIGS[args.model])*args.batch/(rate/2))


def compiled_lazily(model, how, args):
    for m in (model.encoder.blocks if how == 'blocks' else [model]): m.compile(backend='eager' if args.smoke else 'inductor')
    return model


def seconds_of(step, args): return alternate({'it': step}, args)['it'][0]


def random_images(n, side): return ImageSet(torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8), torch.arange(n) % 10)


def config(args, **kw):
    return FinetuneConfig('bench', dataset='digits', model_type=args.model, img_size=CONFIGS[args.model].img_size, device=DEVICE, bf16=True, optimizer='sgd', learning_rate=1e-3, **kw)


def learner(cfg, n=50_000, valid=2_500):
    "As `get_learner`, on random images in the sizes and numbers of CIFAR-10."
    splits = Splits(*(random_images(k, 32) for k in (n, valid, 4*valid)), [str(i) for i in range(10)])
    dls = make_dls(splits, cfg.img_size, cfg.train_batch_size, cfg.eval_batch_size, device=cfg.device, every=cfg.eval_every, total=cfg.num_steps, min_area=0.05,
                   micro_batches=cfg.gradient_accumulation_steps)
    return get_learner(cfg, dls)


def part_end2end(args):
    steps, every = (6, 3) if args.smoke else (7100, 100)
    cfg = config(args, num_steps=steps, eval_every=every, train_batch_size=args.batch, eval_batch_size=2*args.batch)
    n, v = (100, 20) if args.smoke else (50_000, 2_500)
    rows = []
    x, y = batch(args, args.batch)
    m = make('this', args.model).to(DEVICE)
    step = step_of(compiled(m, 'blocks', x, args), x, y)
    before = seconds_of(step, args)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        r = finetune(replace(cfg, output_dir=folder, compile=not args.smoke), progress=False, learner=lambda c: learner(c, n, v))
        whole = time.perf_counter() - start
    synthetic = statistics.mean([before, seconds_of(step, args)])            # before and after: a GPU gets warm
    rows = [dict(what='steps on synthetic images', seconds=synthetic*steps, images_per_second=args.batch/synthetic, share=1.),
            dict(what='training, with input, augmentation and logging', seconds=r.ms_per_step*steps/1e3, images_per_second=r.images_per_second, share=r.images_per_second*synthetic/args.batch),
            dict(what='and evaluation and saving', seconds=r.seconds, images_per_second=steps*args.batch/r.seconds, share=synthetic*steps/r.seconds),
            dict(what='and compiling and reading', seconds=whole, images_per_second=steps*args.batch/whole, share=synthetic*steps/whole)]
    return dict(batch=args.batch, images=steps*args.batch, eval_every=every, rows=rows, mfu=r.mfu, input_share=r.input_share, peak_memory=r.peak_memory, compiled=r.compiled)


class Homework(torch.utils.data.Dataset):
    "Images as PIL files, transformed one at a time."
    def __init__(self, data, side):
        from torchvision import transforms as T
        self.images, self.labels = [T.functional.to_pil_image(i) for i in data.images], data.labels.tolist()
        self.tf = T.Compose([T.RandomResizedCrop(side, (0.05, 1.)), T.ToTensor(), T.Normalize([.5]*3, [.5]*3)])
    def __len__(self): return len(self.labels)
    def __getitem__(self, i): return self.tf(self.images[i]), self.labels[i]


def part_homework(args):
    steps, n = (3, 60) if args.smoke else (100, 10_000)
    data, side = random_images(n, 32), CONFIGS[args.model].img_size
    loader = torch.utils.data.DataLoader(Homework(data, side), args.batch, shuffle=True, num_workers=0 if args.smoke else 4, pin_memory=GPU, drop_last=True)
    def endless():
        while True: yield from loader
    stream, m = iter(endless()), make('timm', args.model).to(DEVICE).train()
    opt = torch.optim.SGD(m.parameters(), 3e-2, momentum=0.9)
    def theirs():
        x, y = (t.to(DEVICE) for t in next(stream))
        loss = F.cross_entropy(m(x), y); loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.); opt.step(); opt.zero_grad()
        loss.item()                                              # its progress bar reads the loss in every step
    ours_model = make('this', args.model).to(DEVICE).train()
    loader2 = TrainBatches(data, args.batch, side, ['a'] * 10).to(DEVICE)
    x, _ = loader2.batch(0)
    ours_model = compiled(ours_model, 'blocks', x, args); at = [0]
    opt2 = make_optimizer(ours_model, 'sgd', 3e-2)
    def ours():
        x, y = loader2.batch(at[0]); at[0] += 1
        with torch.autocast(DEVICE, dtype=BF16): loss = F.cross_entropy(ours_model(x), y)
        loss.backward(); torch.nn.utils.clip_grad_norm_(ours_model.parameters(), 1.); opt2.step(); opt2.zero_grad()
    args.steps = steps
    t = alternate({"the homework's way": theirs, 'ours': ours}, args)
    base = t["the homework's way"][0]
    return dict(batch=args.batch, workers=loader.num_workers, rows=[dict(what=k, ms=1e3*v, spread_ms=1e3*s, images_per_second=args.batch/v, ratio=base/v) for k, (v, s) in t.items()])


def part_waits(args):
    from fastai.callback.core import Callback
    rows = []
    class Count(Callback):
        order = -100
        def before_train(self):
            self.caught = warnings.catch_warnings(record=True); self.seen = self.caught.__enter__(); warnings.simplefilter('always')
            if GPU: torch.cuda.set_sync_debug_mode('warn')
        def after_train(self):
            if GPU: torch.cuda.set_sync_debug_mode('default')
            self.caught.__exit__(None, None, None)
            found.append([str(w.message).splitlines()[0] + f' ({Path(w.filename).name}:{w.lineno})' for w in self.seen if 'synchroniz' in str(w.message)])
    for name, kw in (('bfloat16', dict(bf16=True)), ('float32', dict(bf16=False)), ('float16', dict(bf16=False, fp16=True))):
        found = []
        cfg = replace(config(args, num_steps=40, eval_every=20, train_batch_size=8), output_dir='-', compile=False, **kw)
        with tempfile.TemporaryDirectory() as folder:
            finetune(replace(cfg, output_dir=folder), progress=False, learner=lambda c: learner(c, 100, 20).add_cb(Count()))
        last = found[-1]                                          # the second pass: all is warm
        rows.append(dict(precision=name, waits_in_20_steps=len(last), where='; '.join(sorted(set(last)))))
    return dict(rows=rows)


def part_layout(args):
    rows, (x, y) = [], batch(args, args.batch)
    jobs = {}
    for name, fmt in (('contiguous', torch.contiguous_format), ('channels last', torch.channels_last)):
        m = make('this', args.model).to(DEVICE, memory_format=fmt)
        jobs[f'step, {name}'] = step_of(m, x.contiguous(memory_format=fmt), y)
    side = CONFIGS[args.model].img_size
    for stored in (32, side*5//4):
        data = random_images(max(args.batch, 256), stored)
        here, there = (TrainBatches(data, args.batch, side, ['a'] * 10).to(DEVICE) for _ in range(2))
        there.dataset = data                                      # as if it were too large
        for name, dl in (('on the device', here), ('streamed', there)): jobs[f'input from {stored} pixels, {name}'] = lambda dl=dl: dl.batch(3)
    for k, (t, s) in alternate(jobs, args).items(): rows.append(dict(what=k, ms=1e3*t, spread_ms=1e3*s, images_per_second=args.batch/t))
    return dict(batch=args.batch, rows=rows)


def part_memory(args):
    rows = []
    for n in ((2,) if args.smoke else (64, 256, 512)):
        for recompute in (False, True):
            m = make('this', args.model).to(DEVICE); m.encoder.checkpointing = recompute
            x, y = batch(args, n)
            step = step_of(m, x, y); step()
            if GPU: torch.cuda.reset_peak_memory_stats()
            t = seconds(step, args.steps)
            rows.append(dict(batch=n, recompute=recompute, ms=1e3*t, peak_bytes=peak_memory(DEVICE)))
            del m, step
    return dict(rows=rows)


def part_attention(args):
    if importlib.util.find_spec('vit_course.attention_maps') is None: return dict(rows=[dict(what='vit_course.attention_maps is not there')])
    from vit_course.attention_maps import attention_maps
    m, (x, _) = make('this', args.model).to(DEVICE).eval(), batch(args, min(args.batch, 16))
    def plain():
        with torch.no_grad(): m(x)
    t = alternate({'forward': plain, 'forward and all maps': lambda: attention_maps(m, x)}, args)
    return dict(batch=len(x), rows=[dict(what=k, ms=1e3*v, spread_ms=1e3*s, ratio=v/t['forward'][0]) for k, (v, s) in t.items()])


PARTS = {k[5:]: v for k, v in globals().items() if k.startswith('part_')}

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--part', choices=PARTS, required=True); p.add_argument('--out', default=str(ROOT/'report'/'results')); p.add_argument('--batch', type=int)
    p.add_argument('--repeat', type=int, default=5); p.add_argument('--steps', type=int, default=20, help='calls in one repetition'); p.add_argument('--model', default='ViT-B_16')
    p.add_argument('--smoke', action='store_true')
    args = p.parse_args()
    suffix = f'_{args.batch}' if args.batch and args.part in ('train', 'infer', 'compile') else ''
    if args.smoke: args.model, args.repeat, args.steps, args.batch = 'testing', 1, 1, args.batch or 4
    args.batch = args.batch or 64
    if not GPU and not args.smoke: raise SystemExit('gpu.py: there is no CUDA device here; --smoke runs the code without one')
    start = time.perf_counter()
    result = PARTS[args.part](args)
    print(f"{args.part}: {args.model}, {torch.cuda.get_device_name() if GPU else 'CPU'}, {time.perf_counter() - start:.0f} s" + (' (smoke test: the numbers mean nothing)' if args.smoke else ''))
    table(result['rows'])
    Path(args.out).mkdir(parents=True, exist_ok=True)
    write_result(Path(args.out)/f'gpu_{args.part}{suffix}.json', model=args.model, smoke=args.smoke, steps_in_a_repetition=args.steps, repetitions=args.repeat, **result)
