"Nothing waits, compiling that fails, memory that runs out, and shortcuts. What needs a GPU is in benchmarks/gpu.py."
import json
from dataclasses import replace

import pytest, torch
from torch.utils._python_dispatch import TorchDispatchMode
import vit_course.finetune as ft
from vit_course.tools import device
from vit_course.tools.sweep import run_sweep
from fastai.callback.core import Callback
from vit_course.data import ImageSet, TrainBatches
from vit_course.finetune import FinetuneConfig, RunResult, finetune, get_learner
from vit_course.tools.commands import train_config, vit_train
from vit_course.tools.device import OutOfDeviceMemory
from vit_course.tools.transfer import keep_on_device
from vit_course.vit import count_flops

SMALL = dict(model_type='testing', device='cpu', num_steps=20, eval_every=10)


@pytest.fixture(autouse=True)
def no_gain(monkeypatch):
    "No note on bfloat16, which some processors get and others do not: the tests count lines."
    monkeypatch.setattr('vit_course.tools.train.bf16_gain', lambda learn: 1.)


class Asked(TorchDispatchMode):
    "Counts how often a number is asked of the device (each one makes the processor wait on a GPU)."
    def __init__(self): super().__init__(); self.n = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('kw, most', [({}, 1), (dict(bf16=True), 1), (dict(gradient_accumulation_steps=3, optimizer='sgd'), 1), (dict(fp16=True), 60)], ids=str)
def test_nothing_waits(tmp_path, kw, most):
    "A pass of ten steps in a run folder reads the loss once; float16 has to read its overflows in each step."
    counts = []
    class Watch(Callback):
        order = -100
        def before_train(self): self.asked = Asked(); self.asked.__enter__()
        def after_train(self): self.asked.__exit__(None, None, None); counts.append(self.asked.n)
    finetune(FinetuneConfig('a', output_dir=tmp_path, **(SMALL | kw)), progress=False, learner=lambda cfg: get_learner(cfg).add_cb(Watch()))
    assert len(counts) == 2 and max(counts) <= most, counts
    if 'fp16' in kw: assert min(counts) >= 10


def test_losses_are_read_and_right():
    losses = []
    see = type('See', (Callback,), dict(after_loss=lambda s: losses.append(s.learn.loss.item()) if s.training else None))()
    learn = get_learner(FinetuneConfig('a', **SMALL))
    with learn.no_bar(), learn.no_logging(): learn.add_cb(see).fit(2)
    smooth, want = 0., []
    for i, l in enumerate(losses, 1): smooth = 0.98*smooth + 0.02*l; want.append(smooth / (1 - 0.98**i))
    assert [l.item() for l in learn.recorder.losses] == pytest.approx(want, rel=1e-6)


def test_where_images_live():
    assert keep_on_device(10**12, 'cpu')[0]
    stays, why = keep_on_device(25, 'cuda:0', free=100); assert stays and 'live there' in why
    stays, why = keep_on_device(26, 'cuda:0', free=100); assert not stays and 'stream' in why


def test_streamed_batches_are_the_same(monkeypatch):
    data = ImageSet(torch.randint(0, 256, (50, 3, 12, 12), dtype=torch.uint8), torch.arange(50) % 3)
    make = lambda: TrainBatches(data, 8, 8, list('abc'), seed=3).to('cpu')
    whole = make().batch(4)
    monkeypatch.setattr('vit_course.tools.loaders.keep_on_device', lambda *a: (False, 'streams'))
    torch.testing.assert_close(make().batch(4), whole, rtol=0, atol=0)


def test_compile_rule(monkeypatch):
    model = ft.create_vit('ViT-B_16')
    pays = lambda **kw: device.compile_pays(FinetuneConfig('a', **(dict(num_steps=5000, img_size=224, device='cuda') | kw)), model)
    monkeypatch.setattr(device, 'peak_flops', lambda *a: 1e14)
    assert pays() and not pays(num_steps=100) and pays(num_steps=1, compile=True) and not pays(compile=False) and not pays(device='cpu')
    seconds = 3 * count_flops(model.cfg) * 64 / 0.5e14                  # of a step
    assert pays(num_steps=int(device.COMPILE_FROM / seconds) + 1) and not pays(num_steps=int(device.COMPILE_FROM / seconds) - 1)


def test_compile_flags():
    assert [train_config(['--name', 'x', *a]).compile for a in ([], ['--compile'], ['--no_compile'])] == [None, True, False]


def test_compile_that_fails_goes_on_without(tmp_path, monkeypatch, capsys):
    plain = finetune(FinetuneConfig('plain', output_dir=tmp_path, **SMALL), progress=False)
    def broken(self, *a, **kw):
        def call(*a, **kw): raise RuntimeError('no C compiler\nmore lines')
        self._compiled_call_impl = call
    monkeypatch.setattr(torch.nn.Module, 'compile', broken)
    r = finetune(FinetuneConfig('broken', output_dir=tmp_path, compile=True, **SMALL), progress=False)
    err = capsys.readouterr().err
    assert err.count('torch.compile does not work here') == err.count('\n') == 1 and 'no C compiler' in err
    assert (r.test_loss, r.compiled) == (plain.test_loss, False)


def limited(build, cfg, images, from_step=0):
    "A learner whose model runs out of memory with more images at a time."
    learn = build(cfg)
    def hook(module, args):
        if len(args[0]) > images and learn.dls.train.step >= from_step: raise torch.OutOfMemoryError('CUDA out of memory.')
    learn.model.register_forward_pre_hook(hook)
    return learn


def test_out_of_memory_says_what_fits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ft, 'get_learner', lambda cfg, build=ft.get_learner: limited(build, cfg, 20))
    args = ['--name', 'x', '--model_type', 'testing', '--device', 'cpu', '--num_steps', '20', '--eval_every', '10', '--eval_batch_size', '16']
    assert vit_train(args) == 2
    err = capsys.readouterr().err
    assert 'with 64 images at a time: --gradient_accumulation_steps 4 fits, 16 images at a time' in err and err.count('\n') == 1
    assert vit_train([*args, '--resume', '--gradient_accumulation_steps', '4']) == 0


def test_a_full_processor_says_what_fits(tmp_path, monkeypatch, capsys):
    "On a CPU torch raises a plain RuntimeError, on Windows with other words; a real one, which no machine can satisfy."
    monkeypatch.chdir(tmp_path)
    def build(cfg, build=ft.get_learner):
        learn = build(cfg)
        learn.model.register_forward_pre_hook(lambda m, args: torch.empty(2**56) if len(args[0]) > 20 else None)
        return learn
    monkeypatch.setattr(ft, 'get_learner', build)
    args = ['--name', 'x', '--model_type', 'testing', '--device', 'cpu', '--num_steps', '20', '--eval_every', '10', '--eval_batch_size', '16']
    assert vit_train(args) == 2
    err = capsys.readouterr().err
    assert 'with 64 images at a time: --gradient_accumulation_steps 4 fits, 16 images at a time' in err and err.count('\n') == 1, err


def test_out_of_memory_keeps_the_last_state(tmp_path):
    cfg = FinetuneConfig('x', output_dir=tmp_path, eval_batch_size=16, **SMALL)
    with pytest.raises(OutOfDeviceMemory, match='steps 8 fits, 8 images at a time; go on with --resume') as e: finetune(cfg, False, lambda c: limited(get_learner, c, 15, from_step=11))
    assert isinstance(e.value, torch.OutOfMemoryError)
    level = torch.autocast_increment_nesting(); torch.autocast_decrement_nesting()
    assert level == 1, 'autocast is left, or it keeps stale weights in the next run'
    assert torch.load(tmp_path/'x'/'last'/'state.pt', weights_only=True)['step'] == 10
    assert finetune(replace(cfg, resume=True, gradient_accumulation_steps=8), False).steps == 20


def test_out_of_memory_in_evaluation(tmp_path):
    with pytest.raises(OutOfDeviceMemory, match='--eval_batch_size 64 fits'): finetune(FinetuneConfig('x', output_dir=tmp_path, eval_batch_size=128, **SMALL), False, lambda c: limited(get_learner, c, 64))


def test_old_results_are_read():
    old = dict(test_accuracy=.9, valid_accuracy=.9, test_loss=.1, seconds=1., images_per_second=1., steps=1, images=1, parameters=1, device='cpu', versions={}, commit=None, finished='')
    assert RunResult(**old).processes == 1


def test_runs_from_before_the_shortcuts_resume(tmp_path):
    cfg = FinetuneConfig('x', output_dir=tmp_path, **SMALL)
    finetune(cfg, False)
    path = tmp_path/'x'/'config.json'
    old = json.loads(path.read_text()); del old['fast']; path.write_text(json.dumps(old))
    assert finetune(replace(cfg, resume=True), False).steps == 20
    with pytest.raises(ft.ConfigError, match='fast was'): finetune(replace(cfg, resume=True, fast=('patches',)), False)


@pytest.mark.parametrize('args, words', [(['--fast', 'wings'], 'patches, depth, size'), (['--fast', 'depth'], '--set drop_path=0.2')], ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_shortcut_mistakes(tmp_path, monkeypatch, capsys, args, words):
    monkeypatch.chdir(tmp_path)
    assert vit_train(['--name', 'x', '--model_type', 'testing', '--device', 'cpu', *args]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize('kw', [dict(bf16=True), dict(gradient_accumulation_steps=2, grad_checkpointing=True)], ids=str)
def test_shortcuts_together(tmp_path, kw):
    r = finetune(FinetuneConfig('x', output_dir=tmp_path, fast=('patches', 'depth', 'size'), model_type='ViT-digits', set=dict(drop_path=0.2), num_steps=12, eval_every=6, device='cpu', **kw), False)
    assert r.mfu is None and r.test_loss < 2.5


def test_a_slow_disk_is_written_to_less_often(tmp_path, monkeypatch):
    import time
    save, at = torch.save, []
    def slow(state, path): at.append(state['step']); time.sleep(0.6); save(state, path)
    monkeypatch.setattr(torch, 'save', slow)
    quick = finetune(FinetuneConfig('x', output_dir=tmp_path, **(SMALL | dict(num_steps=60))), False)
    assert at == [10, 60] and (tmp_path/'x'/'best.safetensors').exists()
    monkeypatch.setattr(torch, 'save', save)
    assert finetune(FinetuneConfig('y', output_dir=tmp_path, **(SMALL | dict(num_steps=60))), False).test_loss == quick.test_loss


def test_what_bfloat16_would_gain_is_said(tmp_path, monkeypatch, capsys):
    "In one line, from a measurement that changes nothing of the run; not where nothing is gained, and not with --bf16."
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: True)
    weights = {}
    for gain, kw in ((1.74, {}), (1.1, {}), (1.74, dict(bf16=True)), (None, {})):
        if gain: monkeypatch.setattr('vit_course.tools.train.bf16_gain', lambda learn: gain)
        else: monkeypatch.undo()
        name = f'{gain}{len(kw)}'
        finetune(FinetuneConfig(name, output_dir=tmp_path, set=dict(drop=0.1), **(SMALL | kw)), progress=False)
        said = capsys.readouterr().out                     # with the lines about the run: studies keep those to themselves
        if gain: assert ('--bf16 is about 1.7 times as fast here' in said) == (gain == 1.74 and not kw), said
        weights[name] = torch.load(tmp_path/name/'last'/'state.pt', weights_only=True)['model']
    for k, v in weights['1.740'].items(): assert torch.equal(v, weights['None0'][k]), k     # measured, or not: the same run


def test_bf16_gain_leaves_all_as_it_was():
    learn = get_learner(FinetuneConfig('a', set=dict(drop=0.1), **SMALL))
    before, rng = {k: v.clone() for k, v in learn.model.state_dict().items()}, torch.get_rng_state()
    learn.model.eval()
    gain = device.bf16_gain(learn, seconds=0.001)
    assert 0 < gain < 100 and torch.equal(torch.get_rng_state(), rng) and not learn.model.training and learn.dls.train.step == 0
    assert all(p.grad is None for p in learn.model.parameters())
    for k, v in learn.model.state_dict().items(): assert torch.equal(v, before[k])


def test_a_study_does_not_say_it_with_every_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: True)
    monkeypatch.setattr('vit_course.tools.train.bf16_gain', lambda learn: measured.append(learn) or 1.74)
    measured = []
    run_sweep('x', {'num_steps': [1, 2]}, 1, dict(model_type='testing', device='cpu'), output_dir=tmp_path)
    said = capsys.readouterr()
    assert len(measured) == 2 and 'times as fast' not in said.out + said.err
