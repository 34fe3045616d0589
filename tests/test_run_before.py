"""Run folders of version 0.1.0, kept in fixtures/run_before: a run that was stopped at step 37 of 60 ends as it would
have ended then, one that was finished is read as it was."""
import json, shutil

import pytest, torch
from conftest import ROOT
from vit_course.finetune import FinetuneConfig, RunResult, finetune

BEFORE = ROOT/'tests'/'fixtures'/'run_before'
# Of the run that was not stopped: its weights in one row, every 1,243rd of them, their sum and norm, and the test loss.
WEIGHTS = [-0.003854076, 0.052167337, -0.043926515, -0.002141188, 0.254403085, 0.064114846, 0.158194542, 0.037138112,
           -0.006911594]
SUM, NORM, TEST_LOSS = 56.463474522, 15.490273071, 2.273627411


def config(path): return json.loads((path/'config.json').read_text())


def state(path): return torch.load(path/'last'/'state.pt', weights_only=True)


@pytest.fixture
def runs(tmp_path):
    shutil.copytree(BEFORE, tmp_path/'runs')
    return tmp_path/'runs'


def resume(runs, name):
    settings = config(runs/name) | dict(output_dir=str(runs), resume=True)
    return finetune(FinetuneConfig(**settings), progress=False)


def test_a_stopped_run_goes_on(runs):
    before, rows = state(runs/'stopped'), (runs/'stopped'/'metrics.csv').read_text()
    assert before['step'] == 37
    result, after = resume(runs, 'stopped'), state(runs/'stopped')
    weights = torch.cat([v.double().flatten() for v in after['model'].values()])
    assert weights[::len(weights)//8].tolist() == pytest.approx(WEIGHTS, abs=1e-6)
    assert weights.sum().item() == pytest.approx(SUM, abs=1e-4) and weights.norm().item() == pytest.approx(NORM, abs=1e-5)
    assert result.test_loss == pytest.approx(TEST_LOSS, abs=1e-6)
    assert set(after) == set(before) and after['opt']['param_groups'][0].keys() == before['opt']['param_groups'][0].keys()
    table = (runs/'stopped'/'metrics.csv').read_text()
    assert table.startswith(rows) and [r.split(',')[0] for r in table.splitlines()] == ['step', '25', '50', '60']
    old, new = config(BEFORE/'stopped'), config(runs/'stopped')
    assert list(old) == list(new) and {k for k in old if old[k] != new[k]} == {'output_dir', 'resume'}


def test_a_finished_run_is_finished(runs, capsys):
    kept = json.loads((BEFORE/'finished'/'result.json').read_text())
    assert resume(runs, 'finished') == RunResult(**kept)
    assert 'is finished: test accuracy 22.84 %' in capsys.readouterr().out
    assert json.loads((runs/'finished'/'result.json').read_text()) == kept


def test_is_read_by_the_chapters_after():
    from vit_course.tools.runs import read_runs
    from vit_course.report import read_run
    run, = read_runs(BEFORE)
    assert run['seed'] == 42 and run['steps'] == 60 and [p[0] for p in run['curve']] == [25, 50, 60]
    assert read_run(BEFORE/'finished').result['test_loss'] == pytest.approx(TEST_LOSS, abs=1e-9)
