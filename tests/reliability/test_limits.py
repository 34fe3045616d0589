"Long runs and large studies: memory stays flat, and every trial is made exactly once."
import json, os, re
from collections import Counter
from pathlib import Path

import pytest
from runs import FULL, Run, forks, needs_fork

pytestmark = needs_fork
psutil = pytest.importorskip('psutil')
MiB = 2**20


def resident(): return psutil.Process().memory_info().rss


def weigh(path):
    "Write the memory of the process down, every tenth step."
    from vit_course.tools.run_folder import RunGuard
    look = RunGuard.look
    def looking(self, done):
        with open(path, 'a') as f: f.write(f'{resident()}\n')
        look(self, done)
    RunGuard.look = looking


def growth(numbers):
    "How much more there is at the end than in the middle: the medians of the last tenth, and of the tenth before the middle."
    n = max(len(numbers)//10, 1)
    def median(v): return sorted(v)[len(v)//2]
    return median(numbers[-n:]) - median(numbers[len(numbers)//2 - n:len(numbers)//2])


def test_soak(tmp_path):
    steps = 2000 if FULL else 300
    status, out, err = Run(tmp_path, '--name', 'long', '--num_steps', steps, '--eval_every', 25, '--train_batch_size', 32, hook=weigh, args=(tmp_path/'memory',)).end(900)
    assert status == 0, err
    memory = [int(v) for v in (tmp_path/'memory').read_text().split()]
    print(f'\n{steps} steps: {memory[0]/MiB:.0f} MiB at first, {memory[len(memory)//2]/MiB:.0f} in the middle, {memory[-1]/MiB:.0f} at the end; the second half grew by {growth(memory)/MiB:.1f} MiB')
    assert len(memory) >= steps//10 and growth(memory) < 8*MiB


def study(folder, n, said):
    import torch
    from vit_course.tools import throughput
    from vit_course.experiments import run_sweep
    os.chdir(folder); torch.set_num_threads(1)
    throughput.peak_flops = lambda *a: 1e10
    with open(said, 'w') as f:
        def show(line, **kw): print(resident(), line, file=f, flush=True)
        run_sweep('many', dict(learning_rate=[1e-4 * (i + 1) for i in range(n)]), seeds=1, show=show,
                  base=dict(model_type='testing', img_size=8, set=dict(patch_size=4, depth=1), num_steps=2, eval_every=2, train_batch_size=4, eval_batch_size=512, device='cpu'))


def test_many_trials(tmp_path):
    pytest.importorskip('optuna')
    from vit_course.tools.sweep import TrialQueue, open_storage
    n = 200 if FULL else 20
    p = forks.Process(target=study, args=(tmp_path, n, tmp_path/'said')); p.start(); p.join(1500)
    assert p.exitcode == 0
    trials = TrialQueue('many', open_storage(f"sqlite:///{tmp_path/'output'/'many'/'study.db'}")).trials()
    assert Counter(t.state.name for t in trials) == {'COMPLETE': n} and len({t.user_attrs['run'] for t in trials}) == n
    assert len(list((tmp_path/'output'/'many').glob('*/result.json'))) == n
    lines = (tmp_path/'said').read_text().splitlines()
    memory = [int(line.split()[0]) for line in lines]
    assert [int(re.search(r'\[ *(\d+)/', line)[1]) for line in lines] == list(range(1, n + 1))
    print(f'\n{n} trials, each once: {memory[0]/MiB:.0f} MiB after the first, {memory[-1]/MiB:.0f} after the last; the second half grew by {growth(memory)/MiB:.1f} MiB')
    assert growth(memory) < (24 if FULL else 8)*MiB


def test_two_who_draw_the_same_point(tmp_path):
    "A worker that is slow to write down what it has drawn, while another draws the same point and begins: one run, not two."
    pytest.importorskip('optuna')
    from vit_course.tools.sweep import TrialQueue, open_storage
    slow, fast = (TrialQueue('race', open_storage(f"sqlite:///{tmp_path/'race.db'}"), space=dict(depth=[3]), n=2) for _ in range(2))
    note, claims = slow.note, []
    def late(id, **attrs):
        if 'run' in attrs and not claims: claims.append(fast.claim())
        note(id, **attrs)
    slow.note = late
    claims.append(slow.claim())
    assert claims[0].settings == dict(depth=3) and claims[1] is None
    fast.finish(claims[0], 0.5)
    assert slow.claim() is None and slow.counts() == (1, 1, 0)
