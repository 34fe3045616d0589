"The model against torchvision's and timm's, for the same random weights."
import re, subprocess, sys

import pytest, torch
from conftest import ROOT, relative, shake
from vit_course import vit
from vit_course.vit import create_vit

timm = pytest.importorskip('timm')
torchvision = pytest.importorskip('torchvision')

TORCHVISION = [(r'^class_token', 'cls_token'), (r'^conv_proj', 'patch_embed.proj'), (r'^encoder\.pos_embedding', 'pos_embed'),
               (r'^encoder\.ln\.', 'encoder.norm.'), (r'^encoder\.layers\.encoder_layer_(\d+)', r'encoder.blocks.\1'),
               (r'\.ln_([12])\.', r'.norm\1.'), (r'self_attention\.in_proj_', 'attn.qkv.'), (r'self_attention\.out_proj', 'attn.proj'),
               (r'mlp\.0\.', 'mlp.fc1.'), (r'mlp\.3\.', 'mlp.fc2.'), (r'^heads\.head', 'head')]


def rename(state, table):
    for pattern, new in table: state = {re.sub(pattern, new, k): v for k, v in state.items()}
    return state


def from_timm(state): return rename(state, [(r'^(blocks|norm)\.', r'encoder.\1.')])




@pytest.mark.parametrize('seed', [1, 2])
def test_torchvision_b16(seed):
    peer, ours, x = shake(torchvision.models.vit_b_16(), seed), create_vit('ViT-B_16').eval(), torch.randn(2, 3, 224, 224)
    ours.load_state_dict(rename(peer.state_dict(), TORCHVISION))
    with torch.no_grad(): assert relative(ours(x), peer(x)) < 1e-5


CASES = {
    'vit_base_patch16_224': dict(model_type='ViT-B_16'),
    'vit_small_patch14_dinov2': dict(model_type='ViT-S_14', num_classes=0),
    'vit_small_patch14_reg4_dinov2': dict(model_type='ViT-S_14', num_classes=0, registers=4),
}


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('grid', [(4, 4), (8, 16)])
def test_timm(name, grid):
    kw, patch = CASES[name], 16 if 'patch16' in name else 14
    size = tuple(n * patch for n in grid)
    peer = shake(timm.create_model(name, img_size=size, num_classes=kw.get('num_classes', 1000)), 3)
    ours, x, state = create_vit(img_size=size, **kw).eval(), torch.randn(2, 3, *size), from_timm(peer.state_dict())
    if 'reg4' in name:      # timm's file has positions for the patches alone: zero for the class token is the same model
        assert state['pos_embed'].shape[1] == ours.pos_embed.shape[1] - 1
        state['pos_embed'] = torch.cat([torch.zeros_like(state['pos_embed'][:, :1]), state['pos_embed']], 1)
    ours.load_state_dict(state)
    with torch.no_grad(): assert relative(ours.forward_features(x), peer.forward_features(x)) < 1e-5


def test_timm_qk_norm_and_layer_scale():
    peer = shake(timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=5, qk_norm=True, init_values=0.1), 5)
    ours = create_vit('testing', img_size=32, dim=48, depth=3, heads=4, mlp_dim=192, num_classes=5, qk_norm=True, layer_scale=0.1).eval()
    ours.load_state_dict(from_timm(peer.state_dict()))
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad(): assert relative(ours(x), peer(x)) < 1e-5


@pytest.mark.parametrize('wrong', ['norm order', 'gelu', 'positions'])
def test_a_wrong_model_would_be_found(wrong):
    a, x = shake(create_vit('testing'), 1), torch.randn(2, 3, 16, 16)
    b = create_vit('testing', act='gelu_tanh' if wrong == 'gelu' else 'gelu').eval()
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        if wrong == 'norm order':
            for block in b.encoder.blocks: block.norm1, block.norm2 = block.norm2, block.norm1
        if wrong == 'positions': b.pos_embed.copy_(b.pos_embed.roll(1, 1))
        assert relative(b(x), a(x)) > 1e-5


def test_compiles_whole():
    model = create_vit('testing', registers=2, qk_norm=True).eval()
    torch.nn.init.normal_(model.head.weight)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend='eager')(x), model(x))


LAZY = """
import sys, torch
from vit_course.vit import STEMS, create_vit
create_vit('testing')
before = 'vit_course.variants' in sys.modules
with torch.device('meta'): model = create_vit('R50-ViT-B_16')
print(before, 'vit_course.variants' in sys.modules, STEMS['hybrid'].__name__, type(model.stem).__name__)
"""


def test_a_variant_is_imported_when_a_config_asks_for_it():
    done = subprocess.run([sys.executable, '-c', LAZY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['False', 'True', 'ResNetStem', 'ResNetStem']


def test_a_stem_registers_itself(monkeypatch):
    class Shrink(torch.nn.MaxPool2d):
        out_chans = 3
        def __init__(self, units, in_chans): super().__init__(2**(len(units) + 1))
    monkeypatch.setitem(vit.STEMS, 'hybrid', Shrink)
    model = create_vit('testing', hybrid=(1, 1))
    assert isinstance(model.stem, Shrink) and model(torch.randn(2, 3, 16, 16)).shape == (2, 10)
