"""The demo over five seeds: `python benchmarks/digits.py` writes report/results/digits.json, which README quotes."""
import json, shutil, subprocess, sys, tempfile
from pathlib import Path

from common import ROOT, write_result

out, runs, command = tempfile.mkdtemp(), [], 'vit_train --name demo --seed N'
for seed in (1, 2, 3, 4, 42):
    subprocess.run([sys.executable, '-m', 'vit_course.finetune', '--name', f'demo{seed}', '--seed', str(seed), '--output_dir', out], check=True, cwd=ROOT)
    r = json.loads((Path(out)/f'demo{seed}'/'result.json').read_text(encoding='utf-8'))
    runs.append(dict(seed=seed) | {k: r[k] for k in ('test_accuracy', 'valid_accuracy', 'test_loss', 'seconds', 'images_per_second', 'steps')})
shutil.rmtree(out)
write_result(ROOT/'report'/'results'/'digits.json', command_line=command, test_images=359, runs=runs)
