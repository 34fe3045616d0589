"A run of `vit_train` in a process of its own, forked from one that has imported everything, so that it starts at once; and where it shall die."
import csv, json, multiprocessing, os, signal, sys, zlib
from pathlib import Path

import pytest

FULL = os.environ.get('VIT_COURSE_RELIABILITY') == 'full'     # CONTRIBUTING.md says what that is
STEPS = ['--num_steps', 60, '--eval_every', 10, '--train_batch_size', 8, '--set', 'drop=0.1', 'drop_path=0.1']
SMALL = ['--model_type', 'testing', '--device', 'cpu']
needs_fork = pytest.mark.skipif(sys.platform == 'win32', reason='needs SIGKILL and fork')
if sys.platform != 'win32':
    forks = multiprocessing.get_context('forkserver')
    forks.set_forkserver_preload(['vit_course.finetune', 'sklearn.datasets', 'torch.utils.tensorboard', 'psutil'])


def _child(argv, cwd, said, hook, args):
    import torch
    from vit_course.tools import throughput
    from vit_course.tools.commands import vit_train
    os.chdir(cwd)
    for fd, name in ((1, 'out'), (2, 'err')): os.dup2(os.open(f'{said}.{name}', os.O_CREAT | os.O_WRONLY | os.O_TRUNC), fd)
    torch.set_num_threads(1)
    throughput.peak_flops = lambda *a: 1e10             # a quarter of a second, for a figure that nobody reads here
    if hook: hook(*args)
    sys.exit(vit_train([str(a) for a in argv]))


class Run:
    "A run that has begun in the folder `cwd`. `hook(*args)` is called in its process first."
    def __init__(self, cwd, *argv, hook=None, args=()):
        self.said = Path(cwd)/f'.said-{len(list(Path(cwd).glob(".said-*.out")))}'
        self.process = forks.Process(target=_child, args=([*argv, *SMALL], cwd, self.said, hook, args))
        self.process.start()
    def end(self, seconds=300):
        "Wait for its end: (status, stdout, stderr). A negative status is a signal."
        self.process.join(seconds)
        assert self.process.exitcode is not None, 'it hangs'
        return self.process.exitcode, *(Path(f'{self.said}.{n}').read_text() for n in ('out', 'err'))
    def poll(self): return self.process.exitcode                  # as `wait_for` wants it


def die(*_): os.kill(os.getpid(), signal.SIGKILL)


def watched(log, hook=None, *args):
    "Write down what every batch was, then do `hook`."
    from vit_course.data import TrainBatches
    batch = TrainBatches.batch
    def noted(self, step):
        x, y = batch(self, step)
        with open(log, 'a') as f: f.write(f'{step} {zlib.crc32(x.numpy().tobytes(), zlib.crc32(y.numpy().tobytes()))}\n')
        return x, y
    TrainBatches.batch = noted
    if hook: hook(*args)


def watch(folder, name, *argv, hook=(), resume=True):
    "A run whose batches are written down, in this folder."
    return Run(folder, '--name', name, *argv, *['--resume'] * resume, hook=watched, args=(Path(folder)/f'{name}.batches', *hook))


def flat(x): return [v for k in x for v in flat(x[k] if isinstance(x, dict) else k)] if isinstance(x, (dict, list, tuple)) else [x]


def remains(folder, name, output='output'):
    "All that a run has left that does not depend on how fast it was."
    import torch
    from safetensors.torch import load_file
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    run = Path(folder)/output/name
    with open(run/'metrics.csv') as f: rows = [{k: v for k, v in r.items() if k not in ('seconds', 'images_per_second')} for r in csv.DictReader(f)]
    batches = [line.split() for line in (Path(folder)/f'{name}.batches').read_text().splitlines()]
    events = EventAccumulator(str(run)).Reload()
    for k in events.Tags()['scalars']:
        if k == 'images_per_second': continue
        assert [e.step for e in events.Scalars(k)] == [int(r['step']) for r in rows], f'TensorBoard and metrics.csv have other steps of {k}'
        assert [e.value for e in events.Scalars(k)] == pytest.approx([float(r[k]) for r in rows], rel=1e-5), k
    assert len(dict(batches)) == len({tuple(b) for b in batches}) == 60, 'a batch that was made twice was two different ones'
    assert not list(run.rglob('.*')), 'half a file'
    state, result = torch.load(run/'last'/'state.pt', weights_only=True), json.loads((run/'result.json').read_text())
    return dict(rows=rows, batches=dict(batches), result=[result[k] for k in ('test_accuracy', 'valid_accuracy', 'test_loss', 'steps')],
                state=flat([load_file(run/'best.safetensors'), {k: v for k, v in state.items() if k not in ('seconds', 'meter')}]))


def same(a, b):
    import torch
    for k in a:
        if k != 'state': assert a[k] == b[k], k
    assert len(a['state']) == len(b['state']) and all(torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in zip(a['state'], b['state']))
