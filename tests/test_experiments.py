"Settings, tables and results of experiments; the command and its workers are in test_sweep.py."
import json, math, re
from dataclasses import replace

import numpy as np
import pytest, torch
from conftest import ROOT

from fastai.callback.core import Callback
from vit_course import experiments as ex, studies as st
from vit_course.finetune import finetune
from vit_course.tools import runs, sweep, trials
from vit_course.tools.config import ConfigError, FinetuneConfig, TrialConfig
from vit_course.tools.run_folder import Interrupted

SMALL = dict(dataset='digits', model_type='testing', img_size=8, min_area=0.8, num_steps=12, eval_every=6, device='cpu', set=dict(patch_size=2))
STUDIES = sorted((ROOT/'report'/'results').glob('study_*.json'))


def run(tmp_path, cfg, **kw): return finetune(replace(cfg, output_dir=str(tmp_path), **kw), progress=False, learner=trials.trial_learner)


def test_vit_train_does_not_resume_what_it_cannot_do(tmp_path):
    run(tmp_path, TrialConfig('soft', mixup=0.2, **SMALL))
    with pytest.raises(ConfigError, match='mixup was 0.2, is None'): finetune(FinetuneConfig('soft', output_dir=str(tmp_path), resume=True, **SMALL))
    run(tmp_path, TrialConfig('plain', **SMALL))
    (tmp_path/'plain'/'result.json').unlink()
    assert finetune(FinetuneConfig('plain', output_dir=str(tmp_path), resume=True, **SMALL), progress=False).steps == 12     # an ordinary run
    assert json.loads((tmp_path/'soft'/'config.json').read_text())['mixup'] == 0.2


@pytest.mark.parametrize('kw', [dict(arch='resnet'), dict(mixup=0.4, label_smoothing=0.1), dict(shuffle_patches=2, train_share=0.1, flip=True)], ids=str)
def test_a_stopped_trial_goes_on_as_if_nothing_had_happened(tmp_path, kw):
    class StopAt(Callback):
        order = 80
        def after_batch(self): self.learn.run_guard.stop |= self.training and self.learn.run_folder.step + 2 == 9
    cfg = TrialConfig('whole', **SMALL, **kw)
    whole = run(tmp_path, cfg)
    with pytest.raises(Interrupted):
        finetune(replace(cfg, name='stopped', output_dir=str(tmp_path)), progress=False, learner=lambda c: trials.trial_learner(c).add_cb(StopAt()))
    again = run(tmp_path, cfg, name='stopped', resume=True)
    a, b = (torch.load(tmp_path/n/'last'/'state.pt', weights_only=True)['model'] for n in ('whole', 'stopped'))
    assert all(torch.equal(a[k], b[k]) for k in a) and whole.test_loss == again.test_loss


def test_best_weights_of_a_resnet_come_back(tmp_path):
    cfg = TrialConfig('cnn', arch='resnet', **SMALL)
    result = run(tmp_path, cfg)
    rows = st.robustness(tmp_path, dict(shift=[1]))
    assert rows[0]['accuracy'] == pytest.approx(result.test_accuracy) and len(rows) == 2
    assert st.robustness(tmp_path, {}, train_share=1.) == []


def test_lines_of_a_run_that_saved_nothing_are_dropped(tmp_path):
    (tmp_path/'killed').mkdir()
    (tmp_path/'killed'/'metrics.csv').write_text('step,images\n6,384\n')          # killed between its first line and its first state
    run(tmp_path, TrialConfig('killed', resume=True, **SMALL))
    assert [line.split(',')[0] for line in (tmp_path/'killed'/'metrics.csv').read_text().splitlines()] == ['step', '6', '12']


@pytest.mark.parametrize('kw, words', [(dict(train_share=0.), 'train_share'), (dict(mixup=-1.), 'mixup'), (dict(mixup=math.nan), 'mixup'), (dict(label_smoothing=1.), 'label_smoothing'),
                                       (dict(shuffle_patches=3), 'must divide'), (dict(arch='vgg'), 'arch'), (dict(arch='resnet', freeze=True), 'freeze')], ids=str)
def test_settings_that_cannot_work(kw, words):
    with pytest.raises(ConfigError, match=words): trials.resolve_trial(TrialConfig('x', **SMALL, **kw))


def made(settings, seed, valid, test): return dict(settings=settings, point=sweep.point_name(settings), seed=seed, valid_accuracy=valid, test_accuracy=test, seconds=1., images_per_second=2.,
                                                   parameters=3, curve=[[1, valid, 1.]])


def test_table_is_that_of_scipy():
    from scipy.stats import ttest_rel
    rng = np.random.default_rng(0)
    acc = rng.uniform(.4, .9, size=(3, 6))
    t = ex.results_table([made(dict(dim=d), s, 1 - acc[d, s], acc[d, s]) for d in range(3) for s in range(6)])
    assert np.allclose(t.test, 100*acc.mean(1)) and np.allclose(t.test_sd, 100*acc.std(1, ddof=1)) and t.best.tolist().index(True) == acc.mean(1).argmin()
    for d in (1, 2):
        r = ttest_rel(100*acc[d], 100*acc[0]); ci = r.confidence_interval(.95)
        assert np.allclose([t.difference[d], t.low[d], t.high[d]], [100*(acc[d] - acc[0]).mean(), ci.low, ci.high])
        assert (t.verdict[d] == 'within seed noise') == (r.pvalue > .05)


def test_words_of_a_table_are_corrected_over_its_rows():
    from scipy.stats import ttest_rel
    rng = np.random.default_rng(4)
    base, gains = rng.normal(.5, .02, size=8), (.03, .012, .0, .012, -.03)
    acc = [base] + [base + g + rng.normal(0, .012, size=8) for g in gains]
    t = ex.results_table([made(dict(dim=d), s, .5, acc[d][s]) for d in range(6) for s in range(8)])
    raw = np.array([ttest_rel(a, base).pvalue for a in acc[1:]])
    want = [max(min(1, (5 - i)*p) for i, p in enumerate(sorted(raw)) if p <= own) for own in raw]        # Holm, by its definition
    assert np.allclose(t.p[1:], want) and np.allclose(ex.holm(raw), want)
    words = {'within seed noise': raw > .05, 'not after Holm': (raw <= .05) & (np.array(want) >= .05)}
    for word, where in words.items(): assert where.any() and ((t.verdict[1:] == word).to_numpy() == where).all()
    assert {'better', 'worse'} <= set(t.verdict)


def test_chance_of_any_false_word_is_small():
    rng = np.random.default_rng(0)
    def found(): return ex.results_table([made(dict(dim=d), s, .5, rng.normal(.5, .01)) for d in range(8) for s in range(4)]).verdict.isin(['better', 'worse']).any()
    assert np.mean([found() for _ in range(200)]) < .1                                                    # 0.3 without the correction


def test_only_common_seeds_are_compared():
    runs = [made(dict(dim=d), s, .5, v) for d, s, v in ((1, 1, .5), (1, 2, .6), (1, 3, .1), (2, 2, .7), (2, 1, .6))]
    t = ex.results_table(runs)
    assert t.difference[1] == pytest.approx(10) and t.seeds.tolist() == [3, 2] and t.verdict[1] == 'two seeds: no telling' and math.isnan(t.low[1])
    t = ex.results_table([made(dict(dim=1), 1, .5, .5), made(dict(dim=2), 2, .5, .5)])
    assert t.verdict[1] == 'no common seed' and 'no common seed' in ex.format_table(t)


def test_formats():
    t = ex.results_table([made(dict(pos_embed=p, shuffle_patches=q), s, .5 + s/100, .5 - .1*(p == 'none')*s) for p in ('learned', 'none') for q in (None, 4) for s in (1, 2, 3)])
    rows = [[c.strip() for c in line.strip('|').split('|')] for line in ex.format_table(t).splitlines()]
    assert len({len(r) for r in rows}) == 1 and len(rows) == 6 and {r[1] for r in rows[2:]} == {'none', '4'} and sum('★' in r[3] for r in rows) == 1
    assert '−20.00 (' in ex.format_table(t) and '+0.00 (0.00 to 0.00)' in ex.format_table(t)
    latex = ex.format_table(t, 'latex')
    assert r'pos\_embed' in latex and not re.search(r'(?<!\\)[_%]', latex.replace(r'\_', '').replace(r'\%', ''))
    assert len(ex.format_table(t, 'csv').splitlines()) == 5
    with pytest.raises(runs.SweepError, match='markdown, csv or latex'): ex.format_table(t, 'html')


def test_names_of_runs():
    assert sweep.run_name({}, 1) == 'base-seed1' and sweep.run_name(dict(a=1, b=2.), 3) == sweep.run_name(dict(b=2., a=1), 3) == 'a=1+b=2-seed3'
    long = sweep.run_name(dict(pretrained_dir='x'*300), 1)
    assert len(long) < 130 and long != sweep.run_name(dict(pretrained_dir='x'*301), 1)


def test_perturbed_images():
    x = torch.rand(3, 3, 8, 8)
    for kind, amount in (('shuffle', 4), ('shift', 2), ('hide', .5)):
        y = st.perturb(x, kind, amount, seed=1)
        assert y.shape == x.shape and torch.equal(y, st.perturb(x, kind, amount, seed=1)) and not torch.equal(y, x)
    with pytest.raises(ValueError, match='shuffle, shift or hide'): st.perturb(x, 'blur', 1)


@pytest.mark.parametrize('name', st.STUDIES)
def test_studies_can_be_run(name):
    study = st.STUDIES[name]
    assert study.question.endswith('?') and set(study.points) == set(study.base) == set(study.seeds) == {'tiny', 'laptop', 'gpu'}
    for size, points in study.points.items():
        assert len({sweep.point_name(p) for p in points}) == len(points) >= 3
        for p in points: sweep.trial_config(p, 1, study.base[size], 'output')
    assert min(study.seeds.values()) >= 2 and study.seeds['laptop'] >= 3


@pytest.mark.parametrize('path', STUDIES, ids=lambda p: p.stem)
def test_committed_results(path):
    text = path.read_text(encoding='utf-8'); d = json.loads(text)
    assert re.fullmatch('[0-9a-f]{40}', d['commit']) and re.fullmatch(r'\d{4}-\d\d-\d\d', d['date']) and d['device'] and d['command'].startswith('python benchmarks/studies.py')
    assert '/tmp' not in text and '/home' not in text and '/work' not in text
    name, size = d['study'].rsplit('_', 1)
    study = st.STUDIES[name]
    asked = {sweep.point_name(p) for p in study.points[size]}
    seeds = range(1, max(r['seed'] for r in d['runs']) + 1)
    assert len(seeds) >= 3 and asked == set(d['points']) and {(r['point'], r['seed']) for r in d['runs']} == {(p, s) for p in asked for s in seeds}
    table = ex.results_table(path)
    assert len(table) == len(asked) and table.best.sum() == 1 and not table[['test', 'seconds']].isna().any().any()


def test_laptop_results_are_there():
    have = {p.stem for p in STUDIES}
    for name in ('learning_rate', 'steps', 'batch', 'precision', 'pixels', 'patch_size', 'pos_embed', 'shape', 'cnn', 'optimizer'): assert f'study_{name}_laptop' in have
