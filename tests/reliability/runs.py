"A run of `vit_train` in a process of its own, forked from one that has imported everything, so that it starts at once; and where it shall die."
import multiprocessing, os, signal, sys
from pathlib import Path

import pytest

FULL = os.environ.get('VIT_COURSE_RELIABILITY') == 'full'     # CONTRIBUTING.md says what that is
SMALL = ['--model_type', 'testing', '--device', 'cpu']
needs_fork = pytest.mark.skipif(sys.platform == 'win32', reason='needs SIGKILL and fork')
if sys.platform != 'win32':
    forks = multiprocessing.get_context('forkserver')
    forks.set_forkserver_preload(['vit_course.finetune', 'sklearn.datasets', 'torch.utils.tensorboard', 'psutil'])


def _child(argv, cwd, said, hook, args):
    import torch
    import vit_course.finetune as ft
    os.chdir(cwd)
    for fd, name in ((1, 'out'), (2, 'err')): os.dup2(os.open(f'{said}.{name}', os.O_CREAT | os.O_WRONLY | os.O_TRUNC), fd)
    torch.set_num_threads(1)
    ft.matmul_rate = lambda *a: 1e10                    # a quarter of a second, for a figure that nobody reads here
    if hook: hook(*args)
    sys.exit(ft.vit_train([str(a) for a in argv]))


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
    def kill(self): self.process.kill()


def die(*_): os.kill(os.getpid(), signal.SIGKILL)
