"Warm-up, stable, decay: a run may be prolonged, or made to decay, while it is at the peak; and nothing else may change."
import json, shutil

import pytest, torch
from vit_course.finetune import FinetuneConfig, finetune, get_learner, lr_factor
from vit_course.tools.run_folder import Interrupted
from vit_course.tools.commands import vit_train
from vit_course.tools.config import ConfigError, decay_start
from vit_course.tools.run_folder import least_steps
from fastai.callback.core import Callback

SMALL = dict(model_type='testing', device='cpu', eval_every=10, train_batch_size=16, warmup_steps=4, decay_type='wsd',
             set=dict(drop=0.1))


class StopAt(Callback):
    order = 80
    def __init__(self, step): self.at = step
    def after_batch(self): self.learn.run_guard.stop |= self.training and self.dls.train.step + 2 == self.at


def run(path, name, stop=None, **kw):
    make = (lambda cfg: get_learner(cfg).add_cb(StopAt(stop))) if stop else get_learner
    cfg = FinetuneConfig(name, output_dir=path, **(SMALL | kw))
    if not stop: return finetune(cfg, progress=False, learner=make)
    with pytest.raises(Interrupted): finetune(cfg, progress=False, learner=make)


def model(path): return torch.load(path/'last'/'state.pt', weights_only=True)['model']
def config(path): return json.loads((path/'config.json').read_text())


@pytest.mark.parametrize('n', [1, 2, 3, 4, 5, 9, 10, 99, 100, 101, 5000])
def test_shape(n):
    rates = [lr_factor(t, n, 0, 'wsd') for t in range(n)]
    assert rates[0] == 1 and all(0 < r <= 1 for r in rates) and rates == sorted(rates, reverse=True)
    assert sum(r == 1 for r in rates) == decay_start(n) + (n >= 5)       # the decay begins with a step at the peak
    assert decay_start(least_steps(n)) == n and (n < 2 or decay_start(least_steps(n) - 1) < n)


def test_warmup_longer_than_the_stable_part():
    rates = [lr_factor(t, 10, 9, 'wsd') for t in range(10)]
    assert rates == [k/9 for k in range(1, 10)] + [1]


@pytest.mark.parametrize('first, then', [(100, 60), (60, 100)], ids=['shorter', 'longer'])
def test_another_length_is_the_same_run(tmp_path, first, then):
    "Stopped at the peak and ended at another length: bit for bit the run that had that length from the start."
    run(tmp_path, 'whole', num_steps=then)
    run(tmp_path, 'changed', stop=37, num_steps=first)
    result = run(tmp_path, 'changed', num_steps=then, resume=True)
    a, b = (model(tmp_path/n) for n in ('whole', 'changed'))
    for k in a: assert torch.equal(a[k], b[k]), k
    assert result.steps == then and config(tmp_path/'changed')['num_steps'] == then
    rows = [[line.split(',')[:6] for line in (tmp_path/n/'metrics.csv').read_text().splitlines()] for n in ('whole', 'changed')]
    assert [r[0] for r in rows[0][1:]] == [r[0] for r in rows[1][1:]] or first > then      # evaluated where the passes end
    assert rows[0][-1] == rows[1][-1]


def test_decay_now(tmp_path):
    "The least number of steps begins the decay with the next step; the error of a smaller one names it."
    run(tmp_path, 'a', stop=40, num_steps=1000)
    with pytest.raises(ConfigError, match='at least 49, which begins it now'): run(tmp_path, 'a', num_steps=48, resume=True)
    assert config(tmp_path/'a')['num_steps'] == 1000
    assert run(tmp_path, 'a', num_steps=49, resume=True).steps == 49


def test_not_after_the_decay_has_begun(tmp_path):
    run(tmp_path, 'a', num_steps=50)
    before = {p.name: p.read_bytes() for p in (tmp_path/'a').iterdir() if p.is_file()}
    with pytest.raises(ConfigError, match='decay of this run has begun at step 40'): run(tmp_path, 'a', num_steps=100, resume=True)
    assert {p.name: p.read_bytes() for p in (tmp_path/'a').iterdir() if p.is_file()} == before
    assert run(tmp_path, 'a', num_steps=50, resume=True).steps == 50     # finished, as before


def test_a_copy_decays_and_the_run_goes_on(tmp_path):
    run(tmp_path, 'a', stop=40, num_steps=1000)
    shutil.copytree(tmp_path/'a', tmp_path/'b')
    assert run(tmp_path, 'b', num_steps=50, resume=True).steps == 50 and config(tmp_path/'b')['name'] == 'b'
    run(tmp_path, 'a', stop=45, num_steps=1000, resume=True)
    assert not (tmp_path/'a'/'result.json').exists()


@pytest.mark.parametrize('kw, words', [(dict(decay_type='cosine'), 'num_steps was 50, is 60'), (dict(learning_rate=0.5), 'learning_rate')])
def test_nothing_else_changes(tmp_path, kw, words):
    run(tmp_path, 'a', stop=20, num_steps=50, **{k: v for k, v in kw.items() if k == 'decay_type'})
    with pytest.raises(ConfigError, match=words): run(tmp_path, 'a', num_steps=60, resume=True, **kw)


def test_command(tmp_path, capsys):
    flags = ['--name', 'c', '--output_dir', str(tmp_path), '--model_type', 'testing', '--device', 'cpu', '--decay_type', 'wsd']
    assert vit_train([*flags, '--num_steps', '20', '--eval_every', '10']) == 0
    assert vit_train([*flags, '--num_steps', '30', '--eval_every', '10', '--resume']) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith('vit_train: --num_steps 30: the decay of this run has begun at step 16') and 'copy the folder' in err
