"""What an import and a `--help` cost: `python benchmarks/import_time.py` prints medians of alternating runs in fresh processes,
imports beside `import torch`, commands beside `python -c pass`. `N` as an argument: so many rounds."""
import statistics, subprocess, sys, time

from common import ROOT, table
from vit_course.tools.commands import COMMANDS

MODULES = 'torch', 'vit_course.vit', 'vit_course.tools.commands', 'vit_course.data', 'vit_course.finetune', 'timm'


def medians(commands, rounds):
    "{name: (median, spread)} of the seconds that each process takes; the first round fills the disk cache."
    times = {name: [] for name in commands}
    for i in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True)
            if i: times[name].append(time.perf_counter() - start)
    return {name: (statistics.median(t), max(t) - min(t)) for name, t in times.items()}


def rows(what, found, base):
    return [{what: name, 'seconds': s, 'spread': spread, 'ratio': s/found[base][0]} for name, (s, spread) in found.items()]


if __name__ == '__main__':
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    table(rows('module', medians({m: ['-c', f'import {m}'] for m in MODULES}, n), 'torch'))
    helps = {'python -c pass': ['-c', 'pass']} | {f'{c} --help': ['-m', 'vit_course', c, '--help'] for c in COMMANDS}
    helps['vit_train --nme'] = ['-m', 'vit_course', 'vit_train', '--nme']
    print()
    table(rows('command', medians(helps, n), 'python -c pass'))
