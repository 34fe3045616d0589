"Checkpoints as training scripts write them: with prefixes, in dictionaries, beside settings and averages. What is taken, and what is said."
import argparse, bz2, datetime, gzip, lzma, os, pathlib, sys, types

import numpy as np, pytest, torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionViT
from vit_course import checkpoints
from vit_course.checkpoints import CheckpointError, inspect_checkpoint, save_checkpoint
from vit_course.tools.commands import vit_train, vit_weights
from vit_course.vit import VisionTransformer, create_vit

timm = pytest.importorskip('timm')
SAID = dict(act='gelu', norm_eps=1e-6, pool='cls')     # what no shape of these files shows, and nobody else says
FLAGS = [word for field, value in SAID.items() for word in (f'--{field}', str(value))]


def load_checkpoint(model, source, **said):
    return checkpoints.load_checkpoint(model, source, **(SAID if model is None else {}) | said)


def small(classes=5):
    return timm.models.VisionTransformer(32, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, qk_norm=True, num_classes=classes).eval()


@pytest.fixture(scope='module')
def weights():
    "A small ViT of timm; the norms of its queries show how many heads it has."
    torch.manual_seed(0)
    return small()


def put(front, state): return {front + k: v for k, v in state.items()}
def average(state): return {k: v + 1 for k, v in state.items()}


def same(report, state, plus=0):
    "The weights that were loaded are those of a state of timm, plus a number."
    ours = report.model.state_dict()
    return all(torch.equal(ours[k], state[k.replace('encoder.', '')] + plus) for k in ('head.weight', 'encoder.blocks.1.mlp.fc2.bias', 'cls_token'))


def refused(path, *words, **said):
    with pytest.raises(CheckpointError) as e: load_checkpoint(None, path, **said)
    assert '\n' not in str(e.value) and all(w in str(e.value) for w in words), str(e.value)


# ------------------------------------------------------------------------------ prefixes

@pytest.mark.parametrize('front', ['model.', 'backbone.', 'encoder.', 'net.', 'model.net.', 'module.model.', '_orig_mod.vit.', 'visual.trunk.',
                                   'student.module.backbone.', 'a.b.c.d.', '0.', 'model_ema.'])
@pytest.mark.parametrize('kind', ['pth', 'safetensors'])
def test_a_prefix(tmp_path, weights, front, kind):
    "Lightning (model. or net.), Hugging Face's Trainer around a module, open_clip, DINO, torch.compile."
    state = put(front, weights.state_dict())
    torch.save(state, tmp_path/'m.pth') if kind == 'pth' else save_file(state, tmp_path/'m.safetensors')
    report = load_checkpoint(None, tmp_path/f'm.{kind}')
    assert same(report, weights.state_dict()) and report.notes == [f'the names begin with {front!r}'] and front in repr(report)
    assert same(load_checkpoint(VisionTransformer(report.model.cfg), tmp_path/f'm.{kind}'), weights.state_dict())


@pytest.mark.parametrize('front', ['', 'module.', '_orig_mod.module.'])
def test_no_prefix_no_note(tmp_path, weights, front):
    torch.save(put(front, weights.state_dict()), tmp_path/'m.pth')
    assert load_checkpoint(None, tmp_path/'m.pth').notes == []


@pytest.mark.parametrize('key', [('state_dict',), ('model',), ('net',), ('weights',), ('model', 'state_dict'), ('checkpoint', 'model', 'params')])
@pytest.mark.parametrize('front', ['', 'model.'])
def test_in_a_dictionary(tmp_path, weights, key, front):
    "With an optimizer and counters beside it, as training scripts save."
    state, opt = put(front, weights.state_dict()), torch.optim.AdamW(weights.parameters())
    for p in weights.parameters(): p.grad = torch.zeros_like(p)
    opt.step()
    for k in reversed(key): state = {k: state}
    torch.save(state | dict(optimizer=opt.state_dict(), epoch=3, rng=torch.get_rng_state()), tmp_path/'m.pth')
    report = load_checkpoint(None, tmp_path/'m.pth')
    assert same(report, weights.state_dict()) and report.notes[0] == f"the names begin with {'.'.join(key) + '.' + front!r}"
    assert 'left out: optimizer' in report.notes[1] and 'rng (1 tensors)' in report.notes[1]


def test_tensors_outside_of_the_model_are_said(tmp_path, weights):
    "Lightning keeps the buffers of a loss and a metric beside the model."
    state = put('model.', weights.state_dict()) | {'criterion.weight': torch.ones(5), 'metric.0.sum': torch.ones(1)}
    torch.save(dict(state_dict=state), tmp_path/'m.ckpt')
    assert 'left out: state_dict (2 tensors)' in load_checkpoint(None, tmp_path/'m.ckpt').notes
    torch.save(weights.state_dict() | {'extra.weight': torch.ones(5)}, tmp_path/'m.ckpt')
    refused(tmp_path/'m.ckpt', 'unexpected: extra.weight')     # nothing says that this is no part of the model


def test_hugging_face_within_a_module(tmp_path):
    transformers = pytest.importorskip('transformers')
    cfg = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, num_labels=3)
    for front, name in (('net.', 'ViTForImageClassification'), ('model.', 'ViTForImageClassification'), ('encoder.', 'ViTModel')):
        theirs = getattr(transformers, name)(cfg)
        torch.save(put(front, theirs.state_dict()), tmp_path/'m.pth')
        report = load_checkpoint(None, tmp_path/'m.pth', heads=4)
        assert report.format == 'hf' and front in report.notes[0] and report.model.cfg.num_classes == 3*('For' in name)
        refused(tmp_path/'m.pth', 'how many heads')


# ------------------------------------------------------------- a model and its average

@pytest.mark.parametrize('own, other', [('state_dict', 'state_dict_ema'), ('model', 'model_ema'), ('model', 'ema.module'), ('model', 'EMA'), ('model', 'averaged_model.module')])
def test_a_model_and_its_average(tmp_path, weights, own, other, in_process):
    "timm keeps state_dict_ema, DeiT model_ema, torch.optim.swa_utils puts `module.` in front and counts."
    state = put(own + '.', weights.state_dict()) | put(other + '.', average(weights.state_dict()))
    if other.endswith('.module'): state[other.replace('module', 'n_averaged')] = torch.tensor(3)
    torch.save(state, tmp_path/'m.pth')
    with pytest.warns(UserWarning, match=f'assumed part {own}, but {other} .*--part {other}'): report = load_checkpoint(None, tmp_path/'m.pth')
    assert same(report, weights.state_dict()) and f'{own} is taken, and not {other}' in report.notes[0]
    assert same(load_checkpoint(None, tmp_path/'m.pth', part=other), weights.state_dict(), plus=1)
    status, out, err = in_process(vit_weights, 'convert', 'm.pth', 'new.safetensors', '--part', other, *FLAGS)
    assert status == 0 and same(load_checkpoint(None, tmp_path/'new.safetensors'), weights.state_dict(), plus=1), err
    status, out, err = in_process(vit_weights, 'verify', 'm.pth', *FLAGS)
    assert status == 0 and f'and not {other}' in out and not err
    refused(tmp_path/'m.pth', "no part 'emma'", own, other, part='emma')


@pytest.mark.parametrize('a, b', [('student.module.backbone', 'teacher.backbone'), ('encoder_k', 'encoder_q'), ('model.ema', 'model.ema2')])
def test_two_models_are_not_guessed(tmp_path, weights, a, b):
    "DINO's student and teacher, MoCo's two encoders."
    torch.save(put(a + '.', weights.state_dict()) | put(b + '.', average(weights.state_dict())), tmp_path/'m.pth')
    refused(tmp_path/'m.pth', 'holds 2 models', a, b, f"part='{a}'", f'--part {a}')
    assert same(load_checkpoint(None, tmp_path/'m.pth', part=b), weights.state_dict(), plus=1)


def test_the_average_alone(tmp_path, weights):
    torch.save(dict(model_ema=weights.state_dict()), tmp_path/'m.pth')
    assert load_checkpoint(None, tmp_path/'m.pth').notes == ["the names begin with 'model_ema.'"]


def test_a_part_of_a_model(tmp_path, weights):
    "A classifier of one's own around a backbone: the head is not the backbone's, and is left out, aloud."
    torch.save(put('backbone.', small(0).state_dict()) | {'head.weight': torch.ones(7, 32), 'head.bias': torch.ones(7)}, tmp_path/'m.pth')
    report = load_checkpoint(None, tmp_path/'m.pth')
    assert report.model.cfg.num_classes == 0 and 'left out: head (2 tensors)' in report.notes


# ---------------------------------------------------------------- the head by another name

@pytest.mark.parametrize('name', ['heads', 'heads.0', 'heads.1', 'heads.head.1', 'heads.linear', 'head', 'classifier'])
def test_another_head_on_torchvision(tmp_path, name):
    "Tutorials replace `heads` by a Linear, or by a Sequential with dropout."
    torch.manual_seed(0)
    state = TorchvisionViT(32, 16, 2, 4, 32, 64, num_classes=3).state_dict()
    w, b = torch.randn(7, 32), torch.randn(7)
    state = {k: v for k, v in state.items() if not k.startswith('heads')} | {f'{name}.weight': w, f'{name}.bias': b}
    torch.save(state, tmp_path/'m.pth')
    report = load_checkpoint(None, tmp_path/'m.pth', heads=4)
    assert torch.equal(report.model.head.weight, w) and torch.equal(report.model.head.bias, b) and report.notes == [f'{name}.weight is taken as the head']


def test_a_head_of_two_layers_is_no_head(tmp_path, weights):
    state = {k: v for k, v in weights.state_dict().items() if not k.startswith('head')}
    for i in (0, 2): state |= {f'head.{i}.weight': torch.ones(32, 32), f'head.{i}.bias': torch.ones(32)}
    torch.save(state, tmp_path/'m.pth')
    refused(tmp_path/'m.pth', 'unexpected: head.0.weight')


# ------------------------------------------------------------------ settings beside tensors

SETTINGS = {'Namespace': argparse.Namespace(lr=.1, out=pathlib.Path('x')), 'float64': np.float64(.9), 'array': np.arange(3), 'Path': pathlib.Path('x'),
            'PureWindowsPath': pathlib.PureWindowsPath('x'), 'datetime': datetime.datetime(2020, 1, 2), 'random': np.random.RandomState(0).get_state()}


@pytest.mark.parametrize('name', SETTINGS)
def test_harmless_objects(tmp_path, weights, name):
    "MAE, DeiT and DINO keep their argparse.Namespace, others the best accuracy as NumPy's number."
    before = set(torch.serialization.get_safe_globals())
    torch.save(dict(model=weights.state_dict(), args=SETTINGS[name]), tmp_path/'m.pth')
    report = load_checkpoint(None, tmp_path/'m.pth')
    assert same(report, weights.state_dict()) and 'settings that are no tensors are left out' in report.notes[-1]
    assert set(torch.serialization.get_safe_globals()) == before


def test_nothing_of_them_is_made(tmp_path, weights, monkeypatch):
    "Not even a constructor of an allowed module is called."
    module, made = types.ModuleType('yacs.config'), []
    class Node:
        def __new__(cls): made.append(cls); return super().__new__(cls)
        def __setstate__(self, state): made.append(state)
    Node.__module__, Node.__qualname__, module.Node = 'yacs.config', 'Node', Node
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs')); monkeypatch.setitem(sys.modules, 'yacs.config', module)
    node = Node()
    node.lr = .1
    torch.save(dict(model=weights.state_dict(), cfg=node), tmp_path/'m.pth')
    made.clear()
    assert 'yacs.config.Node' in load_checkpoint(None, tmp_path/'m.pth').notes[-1] and not made


def reduce_to(f, *args):
    class Evil:
        def __reduce__(self): return f, args
    return Evil()


@pytest.mark.parametrize('f, args', [(os.system, ('touch executed',)), (eval, ("open('executed', 'w')",)), (exec, ("open('executed', 'w')",)), (os.mkdir, ('executed',)),
                                     (np.save, ('executed.npy', 1)), (pathlib.Path.touch, (pathlib.Path('executed'),))], ids=lambda o: getattr(o, '__name__', ''))
def test_what_is_not_harmless(tmp_path, weights, monkeypatch, f, args):
    "Refused with a way on, or, where the module is an allowed one, an object that does nothing."
    monkeypatch.chdir(tmp_path)
    torch.save(dict(model=weights.state_dict(), args=reduce_to(f, *args)), 'm.pth')
    if f is np.save: assert same(load_checkpoint(None, 'm.pth'), weights.state_dict())
    else: refused('m.pth', "stranger's pickle", 'save the tensors alone', "torch.load('m.pth', weights_only=False)")
    assert os.listdir() == ['m.pth']


def test_a_whole_model_and_other_protocols(tmp_path, weights, in_process):
    torch.save(weights, tmp_path/'whole.pth')
    torch.save(dict(model=weights.state_dict(), args=argparse.Namespace(a=1)), tmp_path/'four.pth', pickle_protocol=4)
    for name in ('whole.pth', 'four.pth'):
        refused(tmp_path/name, 'save the tensors alone')
        assert in_process(vit_weights, 'verify', name)[2].count('\n') == 1


@pytest.mark.parametrize('opt', ['Adam', 'SGD', 'torch', None])
def test_a_save_of_fastai(tmp_path, opt):
    "`learn.save('m')` keeps the optimizer, whose lists are fastcore's own."
    from fastai.basics import DataLoader, DataLoaders, Learner, partial
    from fastai.optimizer import SGD, Adam, OptimWrapper
    torch.manual_seed(0)
    model = create_vit('testing', num_classes=3)
    dl = DataLoader([(torch.randn(3, 16, 16), i % 3) for i in range(8)], bs=4)
    how = {'Adam': Adam, 'SGD': partial(SGD, mom=.9), 'torch': partial(OptimWrapper, opt=torch.optim.AdamW), None: Adam}[opt]
    learn = Learner(DataLoaders(dl, dl), model, loss_func=nn.CrossEntropyLoss(), opt_func=how, path=tmp_path)
    learn.fit(1)
    learn.save('m', with_opt=opt is not None)
    report = load_checkpoint(None, tmp_path/'models'/'m.pth', heads=2)
    assert all(torch.equal(a, b) for a, b in zip(report.model.state_dict().values(), model.state_dict().values(), strict=True))
    assert any('opt' in n or 'fastcore' in n for n in report.notes) == (opt is not None)
    assert load_checkpoint(model, tmp_path/'models'/'m.pth').loaded


def test_files_of_other_kinds(tmp_path, weights):
    "Each has its own reason: Keras, a download that is still packed, TorchScript, shards of Hugging Face, arrays in a pickle."
    (tmp_path/'a.h5').write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(99))
    refused(tmp_path/'a.h5', 'Keras')
    for pack in (gzip, bz2, lzma):
        (tmp_path/'packed').write_bytes(pack.compress(b'abc'))
        refused(tmp_path/'packed', 'unpack it first')
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path/'s.pt')
    refused(tmp_path/'s.pt', 'TorchScript', 'state_dict()')
    (tmp_path/'shards').mkdir()
    (tmp_path/'shards'/'model.safetensors.index.json').write_text('{"weight_map": {}}')
    refused(tmp_path/'shards', 'several files', 'save_pretrained')
    refused(tmp_path/'shards'/'model.safetensors.index.json', 'JSON', 'index')
    torch.save({k: v.numpy() for k, v in weights.state_dict().items()}, tmp_path/'n.pth')
    refused(tmp_path/'n.pth', 'no names of a Vision Transformer', 'numpy')


def test_training_says_what_was_taken(tmp_path, in_process):
    torch.save(dict(model=create_vit('testing', img_size=8).state_dict(), args=argparse.Namespace()), tmp_path/'m.pth')
    status, out, err = in_process(vit_train, '--name', 'x', '--model_type', 'testing', '--pretrained_dir', 'm.pth', '--num_steps', 2, '--device', 'cpu')
    assert status == 0 and "note: the names begin with 'model.'" in err and 'argparse.Namespace' in err, err


def test_our_own_files_have_nothing_to_say(tmp_path):
    save_checkpoint(create_vit('testing'), tmp_path/'m.safetensors')
    assert inspect_checkpoint(None, tmp_path/'m.safetensors').notes == []
    with pytest.raises(CheckpointError, match='no part'): load_checkpoint(None, tmp_path/'m.safetensors', part='model')
