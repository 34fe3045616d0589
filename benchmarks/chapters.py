"""How long each notebook takes: `python benchmarks/chapters.py` runs them one after the other and writes report/results/chapters.json.
`--out FILE` writes elsewhere, `NAME...` measures only these and keeps the others of the file."""
import argparse, json, subprocess, sys, time
from pathlib import Path

from common import ROOT, write_result

p = argparse.ArgumentParser(description=__doc__)
p.add_argument('names', nargs='*'); p.add_argument('--out', default=ROOT/'report'/'results'/'chapters.json')
args = p.parse_args()
out = Path(args.out)
seconds = json.loads(out.read_text(encoding='utf-8'))['seconds'] if args.names and out.exists() else {}
for path in sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts):
    if path.stem == 'index' or args.names and path.stem not in args.names: continue
    start = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name('nbdev_test'), '--path', path, '--n_workers', '1'], check=True, cwd=ROOT, capture_output=True)
    seconds[path.stem] = round(time.perf_counter() - start, 1)
    print(f'{path.stem:20s} {seconds[path.stem]:6.1f} s', flush=True)
write_result(out, seconds=dict(sorted(seconds.items())))
