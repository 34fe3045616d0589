"""A disk that is full, read-only or over its quota, a folder that goes away, a clock that runs backwards, a state that is damaged, two runs on one name:
one clear line, nothing half-written, what was saved before is still good, and going on afterwards ends like a run that nothing happened to."""
import contextlib, os, random, re, shutil, subprocess, sys, time
from pathlib import Path

import pytest
from conftest import wait_for
from runs import FULL, STEPS, die, needs_fork, remains, same, watch

pytestmark = needs_fork


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "What a run leaves that nothing happens to."
    folder = tmp_path_factory.mktemp('whole')
    assert watch(folder, 'whole', *STEPS).end()[0] == 0
    return remains(folder, 'whole')


def is_one_line(said, words, status=2):
    code, out, err = said
    lines = [l for l in err.splitlines() if not l.startswith('note: ')]
    assert code == status and len(lines) == 1 and lines[0].startswith('vit_train: ') and re.search(words, lines[0]), said


@contextlib.contextmanager
def disk(folder, options):
    "A disk in memory. Gives a function that changes its options."
    def mount(options, *more): return subprocess.run(['mount', '-t', 'tmpfs', *more, '-o', options, 'tmpfs', str(folder)], capture_output=True, text=True)
    folder.mkdir()
    if not shutil.which('mount') or mount(options).returncode: pytest.skip('mounting a small disk is not allowed here')
    try: yield lambda options: mount(f'remount,{options}').check_returncode()
    finally: subprocess.run(['umount', '-l', str(folder)], check=True)


def test_full_disks(tmp_path, whole):
    sizes = [f'size={4*n}k' for n in ((1, 2, 3, 4, 5, 20, 29, 31, 60, 110, 112, 113, 140, 160, 195, 200, 220, 240) if FULL else (1, 30, 110, 220))] + ['nr_inodes=5', 'nr_inodes=8'] * FULL
    for i, size in enumerate(sizes):
        with disk(tmp_path/f'disk{i}', size) as change:
            at = ['--output_dir', tmp_path/f'disk{i}']
            is_one_line(watch(tmp_path, f'full{i}', *STEPS, *at).end(), 'No space left on device.*--resume')
            assert not [p for p in (tmp_path/f'disk{i}').rglob('*.tmp')]
            change('size=8m,nr_inodes=1000')
            assert watch(tmp_path, f'full{i}', *STEPS, *at).end()[0] == 0
            same(whole, remains(tmp_path, f'full{i}', f'disk{i}'))
    print(f'\n{len(sizes)} full disks, {len(sizes)} runs went on when there was room')


def test_read_only_disk(tmp_path, whole):
    with disk(tmp_path/'disk', 'size=8m') as change:
        at = ['--output_dir', tmp_path/'disk']
        assert watch(tmp_path, 'before', *STEPS, *at, hook=(stop_after, 3)).end()[0] == 130
        change('ro')
        is_one_line(watch(tmp_path, 'new', *STEPS, *at).end(), 'Read-only file system')
        is_one_line(watch(tmp_path, 'before', *STEPS, *at).end(), 'Read-only file system')
        change('rw')
        assert watch(tmp_path, 'before', *STEPS, *at).end()[0] == 0
        same(whole, remains(tmp_path, 'before', 'disk'))


def stop_after(lines):
    "What Ctrl-C does, after so many evaluations."
    from vit_course.tools.run_folder import RunFolderCallback
    write, calls = RunFolderCallback.write, []
    def stopping(self, row):
        write(self, row); calls.append(1)
        if len(calls) == lines: self.learn.run_guard.stop = True
    RunFolderCallback.write = stopping


def quota(size):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_quota(tmp_path, whole):
    for size in (500, 1000, 50_000, 200_000) if FULL else (500, 200_000):
        is_one_line(watch(tmp_path, f'q{size}', *STEPS, hook=(quota, size)).end(), 'File too large')
        assert not list((tmp_path/'output').rglob('*.tmp'))
        assert watch(tmp_path, f'q{size}', *STEPS).end()[0] == 0
        same(whole, remains(tmp_path, f'q{size}'))


def clock(days):
    import time
    now = time.time
    time.time = lambda: now() + 86400 * days


def test_clock_set_back(tmp_path, whole):
    assert watch(tmp_path, 'past', *STEPS, hook=(stop_after, 3)).end()[0] == 130
    assert watch(tmp_path, 'past', *STEPS, hook=(clock, -3)).end()[0] == 0
    same(whole, remains(tmp_path, 'past'))


def remove(what, line):
    "Take something away just before the nth line is written."
    from vit_course.tools.run_folder import RunFolderCallback
    write, calls = RunFolderCallback.write, []
    def removing(self, row):
        calls.append(1)
        if len(calls) == line:
            p = self.folder.path/what
            shutil.rmtree(p) if p.is_dir() else p.unlink()
        write(self, row)
    RunFolderCallback.write = removing


GONE = {'.': 'No such file', '..': 'No such file', 'last': None, 'metrics.csv': None, 'config.json': None}


@pytest.mark.parametrize('what', GONE)
def test_something_goes_away_under_the_run(tmp_path, whole, what):
    said = watch(tmp_path, 'gone', *STEPS, hook=(remove, what, 6)).end()
    if GONE[what]: is_one_line(said, GONE[what])
    else: assert said[0] == 0, said
    if GONE[what]:
        assert watch(tmp_path, 'gone', *STEPS).end()[0] == 0
        same(whole, remains(tmp_path, 'gone'))


def test_two_runs_on_one_name(tmp_path, whole):
    for i in range(8 if FULL else 1):
        both = [watch(tmp_path, f'new{i}', *STEPS, resume=False) for _ in range(2)]
        said = sorted(r.end() for r in both)
        assert said[0][0] == 0
        is_one_line(said[1], 'another process|exists')
        same(whole, remains(tmp_path, f'new{i}'))
    first = watch(tmp_path, 'old', *STEPS, hook=(slowly,))
    wait_for(tmp_path/'output'/'old'/'metrics.csv', 3, first)
    for resume, words in ((True, 'another process is training'), (False, 'exists')): is_one_line(watch(tmp_path, 'old', *STEPS, resume=resume).end(), words)
    assert first.end()[0] == 0
    same(whole, remains(tmp_path, 'old'))


def slowly():
    from vit_course.callbacks import StepParamScheduler
    step = StepParamScheduler.before_step
    StepParamScheduler.before_step = lambda self: (time.sleep(0.1), step(self))


def damage(path, how, rng):
    data = bytearray(path.read_bytes())
    if how == 'flipped': data[rng.randrange(len(data)//10, len(data)*8//10)] ^= 1 << rng.randrange(8)
    path.write_bytes({'cut': data[:rng.randrange(len(data))], 'empty': b'', 'zeros': bytes(len(data)), 'flipped': data}[how])


def test_damaged_states(tmp_path, whole):
    rng, tried = random.Random(1), 0
    assert watch(tmp_path, 'base', *STEPS, hook=(stop_after, 4)).end()[0] == 130
    for how in ['empty', 'zeros'] + ['cut', 'flipped'] * (9 if FULL else 1):
        name = f'{how}{tried}'
        shutil.copytree(tmp_path/'output'/'base', tmp_path/'output'/name); shutil.copy(tmp_path/'base.batches', tmp_path/f'{name}.batches')
        fix_name(tmp_path/'output'/name, name)
        damage(tmp_path/'output'/name/'last'/'state.pt', how, rng)
        said = watch(tmp_path, name, *STEPS).end()
        assert said[0] == 0 and 'state.pt is damaged' in said[2] and 'trying the one before' in said[2] and 'going on with' in said[1], said
        same(whole, remains(tmp_path, name))
        tried += 1
    print(f'\n{tried} damaged states, {tried} runs went on from the one before')


def fix_name(run, name):
    text = (run/'config.json').read_text()
    (run/'config.json').write_text(text.replace('"base"', f'"{name}"'))


def killed_after():
    "Die when the first state is in its place."
    from vit_course.tools.run_folder import RunFolderCallback
    save = RunFolderCallback.save
    RunFolderCallback.save = lambda self: (save(self), die())


def test_good_state_outlives_the_damaged_one(tmp_path):
    assert watch(tmp_path, 'a', *STEPS, hook=(stop_after, 4)).end()[0] == 130
    last = tmp_path/'output'/'a'/'last'
    good = (last/'previous.pt').read_bytes()
    damage(last/'state.pt', 'cut', random.Random(1))
    assert watch(tmp_path, 'a', *STEPS, hook=(killed_after,)).end()[0] == -9
    assert (last/'previous.pt').read_bytes() == good


def test_both_states_damaged(tmp_path, whole):
    assert watch(tmp_path, 'a', *STEPS, hook=(stop_after, 4)).end()[0] == 130
    for name in ('state.pt', 'previous.pt'): damage(tmp_path/'output'/'a'/'last'/name, 'cut', random.Random(1))
    said = watch(tmp_path, 'a', *STEPS).end()
    assert said[0] == 0 and 'beginning again' in said[2], said
    same(whole, remains(tmp_path, 'a'))
