"A run goes on only as it began: every setting, and the images themselves. And the same seed is the same run."
import shutil
from dataclasses import fields, replace

import pytest
from PIL import Image
from runs import FULL, STEPS, needs_fork, remains, same, watch
from vit_course.finetune import FinetuneConfig, finetune
from vit_course.tools.run_folder import Interrupted
from vit_course.tools.config import FREE, ConfigError

SMALL = dict(model_type='testing', device='cpu', train_batch_size=8, num_steps=6, eval_every=2)
OTHER = dict(dataset='cifar10', model_type='ViT-digits', img_size=32, optimizer='sgd', decay_type='linear', fp16_opt_level='O1', fast=('patches',), set=dict(depth=1), min_area=0.5)
ALLOWED = dict(gradient_accumulation_steps=2, eval_batch_size=7, grad_checkpointing=True, local_rank=0, compile=False)


def stopped(**kw):
    "A run that has been stopped after its second step."
    def learner(cfg):
        from fastai.callback.core import Callback
        from vit_course.finetune import get_learner
        return get_learner(cfg).add_cb(type('StopHere', (Callback,), dict(order=80, after_batch=lambda s: setattr(s.learn.run_guard, 'stop', s.training and s.learn.run_folder.step == 2)))())
    cfg = FinetuneConfig('a', **(SMALL | kw))
    with pytest.raises(Interrupted): finetune(cfg, progress=False, learner=learner)
    return replace(cfg, resume=True)


def test_every_setting(tmp_path):
    cfg = stopped(output_dir=str(tmp_path))
    files = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    kept = [f for f in fields(cfg) if f.name not in FREE + ('name',)]
    for f in kept:
        now = getattr(cfg, f.name)
        if f.name in OTHER: value = OTHER[f.name]
        elif f.type is bool: value = not now
        else: value = (now or 1) + 1
        with pytest.raises(ConfigError, match=f'{f.name} was .*, is ') as e: finetune(replace(cfg, **{f.name: value}), progress=False)
        assert '\n' not in str(e.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == files
    print(f'\n{len(kept)} settings refused on resume, {len(FREE)} that change rounding at most are allowed')
    assert finetune(replace(cfg, **ALLOWED), progress=False).steps == 6


@pytest.mark.parametrize('what', ['one goes', 'one comes', 'one changes', 'another class', 'moved'])
def test_the_images(tmp_path, what):
    data = tmp_path/'d'
    for c in ('cat', 'dog'):
        (data/'train'/c).mkdir(parents=True)
        for i in range(12): Image.new('RGB', (16, 16), (20*i, 99, 0)).save(data/'train'/c/f'{i}.png')
    cfg = stopped(output_dir=str(tmp_path/'output'), dataset='folder', data_dir=str(data))
    files = sorted((data/'train'/'cat').iterdir())
    if what == 'moved':
        shutil.move(data, tmp_path/'e')
        assert finetune(replace(cfg, data_dir=str(tmp_path/'e')), progress=False).steps == 6
        return
    if what == 'one goes': [f.unlink() for f in files[:2]]
    if what == 'one comes': [shutil.copy(files[0], data/'train'/'cat'/f'new{i}.png') for i in range(9)]
    if what == 'one changes': [Image.new('RGB', (16, 16), 'blue').save(f) for f in files[:3]]
    if what == 'another class': shutil.copytree(data/'train'/'cat', data/'train'/'emu')
    before = (tmp_path/'output'/'a'/'last'/'state.pt').read_bytes()
    with pytest.raises(ConfigError, match='training images .* are not those'): finetune(cfg, progress=False)
    assert (tmp_path/'output'/'a'/'last'/'state.pt').read_bytes() == before


@needs_fork
@pytest.mark.parametrize('settings', [['--fp16'], ['--optimizer', 'sgd'], ['--fast', 'patches', 'depth']] if FULL else [['--bf16']], ids=' '.join)
def test_same_seed_same_run(tmp_path, settings):
    steps = [*STEPS, *settings]
    runs = [watch(tmp_path, n, *steps) for n in 'ab']
    assert [r.end()[0] for r in runs] == [0, 0]
    same(remains(tmp_path, 'a'), remains(tmp_path, 'b'))
    assert watch(tmp_path, 'c', *steps, '--seed', 7).end()[0] == 0
    assert remains(tmp_path, 'c')['batches'] != remains(tmp_path, 'a')['batches']
