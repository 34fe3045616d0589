"""Seconds and peak memory of loading ViT-B/16 from one of Google's files, beside timm's `load_pretrained`: alternating runs in fresh processes.

The file is made for the purpose, 346 MB of random numbers under the real names. Seconds are those of loading into a model that exists; the peak is
what the process grows by from before the model is made, over the size of the file (Linux only). timm checks neither numbers nor checksums twice."""
import json, re, statistics, subprocess, sys, tempfile
from pathlib import Path

from common import ROOT, device, table

RUN = r"""
import json, re, sys, time, torch
def peak():
    try: return 1024*int(re.search(r'VmHWM:\s*(\d+) kB', open('/proc/self/status').read())[1])
    except OSError: return 0
who, path = sys.argv[1:]
if who.startswith('timm'): import timm
from vit_course.checkpoints import load_checkpoint
from vit_course.vit import create_vit
torch.ones(2**20).aminmax()
before = peak()
start = time.perf_counter()
if who.startswith('timm'): model = timm.create_model('vit_base_patch16_224')
elif 'None' not in who: model = create_vit('ViT-B_16')
else: model = None
made = time.perf_counter()
if who.startswith('timm'): model.load_pretrained(path)
else: load_checkpoint(model, path)
print(json.dumps(dict(make=made - start, load=time.perf_counter() - made, peak=peak() - before)))
"""

n = int(sys.argv[1]) if len(sys.argv) > 1 else 5
who = ['timm load_pretrained', 'load_checkpoint(model, file)', 'load_checkpoint(None, file)']
with tempfile.TemporaryDirectory() as folder:
    sys.path[:0] = [str(ROOT), str(ROOT/'tests')]
    from reference import google_arrays
    from vit_course.checkpoints import load_npz, save_npz
    from vit_course.vit import create_vit
    import numpy as np
    path = Path(folder)/'ViT-B_16-224.npz'
    np.savez(path, **google_arrays())
    save_npz(load_npz(create_vit('ViT-B_16'), path).model, path)   # as large as the real one, to the byte
    size, runs = path.stat().st_size, {w: [] for w in who}
    for i in range(n + 1):
        for w in who:
            p = subprocess.run([sys.executable, '-c', RUN, w, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
            if i: runs[w].append(json.loads(p.stdout.splitlines()[-1]))     # the first round fills the disk cache
middle = {w: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for w, rs in runs.items()}
base = middle[who[0]]
print(f'{size:,} bytes, medians of {n} runs each, {device()}')
table([{'loader': w, 'make s': m['make'], 'load s': m['load'], 'load / timm': m['load']/base['load'], 'both / timm': (m['make'] + m['load'])/(base['make'] + base['load']),
        'peak / file': m['peak']/size} for w, m in middle.items()])
