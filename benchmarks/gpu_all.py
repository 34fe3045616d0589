"""Everything that waits for a GPU, in three calls of less than ten minutes each: `python benchmarks/gpu_all.py CALL --weights FILE --data_dir DIR --out DIR`.

    1   speed: the parts of gpu.py, one after the other, with nothing beside them
    2   vit-tiny-4-cifar10 from fresh weights, and beside it the studies of chapter 8 with three seeds and 4,000 steps, until the time is over
    3   DINOv2's ViT-S/14 fine-tuned with two recipes, in three precisions, from fresh weights, and with a linear head

DIR of the data has CIFAR-10 as images, train/<class>/ and test/<class>/. Results are written as they come; what the time does not suffice for is named
at the end, and `--only NAME...` makes it in another call. `--smoke` runs a small one of everything on whatever there is."""
import argparse, os, shutil, signal, subprocess, sys, threading, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPEED = ['rate', 'train', 'end2end', 'homework', 'train --batch 256', 'infer --batch 256', 'compile', 'attention', 'layout', 'memory', 'waits']
STUDIES = ['patch_size', 'pos_embed', 'shape', 'cnn', 'regularisation']
PRETRAINED = ['course', 'homework', 'linear', 'precision', 'scratch']


def lanes(args):
    "{call: lists of (name, command)}; the lists of a call run at the same time, the commands of a list one after the other."
    data = ['--data_dir', args.data_dir, '--data_name', args.data_name]
    smoke, out = ['--smoke']*args.smoke, ['--out', args.out]
    few = ['--size', 'tiny'] if args.smoke else ['--size', 'gpu', '--num_steps', '4000', '--seeds', '3', '--jobs', '6', '--dataset', 'folder', '--data_dir', args.data_dir]
    tiny = (['--num_steps', '4', '--eval_every', '2', '--train_batch_size', '8', '--device', 'cpu'] if args.smoke else
            ['--minutes', '8.3', '--train_batch_size', '512', '--cutmix', '1', '--trivial_augment', '32', '--min_area', '0.5', '--drop_path', '0.1', '--weight_decay', '0.1'])
    return {1: [[(f'gpu {part}', ['gpu.py', '--part', *part.split(), *smoke, *out]) for part in SPEED]],
            2: [[('tiny', ['tiny.py', *tiny, *data, *out, '--output_dir', f'{args.out}/tiny'])],
                [(f'study {s}', ['studies.py', s, '--output_dir', f'{args.out}/studies', *out, *few]) for s in STUDIES]],
            3: [[(f'pretrained {part}', ['pretrained.py', '--part', part, '--weights', args.weights, '--what', args.what, *([] if args.smoke else data), *smoke, *out])
                 for part in PRETRAINED]]}


def run(lane, end, args, missing):
    for name, command in lane:
        if args.only and name not in args.only: continue
        left, start = end - time.monotonic(), time.monotonic()
        with open(f"{args.out}/{name.replace(' ', '_')}.log", 'w') as log:
            job = subprocess.Popen([sys.executable, str(HERE/command[0]), *command[1:]], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            try: status = job.wait(max(left, 1))
            except subprocess.TimeoutExpired: os.killpg(job.pid, signal.SIGKILL); job.wait(); status = 'no time left'       # with the processes that it has started
        print(f'{name}: {time.monotonic() - start:.0f} s' + (f', {status}' if status else ''), flush=True)
        if status: missing.append(name)


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('call', type=int, choices=(1, 2, 3)); p.add_argument('--weights', required=True); p.add_argument('--what', default='DINOv2-S', help='how to call the weights')
p.add_argument('--data_dir', required=True); p.add_argument('--data_name', default='CIFAR-10'); p.add_argument('--out', required=True); p.add_argument('--seconds', type=float, default=570)
p.add_argument('--only', nargs='+', metavar='NAME'); p.add_argument('--smoke', action='store_true')
args = p.parse_args()
Path(args.out).mkdir(parents=True, exist_ok=True)
missing, end = [], time.monotonic() + args.seconds
threads = [threading.Thread(target=run, args=(lane, end, args, missing)) for lane in lanes(args)[args.call]]
for t in threads: t.start()
for t in threads: t.join()
if missing: print('not done:', ', '.join(repr(m) for m in missing), '(what they have is kept: the same command goes on)'); sys.exit(1)
for folder in ('tiny', 'studies'): shutil.rmtree(f'{args.out}/{folder}', ignore_errors=True)      # runs of many files; what counts is in the JSON
