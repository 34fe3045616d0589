"""Killed with SIGKILL, at random and at the worst moments, and resumed with the same command: on a CPU the run ends bit for bit like one that was left alone.
The tables that the tests print (`pytest -s`) count the kills."""
import io, os, pkgutil, random, time
from pathlib import Path

import pytest, torch
from runs import FULL, STEPS, die, needs_fork, remains, same, watch

pytestmark = needs_fork
SETTINGS = {
    'sgd': ['--optimizer', 'sgd', '--learning_rate', 0.05],
    'sgd, accumulated': ['--optimizer', 'sgd', '--learning_rate', 0.05, '--gradient_accumulation_steps', 3],
    'adamw': [],
    'adamw, accumulated': ['--gradient_accumulation_steps', 2],
    'adamw, bf16': ['--bf16'],
    'sgd, accumulated, bf16': ['--optimizer', 'sgd', '--learning_rate', 0.05, '--gradient_accumulation_steps', 2, '--bf16'],
}


def at_call(target, nth, after=False):
    "Die in the nth call of a function, before it does anything, or when it has done its work."
    where, name = target.rsplit('.', 1)
    owner, calls = pkgutil.resolve_name(where), []
    original = getattr(owner, name)
    def counted(*args, **kw):
        calls.append(1)
        if len(calls) == nth and not after: die()
        result = original(*args, **kw)
        if len(calls) == nth: die()
        return result
    setattr(owner, name, counted)


def in_a_state(nth):
    "Die with half of a state on the disk."
    save, calls = torch.save, []
    def half(state, f):
        calls.append(1)
        if len(calls) < nth: return save(state, f)
        whole = io.BytesIO(); save(state, whole)
        f.write(whole.getvalue()[:len(whole.getvalue())//2]); f.flush(); die()
    torch.save = half


def in_a_line(nth):
    "Die with half a line in metrics.csv."
    from vit_course.tools.run_folder import RunFolderCallback
    write, calls = RunFolderCallback.write, []
    def half(self, row):
        calls.append(1)
        if len(calls) < nth: return write(self, row)
        with open(self.folder.table, 'a') as f: f.write(f"{row['step']},{row['images']},2.3")
        die()
    RunFolderCallback.write = half


def in_a_pass(images):
    "Die while the validation images (143) or the test images (359) are looked at."
    from vit_course.data import Batches
    prepare = Batches.prepare
    Batches.prepare = lambda self, *a: die() if len(self.dataset) == images else prepare(self, *a)


def at_place(name, after=False):
    "Die when a file is about to be put in its place, or when it has been."
    replace = os.replace
    def put(a, b):
        if Path(b).name != name: return replace(a, b)
        if after: replace(a, b)
        die()
    os.replace = put


def at_random(seconds):
    import threading
    timer = threading.Timer(seconds, die); timer.daemon = True; timer.start()


RUN, TRAIN = 'vit_course.tools.run_folder.RunFolderCallback', 'vit_course.tools.train'
MOMENTS = {                                                   # in this order, in one run; * in the quick form, too
    'making the folder': (at_call, 'pathlib.Path.mkdir', 1),
    'before config.json is in its place': (at_place, 'config.json'),
    'after config.json is in its place': (at_place, 'config.json', True),
    'first backward pass': (at_call, 'torch.Tensor.backward', 1),
    'first validation': (in_a_pass, 143),
    'half a first line *': (in_a_line, 1),
    'line without TensorBoard': (at_call, 'torch.utils.tensorboard.SummaryWriter.add_scalar', 1),
    'TensorBoard without a state': (at_call, f'{RUN}.save', 1),
    'best not in its place': (at_call, 'vit_course.checkpoints.save_file', 1, True),
    'best without a state': (at_place, 'best.safetensors', True),
    'half of a first state *': (in_a_state, 1),
    'first state not flushed': (at_call, 'os.fsync', 4),      # config, best twice, state
    'first state in its place *': (at_place, 'state.pt', True),
    'building the model': (at_call, 'vit_course.finetune.create_vit', 1),
    'reading the state': (at_call, 'torch.load', 1),
    'state taken up in part *': (at_call, 'torch.optim.Optimizer.load_state_dict', 1),
    'dropping lines': (at_place, 'metrics.csv'),
    'an optimizer step': (at_call, 'vit_course.callbacks.StepParamScheduler.before_step', 4),
    'half a line': (in_a_line, 2),
    'half of a state *': (in_a_state, 2),
    'the last state moved, the new one not *': (at_place, 'previous.pt', True),
    'the new state in its place': (at_place, 'state.pt', True),
    'validation *': (in_a_pass, 143),
    'end of training': (at_call, f'{TRAIN}._finish', 1),
    'loading the best': (at_call, f'{TRAIN}.load_weights', 1),
    'test *': (in_a_pass, 359),
    'before result.json is in its place *': (at_place, 'result.json'),
}


def go(tmp_path, name, settings, *hook): return watch(tmp_path, name, *STEPS, *SETTINGS[settings], hook=hook).end()


@pytest.mark.parametrize('settings', list(SETTINGS) if FULL else ['adamw, accumulated'])
def test_27_worst_moments(tmp_path, settings):
    assert go(tmp_path, 'whole', settings)[0] == 0
    moments = {k: v for k, v in MOMENTS.items() if FULL or '*' in k}
    for moment, hook in moments.items():
        status, out, err = go(tmp_path, 'killed', settings, *hook)
        assert status == -9, f'{moment}: it was not killed there: {status} {out} {err}'
    status, out, err = go(tmp_path, 'killed', settings)
    assert status == 0 and 'damaged' not in err, err
    same(remains(tmp_path, 'whole'), remains(tmp_path, 'killed'))
    print(f'\n{settings}: killed {len(moments)} times at the worst moments, ended as if nothing had happened')


@pytest.mark.parametrize('settings', list(SETTINGS) if FULL else ['sgd, accumulated, bf16'])
def test_20_random_moments(tmp_path, settings):
    start = time.perf_counter()
    assert go(tmp_path, 'whole', settings)[0] == 0
    seconds, whole, rng, kills, runs = time.perf_counter() - start, remains(tmp_path, 'whole'), random.Random(settings), 0, 0
    while kills < (most := 20 if FULL else 5):
        status, here = -9, 0
        while status == -9:                                  # after a while, the run may come to its end: on a busy machine none of its parts has the time
            hook = (at_random, rng.uniform(0.1, seconds)) if here < most else ()
            status, out, err = go(tmp_path, f'killed{runs}', settings, *hook)
            assert status in (0, -9), err
            here += status == -9
        kills, runs = kills + here, runs + 1
        same(whole, remains(tmp_path, f'killed{runs - 1}'))
    print(f'\n{settings}: killed {kills} times at random moments of {runs} runs, all ended as if nothing had happened')
