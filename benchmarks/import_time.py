"""What `import vit_course.vit` costs beside `import torch`: medians of alternating runs in fresh processes, printed side by side."""
import statistics, subprocess, sys, time

from common import ROOT, table

modules = ['torch', 'vit_course.vit', 'vit_course.tools.doctor', 'vit_course.data', 'vit_course.finetune', 'timm']
n = int(sys.argv[1]) if len(sys.argv) > 1 else 7
times = {m: [] for m in modules}
for i in range(n + 1):
    for m in modules:
        start = time.perf_counter()
        subprocess.run([sys.executable, '-c', f'import {m}'], cwd=ROOT, check=True, capture_output=True)
        if i: times[m].append(time.perf_counter() - start)      # the first round fills the disk cache
base = statistics.median(times['torch'])
table([dict(module=m, seconds=statistics.median(t), spread=max(t) - min(t), ratio=statistics.median(t)/base) for m, t in times.items()])
