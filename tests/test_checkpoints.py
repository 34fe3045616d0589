"""Checkpoints of five libraries: the same numbers as the library they come from, the same bytes when written back, and nothing changed
when a file is refused. The peers are timm, torchvision, transformers, and `reference.py`: the official formulas in NumPy and float64."""
import json, os, stat, subprocess, sys, zipfile, zlib
from dataclasses import replace

import numpy as np, pytest, torch
from conftest import ROOT, SHARED, shake
from reference import forward, google_arrays
from torch.nn import functional as F
from vit_course.checkpoints import (CHECKPOINTS, RESIZE, CheckpointError, inspect_checkpoint,
                                    load_checkpoint, load_npz, resize_pos_embed, save_checkpoint,
                                    save_npz, verify_checkpoint)
from vit_course.patches import pair
from vit_course.tools.hub import SCALES
from vit_course.tools.load_plan import RESIZE_OF
from vit_course.tools.weight_files import (TABLES, SafetensorsFile, checksum, locate_tensor,
                                           open_checkpoint)
from vit_course.vit import CONFIGS, create_vit

timm = pytest.importorskip('timm')
torchvision = pytest.importorskip('torchvision')
transformers = pytest.importorskip('transformers')

TINY = dict(D=32, M=64, depth=2, heads=2, patch=8, positions=4, classes=10)   # what `create_vit('testing')` is
DINO = SHARED/'weights'/'dinov2_small_fp16.safetensors'


def relative(a, b):
    a, b = (np.asarray(t.detach() if isinstance(t, torch.Tensor) else t, dtype=np.float64) for t in (a, b))
    assert a.shape == b.shape
    return np.abs(a - b).max() / np.abs(b).max()

def images(h, w=None, n=1): return np.random.default_rng(h).uniform(-1, 1, (n, h, w or h, 3))   # (B,H,W,C), float64
def nchw(x): return torch.from_numpy(x).float().permute(0, 3, 1, 2)
def run(model, x):
    with torch.no_grad(): return model.eval()(nchw(x))
def snapshot(model): return {k: v.clone() for k, v in model.state_dict().items()}
def unchanged(model, before): return all(torch.equal(before[k], v) for k, v in model.state_dict().items())

@pytest.fixture(scope='session')
def b16(tmp_path_factory):
    "A file like ViT-B_16-224.npz with random numbers: (path, arrays)."
    arrays, path = google_arrays(), tmp_path_factory.mktemp('google')/'ViT-B_16-224.npz'
    with zipfile.ZipFile(path, 'w') as z: # as NumPy wrote it then: today it puts 20 bytes more before each array
        for name, a in arrays.items():
            with z.open(f'{name}.npy', 'w') as f: np.lib.format.write_array(f, a)
    assert (len(arrays), sum(a.size for a in arrays.values()), path.stat().st_size) == (200, 86_567_656, 346_335_542)
    yield path, arrays
    path.unlink()

@pytest.fixture
def tiny(tmp_path):
    "A small file of Google's kind: a function of changes to its arrays (None drops one)."
    arrays = google_arrays(**TINY)
    def write(name='tiny.npz', **changes):
        np.savez(tmp_path/name, **{k: v for k, v in (arrays | {k.replace('__', '/'): v for k, v in changes.items()}).items() if v is not None})
        return tmp_path/name
    write.arrays = arrays
    return write


# ---- Google: against timm and against the formulas

def test_b16_is_timms(b16):
    peer = timm.create_model('vit_base_patch16_224')
    peer.load_pretrained(str(b16[0]))
    ours, x = create_vit('ViT-B_16', act='gelu'), images(224)
    report = load_checkpoint(ours, b16[0])
    assert (report.format, len(report.loaded), report.problems) == ('npz', 152, '')
    d = relative(run(ours, x), run(peer, x))
    print(f'difference {d:.1e}')
    assert d < 1e-4

@pytest.mark.parametrize('size', [(224, 224), (384, 384), (160, 256)], ids=str)
def test_b16_is_the_formulas(b16, size):
    ours, x = create_vit('ViT-B_16', img_size=size, act='gelu_tanh'), images(*size)
    report = load_checkpoint(ours, b16[0])
    assert set(report.resized) == ({'pos_embed'} if size != (224, 224) else set())
    d = relative(run(ours, x), forward(b16[1], x, old=(14, 14) if report.resized else None))
    print(f'difference {d:.1e}')
    assert d < 1e-5

@pytest.mark.parametrize('size', [(160, 256)], ids=str)
def test_b16_resized_is_timms_but_for_its_resize(b16, size):
    "timm stretches without aligned corners; given the official positions, it agrees."
    peer, ours, x = timm.create_model('vit_base_patch16_224', img_size=size), create_vit('ViT-B_16', img_size=size), images(*size)
    peer.load_pretrained(str(b16[0]))
    load_checkpoint(ours, b16[0])
    assert relative(run(ours, x), run(peer, x)) > 1e-4
    with torch.no_grad(): peer.pos_embed.copy_(ours.pos_embed)
    assert relative(run(ours, x), run(peer, x)) < 1e-4

def test_the_erf_form_is_not_the_official_one(b16):
    ours, x = create_vit('ViT-B_16', act='gelu'), images(224)
    load_checkpoint(ours, b16[0])
    assert 1e-5 < relative(run(ours, x), forward(b16[1], x)) < 1e-2

@pytest.mark.parametrize('size', [(224, 224), (96, 160)], ids=str)
def test_pre_logits_is_the_formulas(tmp_path, size):
    arrays = google_arrays(classes=21, pre_logits=768, depth=6)
    np.savez(tmp_path/'pre.npz', **arrays)
    ours, x = create_vit('ViT-B_16', img_size=size, depth=6, num_classes=21, pre_logits=768, act='gelu_tanh'), images(*size)
    report = load_checkpoint(ours, tmp_path/'pre.npz')
    assert 'pre_logits.0.weight' in report.loaded and not report.skipped
    d = relative(run(ours, x), forward(arrays, x, old=(14, 14) if size != (224, 224) else None))
    print(f'difference {d:.1e}')
    assert d < 1e-5
    peer = timm.create_model('vit_base_patch16_224', depth=6, num_classes=0, img_size=size)   # timm drops the layer: features only
    peer.load_pretrained(str(tmp_path/'pre.npz'))
    with torch.no_grad():
        peer.pos_embed.copy_(ours.pos_embed)
        load_checkpoint(erf := create_vit('ViT-B_16', img_size=size, depth=6, num_classes=0), tmp_path/'pre.npz')
        assert relative(erf.eval().forward_features(nchw(x)), peer.eval().forward_features(nchw(x))) < 1e-4

@pytest.mark.parametrize('size', [(208, 272)], ids=str)
def test_hybrid_is_the_formulas(tmp_path, size):
    arrays = google_arrays(units=(3, 4, 9), classes=10, depth=4)
    np.savez(tmp_path/'r50.npz', **arrays)
    ours, x = create_vit('R50-ViT-B_16', img_size=size, depth=4, num_classes=10, act='gelu_tanh'), images(*size)
    load_checkpoint(ours, tmp_path/'r50.npz')
    d = relative(run(ours, x), forward(arrays, x, old=(14, 14) if size != (224, 224) else None))
    print(f'difference {d:.1e}')
    assert d < 1e-5
    save_npz(ours, tmp_path/'again.npz')
    with np.load(tmp_path/'again.npz') as again:
        assert set(again) == set(arrays)
        assert [k for k in arrays if again[k].tobytes() != arrays[k].tobytes()] == (['Transformer/posembed_input/pos_embedding'] if size != (224, 224) else [])

def test_whole_hybrid_and_timms_version_of_it(tmp_path):
    arrays = google_arrays(units=(3, 4, 9))
    np.savez(tmp_path/'r50.npz', **arrays)
    ours, x = create_vit('R50-ViT-B_16', act='gelu_tanh'), images(224)
    load_checkpoint(ours, tmp_path/'r50.npz')
    expected = forward(arrays, x)
    d = relative(run(ours, x), expected)
    print(f'difference {d:.1e}')
    assert d < 1e-5
    peer = timm.create_model('vit_base_r50_s16_224', num_classes=1000)
    peer.load_pretrained(str(tmp_path/'r50.npz'))
    print(f'timm: difference {relative(run(peer, x), expected):.1e}')
    torch.save(peer.state_dict(), tmp_path/'r50.pth')     # its own file: the same weights under its names
    report = load_checkpoint(again := create_vit('R50-ViT-B_16', act='gelu_tanh'), tmp_path/'r50.pth')
    assert report.format == 'timm' and unchanged(again, snapshot(ours))


# ---- the other libraries

def save_peer(peer, path):
    if hasattr(peer, 'save_pretrained') and path.suffix == '': peer.save_pretrained(path)
    else: torch.save(peer.state_dict(), path)
    return path

def check(peer, theirs, path, fmt, kwargs, size, **options):
    "Load what `peer` saved into `create_vit(**kwargs)` and compare with what `theirs(peer, x)` gives."
    ours, x = create_vit(img_size=size, **kwargs).eval(), nchw(images(*size, n=2))
    report = load_checkpoint(ours, path, **options)
    assert report.format == fmt and not report.problems
    with torch.no_grad(): d = relative(ours(x) if kwargs.get('num_classes') else ours.forward_features(x), theirs(peer, x))
    print(f'difference {d:.1e}')
    assert d < 1e-5
    return report

def test_torchvision(tmp_path):
    peer = shake(torchvision.models.vit_b_16())
    check(peer, lambda m, x: m(x), save_peer(peer, tmp_path/'tv.pth'), 'torchvision', dict(model_type='ViT-B_16', num_classes=1000), (224, 224))

def test_torchvision_older_names_and_resize(tmp_path):
    peer = shake(torchvision.models.VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5))
    state = {k.replace('mlp.0.', 'mlp.linear_1.').replace('mlp.3.', 'mlp.linear_2.'): v for k, v in peer.state_dict().items()}
    torch.save(dict(model=state, epoch=3), tmp_path/'old.pth')
    kwargs = dict(model_type='testing', num_classes=5)
    check(peer, lambda m, x: m(x), tmp_path/'old.pth', 'torchvision', kwargs, (32, 32))
    larger = torchvision.models.VisionTransformer(image_size=48, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5).eval()
    larger.load_state_dict(torchvision.models.vision_transformer.interpolate_embeddings(48, 8, peer.state_dict()))
    assert 'pos_embed' in check(larger, lambda m, x: m(x), tmp_path/'old.pth', 'torchvision', kwargs, (48, 48)).resized

@pytest.mark.parametrize('name, registers', [('vit_small_patch14_dinov2', 0), ('vit_small_patch14_reg4_dinov2', 4)])
@pytest.mark.parametrize('size', [(224, 224), (518, 518), (280, 420)], ids=str)
def test_timm_dinov2(tmp_path, name, registers, size):
    "From the file for 518 pixels, as timm resizes it."
    from timm.models.vision_transformer import checkpoint_filter_fn
    source, peer = shake(timm.create_model(name)), timm.create_model(name, img_size=size).eval()
    peer.load_state_dict(checkpoint_filter_fn(source.state_dict(), peer))
    kwargs = dict(model_type='ViT-S_14', num_classes=0, registers=registers)
    report = check(peer, lambda m, x: m.forward_features(x), save_peer(source, tmp_path/'timm.pth'), 'timm', kwargs, size)
    assert ('pos_embed' in report.resized) == (size != (518, 518))

@pytest.mark.parametrize('names, size', [('folder', (224, 224)), ('pytorch_model.bin', (160, 256))], ids=str)
def test_hf_vit(tmp_path, names, size):
    "As `save_pretrained` writes it, and under the names that the modules have in memory."
    peer = shake(transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=7, num_hidden_layers=12)))
    path = save_peer(peer, tmp_path/('hf' if names == 'folder' else names))
    check(peer, lambda m, x: m(x, interpolate_pos_encoding=True).logits, path, 'hf', dict(model_type='ViT-B_16', num_classes=7, norm_eps=1e-12), size)

def test_hf_vit_with_pooler(tmp_path):
    cfg = transformers.ViTConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8)
    save_peer(shake(transformers.ViTModel(cfg)), tmp_path/'hf')
    report = load_checkpoint(create_vit('testing'), tmp_path/'hf')
    assert {'pooler.dense.weight', 'pooler.dense.bias', 'head'} == set(report.skipped)   # an old head's layer, and there is no head

@pytest.mark.parametrize('kind, registers', [('Dinov2', 0), ('Dinov2WithRegisters', 4)])
@pytest.mark.parametrize('size', [(224, 224), (518, 518), (280, 420)], ids=str)
def test_hf_dinov2(tmp_path, kind, registers, size):
    cfg = getattr(transformers, f'{kind}Config')(hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518, patch_size=14)
    peer = shake(getattr(transformers, f'{kind}Model')(cfg))
    kwargs = dict(model_type='ViT-S_14', num_classes=0, registers=registers)
    report = check(peer, lambda m, x: m(x).last_hidden_state, save_peer(peer, tmp_path/'hf'), 'hf', kwargs, size)
    assert report.skipped['embeddings.mask_token']

def meta_names(state):
    "timm's names -> those of Meta's own DINOv2 files, which have a mask token."
    state = {k.replace('reg_token', 'register_tokens'): v for k, v in state.items()}
    return state | {'mask_token': torch.zeros(1, 384)}

@pytest.mark.parametrize('registers', [0, 4])
@pytest.mark.parametrize('size', [(518, 518), (224, 224), (280, 420)], ids=str)
def test_dinov2_own_names(tmp_path, registers, size):
    "Meta's resize: plain bicubic with a scale that is 0.1 patches too large, or antialiased when there are registers."
    source = create_vit('ViT-S_14', num_classes=0, registers=registers)
    state = meta_names({k.removeprefix('encoder.'): v for k, v in shake(source).state_dict().items()})
    torch.save(state, tmp_path/'dino.pth')
    h, w = size[0]//14, size[1]//14
    kw = dict(size=(h, w), antialias=True) if registers else dict(scale_factor=((h + .1)/37, (w + .1)/37))
    grid = F.interpolate(source.pos_embed.detach()[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2), mode='bicubic', **kw)
    if size == (518, 518): grid = source.pos_embed.detach()[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    peer = create_vit('ViT-S_14', img_size=size, num_classes=0, registers=registers).eval()
    peer.load_state_dict(source.state_dict() | {'pos_embed': torch.cat([source.pos_embed.detach()[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)})
    kwargs = dict(model_type='ViT-S_14', num_classes=0, registers=registers)
    report = check(peer, lambda m, x: m.forward_features(x), tmp_path/'dino.pth', 'dinov2', kwargs, size)
    assert 'mask_token' in report.skipped

@pytest.mark.skipif(not DINO.exists(), reason=f'{DINO} is not here: real DINOv2-S (saliency-tuned) weights are an optional extra')
@pytest.mark.parametrize('size', [(224, 224), (518, 518), (280, 420)], ids=str)
def test_real_dinov2(size):
    from safetensors.torch import load_file
    from timm.models.vision_transformer import checkpoint_filter_fn
    peer = timm.create_model('vit_small_patch14_dinov2', img_size=size).eval()
    peer.load_state_dict(checkpoint_filter_fn({k: v.float() for k, v in load_file(DINO).items()}, peer))
    report = check(peer, lambda m, x: m.forward_features(x), DINO, 'timm', dict(model_type='ViT-S_14', num_classes=0), size)
    assert len(report.loaded) + len(report.resized) == 174

def test_timm_hub_layout_of_a_plain_model(tmp_path):
    "timm's B/16 with its head, as safetensors."
    from safetensors.torch import save_file
    peer = shake(timm.create_model('vit_base_patch16_224'))
    save_file(peer.state_dict(), tmp_path/'model.safetensors')
    check(peer, lambda m, x: m(x), tmp_path, 'timm', dict(model_type='ViT-B_16', num_classes=1000), (224, 224))


# ---- names

@pytest.mark.parametrize('rename', [
    lambda k: f'opt/target/{k}',
    lambda k: k.replace('DotProductAttention_1', 'DotProductAttention_0').replace('MlpBlock_3', 'MlpBlock_0').replace('LayerNorm_2', 'LayerNorm_1')],
    ids=['opt/target', 'linen'])
def test_augreg_spellings(tmp_path, rename):
    arrays = google_arrays(**TINY)
    np.savez(tmp_path/'a.npz', **arrays)
    np.savez(tmp_path/'b.npz', **{rename(k): v for k, v in arrays.items()})
    a, b = (load_checkpoint(None, tmp_path/f'{n}.npz').model for n in 'ab')
    assert unchanged(a, b.state_dict())

def test_group_norms_of_newer_flax(tmp_path):
    arrays = google_arrays(units=(1, 1), depth=1, D=32, M=64, heads=2, classes=3, positions=4, patch=8)
    np.savez(tmp_path/'a.npz', **{k: v.squeeze() if '/gn' in k or k.startswith('gn') else v for k, v in arrays.items()})
    report = load_checkpoint(None, tmp_path/'a.npz')
    np.testing.assert_array_equal(report.model.stem.stages[1][0].gn_proj.weight.detach(), arrays['block2/unit1/gn_proj/scale'].squeeze())
    assert report.model.cfg.hybrid == (1, 1)

def test_wrappers_are_looked_through(tmp_path):
    model = shake(create_vit('testing'))
    save_checkpoint(torch.compile(model, backend='eager'), tmp_path/'c.safetensors')
    other = create_vit('testing')
    load_checkpoint(torch.nn.DataParallel(other), tmp_path/'c.safetensors')
    assert unchanged(other, snapshot(model))
    torch.save({f'module.{k}': v for k, v in model.state_dict().items()}, tmp_path/'ddp.pt')
    assert unchanged(load_checkpoint(create_vit('testing'), tmp_path/'ddp.pt').model, snapshot(model))
    with pytest.raises(TypeError, match='VisionTransformer is needed, not a Linear'): load_checkpoint(torch.nn.Linear(1, 1), tmp_path/'c.safetensors')

def test_every_tensor_of_every_model_has_a_name():
    for name in CONFIGS:
        with torch.device('meta'): keys = list(create_vit(name, registers=0 if name.startswith('R50') else 2, qk_norm=True, layer_scale=1.).state_dict())
        for fmt in ('timm', 'vit_course', 'dinov2'): assert all(locate_tensor(fmt, key) for key in keys)
        if CONFIGS[name].layer_scale is None:
            with torch.device('meta'): keys = list(create_vit(name, pre_logits=8).state_dict())
            assert all(locate_tensor('npz', key) for key in keys)

@pytest.mark.parametrize('name', CHECKPOINTS)
def test_published_files_fit_their_models(name):
    c = CHECKPOINTS[name]
    with torch.device('meta'): model = c.create()
    assert c.format in TABLES and all(locate_tensor(c.format, key) for key in model.state_dict())
    assert all(url.startswith('https://') for url in c.urls) and c.scale in SCALES
    assert sum(other.file == c.file for other in CHECKPOINTS.values()) == 1


# ---- the head, positions, configs

def test_head_is_kept_when_the_classes_are_as_many(tiny):
    report = load_npz(model := create_vit('testing'), tiny())
    np.testing.assert_array_equal(model.head.weight.detach(), tiny.arrays['head/kernel'].T)
    assert not report.skipped

@pytest.mark.parametrize('head, classes', [('auto', 3), ('new', 10), ('new', 3)])
def test_a_new_head_is_zero_and_says_so(tiny, head, classes):
    model = shake(create_vit('testing', num_classes=classes))
    report = load_checkpoint(model, tiny(), head=head)
    assert not model.head.weight.any() and not model.head.bias.any()
    assert set(report.skipped) == {'head/kernel', 'head/bias'} and 'starts at zero' in str(report)

def test_head_can_be_demanded(tiny):
    model = create_vit('testing', num_classes=3)
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=r'head/kernel is \(32, 10\), but the model needs \(32, 3\)'): load_checkpoint(model, tiny(), head='keep')
    with pytest.raises(CheckpointError, match='missing: head/kernel, head/bias'): load_checkpoint(model, tiny(head__kernel=None, head__bias=None), head='keep')
    assert unchanged(model, before)

def test_a_model_without_a_head(tiny):
    report = load_checkpoint(create_vit('testing', num_classes=0), tiny())
    assert set(report.skipped) == {'head/kernel', 'head/bias'}

def test_a_file_without_a_head(tiny):
    report = load_checkpoint(model := shake(create_vit('testing')), tiny(head__kernel=None, head__bias=None))
    assert not model.head.weight.any() and 'no classes' in report.skipped['head']

def test_half_a_head_is_refused(tiny):
    with pytest.raises(CheckpointError, match='unexpected: head/bias'): load_checkpoint(create_vit('testing'), tiny(head__kernel=None))
    with pytest.raises(CheckpointError, match='missing: head/bias'): load_checkpoint(create_vit('testing'), tiny(head__bias=None))

def test_pre_logits_goes_with_its_head(tmp_path):
    np.savez(tmp_path/'pre.npz', **google_arrays(pre_logits=24, **TINY))
    kept = load_checkpoint(create_vit('testing', pre_logits=24), tmp_path/'pre.npz')
    assert {'pre_logits.0.weight', 'head.weight'} <= set(kept.loaded) and not kept.skipped
    dropped = load_checkpoint(create_vit('testing', num_classes=3), tmp_path/'pre.npz')
    assert set(dropped.skipped) == {'head/kernel', 'head/bias', 'pre_logits/kernel', 'pre_logits/bias'}
    with pytest.raises(CheckpointError, match='unexpected: pre_logits/kernel, pre_logits/bias.*in the file pre_logits=24; in the model pre_logits=None'):
        load_checkpoint(create_vit('testing'), tmp_path/'pre.npz')      # the head would be fed with something else than it knows
    official = load_checkpoint(model := create_vit('testing', pre_logits=24, num_classes=3), tmp_path/'pre.npz')
    assert 'pre_logits.0.weight' in official.loaded and not model.head.weight.any()   # the official code's other way: keep it, new head

@pytest.mark.parametrize('mode', RESIZE)
@pytest.mark.parametrize('old, new, n', [((14, 14), (24, 24), 1), ((6, 9), (4, 10), 5), ((3, 3), (1, 1), 0), ((1, 1), (3, 2), 1), ((2, 5), (2, 5), 1)], ids=str)
def test_resize_keeps_prefix_and_constants(mode, old, new, n):
    pos = torch.randn(1, n + old[0]*old[1], 8)
    out = resize_pos_embed(pos, new, old, n, mode)
    assert out.shape == (1, n + new[0]*new[1], 8) and torch.equal(out[:, :n], pos[:, :n])
    flat = torch.cat([pos[:, :n], torch.ones(1, old[0]*old[1], 8)], 1)
    torch.testing.assert_close(resize_pos_embed(flat, new, old, n, mode)[:, n:], torch.ones(1, new[0]*new[1], 8))

@pytest.mark.parametrize('old, new', [((14, 14), (24, 24)), ((14, 14), (10, 16)), ((7, 5), (20, 3)), ((24, 24), (14, 14))], ids=str)
def test_bilinear_is_scipys_zoom(old, new):
    from reference import stretch
    pos = torch.randn(1, 1 + old[0]*old[1], 16)
    d = relative(resize_pos_embed(pos, new, old), stretch(pos.numpy().astype(np.float64), new, old))
    print(f'difference {d:.1e}')
    assert d < 1e-5

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_resize_keeps_the_type(dtype): assert resize_pos_embed(torch.randn(1, 5, 8).to(dtype), (3, 3)).dtype == dtype

def test_bicubic_on_request(tiny):
    a, b = (load_checkpoint(create_vit('testing', img_size=64), tiny(), resize=r).model.pos_embed for r in ('auto', 'bicubic'))
    assert relative(a, b) > 1e-3

def test_rectangular_files(tmp_path):
    "A rectangle goes to another one when its grid is known: from our own metadata, from grid=, or because it is the model's."
    model = shake(create_vit('testing', img_size=(16, 48)))                          # 2 x 6 patches
    save_checkpoint(model, tmp_path/'a.safetensors'); save_npz(model, tmp_path/'a.npz')
    wanted = resize_pos_embed(model.pos_embed.detach(), (3, 4), (2, 6))
    for path, kw in ((tmp_path/'a.safetensors', {}), (tmp_path/'a.npz', dict(grid=(2, 6)))):
        report = load_checkpoint(create_vit('testing', img_size=(24, 32)), path, **kw)
        assert torch.equal(report.model.pos_embed.detach(), wanted) and report.resized['pos_embed'].startswith('2 x 6 to 3 x 4')
    assert unchanged(load_checkpoint(create_vit('testing', img_size=(16, 48)), tmp_path/'a.npz').model, snapshot(model))
    with pytest.raises(CheckpointError, match='no square grid: say which'): load_checkpoint(create_vit('testing', img_size=40), tmp_path/'a.npz')
    with pytest.raises(CheckpointError, match='not a grid of 3 x 5'): load_checkpoint(create_vit('testing'), tmp_path/'a.npz', grid=(3, 5))
    assert load_checkpoint(None, tmp_path/'a.npz', grid=(2, 6)).model.grid == (2, 6)

def test_an_ambiguous_grid_is_not_guessed(tmp_path):
    save_npz(shake(create_vit('testing', img_size=(16, 64))), tmp_path/'a.npz')      # 2 x 8 patches, or 4 x 4?
    with pytest.raises(CheckpointError, match='2 x 8 or 4 x 4'): load_checkpoint(create_vit('testing', img_size=(16, 64)), tmp_path/'a.npz')
    assert not load_checkpoint(create_vit('testing', img_size=(16, 64)), tmp_path/'a.npz', grid=(2, 8)).resized
    assert load_checkpoint(create_vit('testing', img_size=(16, 64)), tmp_path/'a.npz', grid=(4, 4)).resized

@pytest.mark.parametrize('kwargs', [dict(), dict(img_size=(24, 40), registers=3, qk_norm=True, layer_scale=.1, num_classes=0), dict(pos_embed='sincos2d', pool='mean'),
    dict(pos_embed='none', act='gelu_tanh', drop=.1, drop_path=.2), dict(pre_logits=7, in_chans=5), dict(patch_size=(8, 4)), dict(hybrid=(1, 2), img_size=64, patch_size=8)], ids=str)
def test_own_files_rebuild_the_model(tmp_path, kwargs):
    model = shake(create_vit('testing', **kwargs))
    save_checkpoint(model, tmp_path/'best.safetensors', metadata=dict(step=7, note='x'))
    report = load_checkpoint(None, tmp_path)
    assert report.model.cfg == model.cfg and unchanged(report.model, snapshot(model)) and not report.skipped
    assert (report.format, report.metadata['step'], report.metadata['note']) == ('vit_course', '7', 'x')
    assert not any(p.is_meta for p in [*report.model.parameters(), *report.model.buffers()]) and all(p.requires_grad for p in report.model.parameters())
    x = torch.randn(2, model.cfg.in_chans, *pair(model.cfg.img_size))
    with torch.no_grad(): assert torch.equal(report.model.eval()(x), model(x))

@pytest.mark.parametrize('kwargs', [dict(), dict(img_size=48, patch_size=16, in_chans=1, num_classes=0), dict(dim=192, heads=4, depth=3, mlp_dim=100), dict(pre_logits=9),
    dict(hybrid=(2, 1), img_size=64, patch_size=8)], ids=str)
def test_the_config_is_read_off_the_shapes(tmp_path, kwargs):
    model = shake(create_vit('testing', act='gelu_tanh', **kwargs))
    save_npz(model, tmp_path/'a.npz')
    report = load_checkpoint(None, tmp_path/'a.npz')
    c = model.cfg
    assert report.model.cfg == replace(c, img_size=pair(c.img_size), patch_size=pair(c.patch_size)) and unchanged(report.model, snapshot(model))

def test_inspecting_changes_nothing(tiny):
    model = shake(create_vit('testing', num_classes=3))
    before = snapshot(model)
    report = inspect_checkpoint(model, tiny(extra=np.zeros(3, 'f4'), cls=None))
    assert unchanged(model, before)
    assert set(report.missing) == {'cls_token'} and set(report.unexpected) == {'extra'} and set(report.skipped) == {'head/kernel', 'head/bias'}
    table = str(report)
    assert all(word in table for word in ('loaded', 'resized', 'skipped', 'missing', 'unexpected', 'extra', "('cls',)"))

@pytest.mark.parametrize('changes, reason', [
    (dict(extra=np.zeros(3, 'f4')), 'unexpected: extra'),
    (dict(cls=None), 'missing: cls'),
    (dict(Transformer__encoderblock_1__LayerNorm_2__bias=None), 'missing: Transformer/encoderblock_1/LayerNorm_2/bias'),
    (dict(Transformer__encoderblock_2__LayerNorm_2__bias=np.zeros(32, 'f4')), 'unexpected: Transformer/encoderblock_2/LayerNorm_2/bias'),
    (dict(cls=np.zeros((1, 1, 31), 'f4')), r'cls is \(1, 1, 31\), but the model needs \(1, 1, 32\)'),
    (dict(cls=np.zeros((1, 1, 32), 'i4')), 'cls has the type <i4'),
    (dict(cls=np.zeros((1, 1, 32), '>f4')), 'cls has the type >f4'),
    (dict(cls=np.zeros((1, 1, 32), 'c8')), 'cls has the type <c8'),
    (dict(cls=np.full((1, 1, 32), np.nan, 'f4')), 'cls holds NaN or infinity'),
    (dict(head__bias=np.array([0]*9 + [np.inf], 'f4')), 'head/bias holds NaN or infinity'),
    (dict(head__bias=np.array([0]*9 + [1e300])), 'head/bias holds NaN or infinity'),     # too large for float32
    (dict(cls=np.array([print]*32)), 'cls holds Python objects'),
], ids=str)
def test_refusals_name_the_tensor_and_leave_the_model(tiny, changes, reason):
    model = shake(create_vit('testing'))
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=reason) as e: load_checkpoint(model, tiny(**changes))
    assert unchanged(model, before) and str(e.value).count('\n') == 0 and 'tiny.npz' in str(e.value)

def test_another_model_is_told_apart(tiny):
    for kwargs, difference in ((dict(depth=3), r'in the file depth=2; in the model depth=3'), (dict(dim=64, heads=4), 'in the file dim=32, heads=2; in the model dim=64, heads=4'),
                               (dict(heads=4), 'in the file heads=2; in the model heads=4'), (dict(layer_scale=1.), 'layer_scale'), (dict(registers=2), 'registers'),
                               (dict(patch_size=4), r'patch_size=\(8, 8\)'), (dict(in_chans=1), 'in_chans=3; in the model in_chans=1'), (dict(qk_norm=True), 'qk_norm')):
        with pytest.raises(CheckpointError, match=difference): load_checkpoint(create_vit('testing', **kwargs), tiny())

def test_own_files_know_their_heads(tmp_path):
    save_checkpoint(create_vit('testing'), tmp_path/'a.safetensors')
    with pytest.raises(CheckpointError, match='has 2 heads, but the model 4'): load_checkpoint(create_vit('testing', heads=4), tmp_path/'a.safetensors')

@pytest.mark.parametrize('dtype', ['f2', 'f8', 'bf16'])
def test_other_floating_types(tiny, dtype):
    a = tiny.arrays['head/kernel']
    values = torch.from_numpy(a).bfloat16() if dtype == 'bf16' else torch.from_numpy(a.astype(dtype))
    stored = values.view(torch.int16).numpy().view('V2') if dtype == 'bf16' else values.numpy()
    load_checkpoint(model := create_vit('testing'), tiny(head__kernel=stored))
    assert torch.equal(model.head.weight.detach(), values.float().T)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_models_keep_their_type(tiny, dtype):
    model = create_vit('testing').to(dtype)
    load_checkpoint(model, tiny())
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.equal(model.head.weight.detach(), torch.from_numpy(tiny.arrays['head/kernel'].T).to(dtype))

def test_fortran_order(tiny):
    load_checkpoint(model := create_vit('testing'), tiny(**{k.replace('/', '__'): np.asfortranarray(v) for k, v in tiny.arrays.items()}))
    assert unchanged(load_checkpoint(create_vit('testing'), tiny()).model, snapshot(model))

def test_a_model_on_meta_is_filled(tiny):
    with torch.device('meta'): model = create_vit('testing')
    load_checkpoint(model, tiny())
    assert unchanged(load_checkpoint(create_vit('testing'), tiny()).model, snapshot(model))

@pytest.mark.parametrize('options', [dict(format='keras'), dict(head='old'), dict(resize='nearest')], ids=str)
def test_unknown_options(tiny, options):
    with pytest.raises(ValueError, match='unknown .* choose'): load_checkpoint(create_vit('testing'), tiny(), **options)

def test_a_forced_format_is_believed(tiny):
    with pytest.raises(CheckpointError, match='no names of a Vision Transformer'): load_checkpoint(create_vit('testing'), tiny(), format='timm')
    load_checkpoint(create_vit('testing'), tiny(), format='npz')


@pytest.mark.parametrize('changes', [dict(depth=10**9), dict(dim=10**12), dict(img_size=10**9), dict(img_size=10**9, pos_embed='sincos2d'), dict(registers=10**12),
    dict(hybrid=[10**9]), dict(heads=0), dict(depth='2'), dict(depth=2.5), dict(extra=1), dict(act='relu'), dict(num_classes=10**15), dict(norm_eps=0), dict(mlp_dim=None)], ids=str)
def test_absurd_configs(tmp_path, changes):
    "Right checksums, wrong config: by malice, not by accident."
    from safetensors.torch import save_file
    model = create_vit('testing')
    save_checkpoint(model, tmp_path/'a.safetensors')
    config = json.dumps(json.loads(SafetensorsFile(tmp_path/'a.safetensors', open(tmp_path/'a.safetensors', 'rb')).metadata['vit_course']) | changes)
    state = model.state_dict()
    crcs = {'vit_course': zlib.crc32(config.encode()), **{k: checksum(k, v) for k, v in state.items()}}
    save_file(state, tmp_path/'b.safetensors', metadata=dict(vit_course=config, crc32=json.dumps(crcs)))
    with pytest.raises(CheckpointError, match='b.safetensors'): load_checkpoint(None, tmp_path/'b.safetensors')
    given = create_vit('testing')
    before = snapshot(given)
    try: load_checkpoint(given, tmp_path/'b.safetensors')
    except CheckpointError: assert unchanged(given, before)
    else: assert unchanged(given, snapshot(model))      # the weights are good, and this model knows what it is


# ---- files

@pytest.mark.parametrize('content, reason', [(b'', 'neither'), (b'hello', 'neither'), (b'<!DOCTYPE html>', 'web page'), (b'{"error": 404}', 'text in JSON'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'), (b'PK\3\4' + bytes(100), 'damaged'), (b'\x80\x02}q\0.', 'no names|damaged'),
    (b'\xff'*8 + b'{}', 'a header of')], ids=str)
def test_what_is_no_checkpoint(tmp_path, content, reason):
    (tmp_path/'x.bin').write_bytes(content)
    with pytest.raises(CheckpointError, match=reason): load_checkpoint(create_vit('testing'), tmp_path/'x.bin')

def test_places_where_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv('VIT_COURSE_CACHE', str(tmp_path/'cache'))
    for source, reason in ((tmp_path/'none.npz', 'no such file'), (tmp_path, 'a folder with neither'), ('ViT-B_16-224', 'vit_weights fetch ViT-B_16-224'),
                           ('checkpoint/ViT-B_16-224.npz', 'vit_weights fetch ViT-B_16-224'), ('/dev/zero', 'not a file')):
        with pytest.raises(CheckpointError, match=reason): load_checkpoint(None, source)

def test_no_pickle_is_run(tmp_path):
    class Bad:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'executed'),)
    torch.save({'blocks.0.attn.qkv.weight': Bad()}, tmp_path/'a.pth')
    torch.save({'blocks.0.attn.qkv.weight': Bad()}, tmp_path/'b.pth', _use_new_zipfile_serialization=False)
    np.savez(tmp_path/'c.npz', **{'embedding/kernel': np.array([Bad()], dtype=object)})
    for name in ('a.pth', 'b.pth', 'c.npz'):
        with pytest.raises(CheckpointError, match='pickle'): load_checkpoint(create_vit('testing'), tmp_path/name)
    assert not (tmp_path/'executed').exists()

def test_zip_bombs_are_refused_before_they_are_read(tmp_path, tiny):
    def bomb(shape, claimed=None):
        with zipfile.ZipFile(tiny(), 'a', zipfile.ZIP_DEFLATED, compresslevel=1) as z, z.open('Transformer/posembed_input/pos_embedding2.npy', 'w') as m:
            np.lib.format.write_array_header_1_0(m, dict(descr='<f4', fortran_order=False, shape=shape))
            for _ in range(int(np.prod(shape))*4//2**22): m.write(bytes(2**22))
        return tmp_path/'tiny.npz'
    with pytest.raises(CheckpointError, match='zip bomb'): load_checkpoint(create_vit('testing'), bomb((2**27,)))
    with pytest.raises(CheckpointError, match='unexpected'): load_checkpoint(create_vit('testing'), bomb((2**24,)))
    huge = {k: v for k, v in google_arrays(**TINY).items()} | {'Transformer/posembed_input/pos_embedding': np.zeros((1, 1 + 300**2, 32), 'f4')}
    np.savez_compressed(tmp_path/'huge.npz', **huge)
    with pytest.raises(CheckpointError, match='90,001 position embeddings'): load_checkpoint(create_vit('testing'), tmp_path/'huge.npz')

def test_compressed_files_load(tiny, tmp_path):
    np.savez_compressed(tmp_path/'small.npz', **tiny.arrays)
    assert unchanged(load_checkpoint(None, tmp_path/'small.npz').model, load_checkpoint(None, tiny()).model.state_dict())

def test_npz_round_trip_gives_the_same_bytes(b16, tmp_path):
    model = create_vit('ViT-B_16')
    load_npz(model, b16[0])
    save_npz(model, tmp_path/'again.npz')
    assert (tmp_path/'again.npz').stat().st_size == b16[0].stat().st_size
    with np.load(tmp_path/'again.npz') as again:
        assert set(again) == set(b16[1])
        for name, a in b16[1].items(): assert (again[name].dtype, again[name].shape, again[name].tobytes()) == (a.dtype, a.shape, a.tobytes()), name
    (tmp_path/'again.npz').unlink()

@pytest.mark.parametrize('kwargs', [dict(registers=1), dict(layer_scale=1.), dict(qk_norm=True), dict(pool='mean'), dict(pos_embed='none'), dict(pos_embed='sincos2d')], ids=str)
def test_npz_cannot_hold_everything(tmp_path, kwargs):
    with pytest.raises(CheckpointError, match='no place for'): save_npz(create_vit('testing', **kwargs), tmp_path/'a.npz')
    assert not list(tmp_path.iterdir())

def test_npz_with_the_exact_gelu_says_so(tmp_path):
    "Google's code has the tanh form alone."
    with pytest.warns(UserWarning, match='exact GELU'): save_npz(create_vit('testing'), tmp_path/'a.npz')
    assert load_checkpoint(None, tmp_path/'a.npz').model.cfg.act == 'gelu_tanh'

@pytest.mark.parametrize('save', [save_checkpoint, save_npz])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, save):
    path = tmp_path/'best.file'
    save(create_vit('testing'), path)
    before, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    (tmp_path/'ordinary').touch()
    assert mode == stat.S_IMODE((tmp_path/'ordinary').stat().st_mode)
    def fails(*args, **kwargs): raise OSError('disk full')
    monkeypatch.setattr(os, 'fsync', fails)
    with pytest.raises(OSError, match='disk full'): save(shake(create_vit('testing')), path)
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ['best.file', 'ordinary']

def test_safetensors_by_the_library_and_by_us(tmp_path):
    from safetensors import safe_open
    model = shake(create_vit('testing')).half()
    save_checkpoint(model, tmp_path/'a.safetensors')
    with safe_open(tmp_path/'a.safetensors', 'pt') as theirs, open_checkpoint(tmp_path/'a.safetensors') as ours:
        assert set(theirs.keys()) == set(ours.arrays) and theirs.metadata() == ours.metadata and json.loads(ours.metadata['vit_course'])['dim'] == 32
        for k in theirs.keys(): assert torch.equal(theirs.get_tensor(k), ours.read(k))

def test_own_state_dicts_without_metadata(tmp_path):
    model = shake(create_vit('testing'))
    torch.save(model.state_dict(), tmp_path/'a.pt')
    torch.save(dict(model_state_dict=model.state_dict(), step=3), tmp_path/'b.pt', _use_new_zipfile_serialization=False)
    for name in 'ab': assert unchanged(load_checkpoint(create_vit('testing'), tmp_path/f'{name}.pt').model, snapshot(model))

def test_verify(tiny):
    assert len(verify_checkpoint(tiny()).loaded) == 32
    with pytest.raises(CheckpointError, match='NaN'): verify_checkpoint(tiny(cls=np.full((1, 1, 32), np.nan, 'f4')))

PEAK = r"""
import re, sys
import torch
from vit_course.checkpoints import load_checkpoint
from vit_course.vit import create_vit
def peak(): return 1024*int(re.search(r'VmHWM:\s*(\d+) kB', open('/proc/self/status').read())[1])
torch.ones(2**20).aminmax(), torch.cat([torch.ones(2**20)]*2)   # whatever threads and buffers come with the first call
start = peak()
model = create_vit('ViT-B_16', act='gelu_tanh') if sys.argv[2] == 'given' else None
if sys.argv[2] == 'smaller': model = create_vit('ViT-B_16', img_size=160, num_classes=10, act='gelu_tanh')
load_checkpoint(model, sys.argv[1], heads=12, act='gelu_tanh', norm_eps=1e-6, pool='cls')
print(peak() - start)
"""

@pytest.mark.skipif(sys.platform != 'linux', reason='the high-water mark of memory is read from /proc')
@pytest.mark.parametrize('kind, model', [('npz', 'given'), ('npz', 'smaller'), ('npz', 'none'), ('safetensors', 'given'), ('pth', 'given'), ('pth', 'none')])
def test_peak_memory(b16, tmp_path, kind, model):
    "Model and all, loading takes less than twice the file: one tensor at a time."
    path = b16[0]
    if kind != 'npz':
        source, path = load_checkpoint(None, b16[0]).model, tmp_path/f'b16.{kind}'
        if kind == 'safetensors': save_checkpoint(source, path)
        else: torch.save(source.state_dict(), path)
        del source
    p = subprocess.run([sys.executable, '-c', PEAK, str(path), model], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {'CUDA_VISIBLE_DEVICES': ''})
    share = int(p.stdout) / b16[0].stat().st_size
    print(f'peak / file {share:.2f}')
    if kind != 'npz': path.unlink()
    assert share < 2


def test_each_format_has_its_way_to_resize():
    assert set(RESIZE_OF) == set(TABLES) and set(RESIZE_OF.values()) <= set(RESIZE)
