"""Numbers that go wrong are noticed within ten steps: the run ends with the cause and a remedy, and the last good state stays. And folders of images of odd sizes."""
import json, math, re

import pytest, torch
from PIL import Image
from runs import FULL
from fastai.callback.core import Callback
from vit_course.finetune import FinetuneConfig, finetune, get_learner
from vit_course.tools.commands import vit_train
from vit_course.tools.run_folder import DivergenceError

SMALL = dict(model_type='testing', device='cpu', train_batch_size=8, num_steps=60, eval_every=5)


@pytest.fixture(autouse=True)
def no_gain(monkeypatch):
    "No note on bfloat16, which some processors get and others do not: the tests count lines."
    monkeypatch.setattr('vit_course.tools.train.bf16_gain', lambda learn: 1.)


def spoil(event, what):
    "A callback that does something to the learner from one step on."
    class Spoil(Callback):
        order = 1
        def __init__(self, at): self.at = at
    def method(self):
        if self.training and self.learn.run_folder.step + 1 >= self.at: what(self.learn)
    setattr(Spoil, event, method)
    return Spoil


def loss_is(value): return lambda learn: setattr(learn, 'loss_grad', learn.loss_grad * value) or setattr(learn, 'loss', learn.loss.detach() * value)
def gradients_are(value): return lambda learn: [p.grad.fill_(value) for p in learn.model.parameters()]
def weights_times(value): return lambda learn: [p.data.mul_(value) for p in learn.model.parameters()]
def one_is_nan(learn): next(learn.model.parameters()).grad.view(-1)[0] = math.nan


LR = 'lower --learning_rate'
FAULTS = {   # what goes wrong: the event, what is done there, settings, the cause that is named, a remedy that is named
    'the loss is NaN': ('after_loss', loss_is(math.nan), {}, 'loss is nan', LR),
    'the loss is infinite': ('after_loss', loss_is(math.inf), {}, 'loss is', LR),
    'the loss is NaN, in bf16': ('after_loss', loss_is(math.nan), dict(bf16=True), 'loss is nan', LR),
    'the loss is NaN, in fp16': ('after_loss', loss_is(math.nan), dict(fp16=True), 'loss is nan|overflowed', '--bf16'),
    'the loss is NaN, accumulated': ('after_loss', loss_is(math.nan), dict(gradient_accumulation_steps=4), 'loss is nan', LR),
    'gradients are NaN': ('before_step', gradients_are(math.nan), {}, 'loss is nan', LR),
    'one gradient is NaN': ('before_step', one_is_nan, {}, 'loss is nan', LR),
    'gradients are infinite': ('before_step', gradients_are(math.inf), {}, 'loss is nan', LR),
    'gradients are infinite, not clipped': ('before_step', gradients_are(math.inf), dict(max_grad_norm=0, optimizer='sgd'), 'loss is', LR),
    'gradients explode, not clipped': ('before_step', gradients_are(1e30), dict(max_grad_norm=0, optimizer='sgd', learning_rate=0.01), 'loss is', LR),
    'weights explode': ('before_batch', weights_times(1e8), {}, 'loss is', LR),
    'gradients overflow in fp16': ('before_step', gradients_are(math.inf), dict(fp16=True), 'overflowed.*loss scale', '--bf16'),
    'gradients overflow in fp16, at a fixed scale': ('before_step', gradients_are(math.inf), dict(fp16=True, loss_scale=128.), 'overflowed.*loss scale 128', 'leave --loss_scale out'),
    'all gradients are zero in fp16': ('before_step', gradients_are(0.), dict(fp16=True), 'all gradients are zero', '--bf16'),
    'all gradients are zero': ('before_step', gradients_are(0.), {}, 'all gradients are zero', LR),
}


@pytest.mark.parametrize('begins', [1, 4, 18, 20] if FULL else [3, 18])
@pytest.mark.parametrize('fault', FAULTS)
def test_15_faults_are_noticed_within_ten_steps(tmp_path, fault, begins):
    event, what, settings, cause, remedy = FAULTS[fault]
    cfg = FinetuneConfig('a', output_dir=str(tmp_path), **(SMALL | settings))
    with pytest.raises(DivergenceError) as e: finetune(cfg, progress=False, learner=lambda cfg: get_learner(cfg).add_cb(spoil(event, what)(begins)))
    said = str(e.value)
    assert re.search(cause, said) and remedy in said and '\n' not in said, said
    noticed = int(re.search(r'step (\d+)', said)[1])
    assert begins <= noticed <= begins + 10, said
    last, harmless = tmp_path/'a'/'last'/'state.pt', 'overflowed' in said or 'zero' in said           # weights stay as they are, and may be saved again
    assert last.exists() == ('the last good state is in' in said) and last.exists() == (begins > 5 or harmless and noticed > 5)
    if last.exists():
        state = torch.load(last, weights_only=True)
        assert (state['step'] < begins or harmless) and all(v.isfinite().all() and v.abs().max() < 10 for v in state['model'].values())
    assert not (tmp_path/'a'/'result.json').exists()


@pytest.mark.parametrize('kw, cause', [(dict(fp16=True, loss_scale=1e-30), 'all gradients are zero'), (dict(fp16=True, loss_scale=2.**60), 'overflowed'),
                                       (dict(optimizer='sgd', learning_rate=1e4, max_grad_norm=0., warmup_steps=0), 'loss is'),
                                       (dict(optimizer='sgd', learning_rate=1e30, warmup_steps=0), 'loss is')])
def test_settings_that_come_to_nothing(tmp_path, kw, cause):
    with pytest.raises(DivergenceError, match=cause) as e: finetune(FinetuneConfig('a', output_dir=str(tmp_path), **(SMALL | kw)), progress=False)
    assert int(re.search(r'step (\d+)', str(e.value))[1]) <= 12


def test_a_few_overflows_are_no_fault(tmp_path):
    class Now(Callback):
        order = 1
        def before_step(self):
            if self.learn.run_folder.step % 20 < 5: gradients_are(math.inf)(self.learn)
    r = finetune(FinetuneConfig('a', output_dir=str(tmp_path), fp16=True, **SMALL), progress=False, learner=lambda cfg: get_learner(cfg).add_cb(Now()))
    assert r.steps == 60


def images(folder, n, size=(8, 8)):
    folder.mkdir(parents=True)
    im = Image.new('RGB', size, (len(folder.name) * 20, 128, 0))
    im.save(folder/'0.png')
    data = (folder/'0.png').read_bytes()
    for i in range(1, n): (folder/f'{i}.png').write_bytes(data)


def train(in_process, *more):
    return in_process(vit_train, '--name', 'x', '--dataset', 'folder', '--data_dir', 'd', '--model_type', 'testing', '--device', 'cpu', '--img_size', 8, '--num_steps', 4, '--train_batch_size', 8, *more)


FOLDERS = {   # number of images in each class: what is said, None for a run
    'a class without images': ({'train/cat': 9, 'train/dog': 0}, 'classes without images: dog'),
    'a class in test that is not in train': ({'train/cat': 9, 'train/dog': 9, 'test/cat': 2, 'test/emu': 2}, 'has classes that .* has not: emu'),
    'a class in valid that is not in train': ({'train/cat': 9, 'train/dog': 9, 'valid/emu': 2}, 'has classes that .* has not: emu'),
    'a class of train that is not in test': ({'train/cat': 9, 'train/dog': 9, 'test/cat': 2}, None),
    'an empty class in test': ({'train/cat': 9, 'train/dog': 9, 'test/cat': 2, 'test/dog': 0}, None),
    'an empty test': ({'train/cat': 9, 'train/dog': 9, 'test/cat': 0}, 'no images in class folders: add some, or remove it'),
    'one image': ({'train/cat': 1}, 'one class'),
    'one image a class': ({'cat': 1, 'dog': 1}, 'no images to test on'),
    'two images a class': ({'cat': 2, 'dog': 2}, 'no images to valid on'),
    'three images a class': ({'cat': 3, 'dog': 3}, None),
    'one image a class in train, one in each of the others': ({f'{s}/{c}': 1 for s in ('train', 'valid', 'test') for c in ('cat', 'dog')}, None),
    'a class with one image': ({'cat': 1, 'dog': 20}, None),
    'no images': ({'train/cat': 0, 'train/dog': 0}, 'no images in class folders'),
}


@pytest.mark.parametrize('what', FOLDERS)
def test_folders_of_odd_numbers(in_process, tmp_path, what):
    counts, words = FOLDERS[what]
    for name, n in counts.items():
        images(tmp_path/'d'/name, n) if n else (tmp_path/'d'/name).mkdir(parents=True)
    status, out, err = train(in_process)
    if words: assert status == 2 and re.search(words, err) and err.count('\n') == 1 and not (tmp_path/'output').exists(), err
    else: assert status == 0 and math.isfinite(json.loads((tmp_path/'output'/'x'/'result.json').read_text())['test_loss']), err


def test_very_many_tiny_files(in_process, tmp_path):
    n = 100_000 if FULL else 2_000
    for c in ('a', 'bb'): images(tmp_path/'d'/c, n//2)
    status, out, err = train(in_process)
    sizes = [int(v.replace(',', '')) for v in re.findall(r'([\d,]+) (?:train|validation|test)', out)]
    assert status == 0 and sum(sizes) == n and all('are in two' in line for line in err.splitlines()), err     # so small that some are equal
    print(f'\n{n:,} files: {sizes}')
