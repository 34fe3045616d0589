"""Families of Vision Transformers (tools/families, tools/family_files): a file of timm, transformers,
OpenCLIP or Meta with random weights gives the model that wrote it, its features, its logits and its
attention weights; what cannot be read off a file is asked for, and what is no Vision Transformer is
refused by its name."""
import json, sys, warnings
from dataclasses import replace
from functools import partial

import conftest, numpy as np, pytest, torch
from conftest import ROOT, relative
from reference import google_arrays
from PIL import Image
from safetensors.torch import save_file
from vit_course.attention_maps import attention_maps, position_similarity, relevance, rollout
from vit_course.explorer import AttentionExplorer
from vit_course.checkpoints import CHECKPOINTS, CheckpointError, inspect_checkpoint, load_checkpoint, save_checkpoint, save_npz, verify_checkpoint
from vit_course.patches import pair
from vit_course.tools.capture import capture_attention, token_names
from vit_course.tools.commands import vit_attention, vit_weights
from vit_course.tools.families import FamilyConfig, FamilyViT, build_vit
from vit_course.tools.hub import mean_and_std
from vit_course.vit import ViTConfig, VisionTransformer, count_flops, unwrap_model

timm = pytest.importorskip('timm')
transformers = pytest.importorskip('transformers')
transformers.utils.logging.disable_progress_bar()
sys.path.insert(0, str(ROOT/'benchmarks'))
from families import timm_facts


shake = partial(conftest.shake, std=.2)    # so large that each of them matters

def images(model, n=2):
    c = model.cfg
    return torch.randn(n, c.in_chans, *pair(c.img_size), generator=torch.Generator().manual_seed(1))

def build(source, **said):
    "(the report of a model that is built from a source alone, the warnings)."
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        report = load_checkpoint(None, source, **said)
    return report, [str(w.message) for w in heard if 'assumed' in str(w.message)]

def refused(reason, source, **said):
    with pytest.raises(CheckpointError, match=reason) as e: load_checkpoint(None, source, **said)
    assert '\n' not in str(e.value)


# ------------------------------------------------------------------------------------- timm

SMALL = dict(embed_dim=48, depth=2, num_heads=4, num_classes=5)
TIMM = {  # name: (arguments, what is said to our loader, the family)
    'deit_tiny_distilled_patch16_224': ({}, {}, 'DeiT'),
    'vit_base_patch16_224_miil': ({}, {}, 'ViT'),                              # no bias on q, k and v
    'vit_medium_patch16_gap_240': ({}, {}, 'ViT without a class token'),                              # no class token
    'vit_base_patch16_gap_224': ({}, {}, 'ViT without a class token'),
    'vit_medium_patch16_reg4_gap_256': ({}, {}, 'ViT without a class token'),                         # registers, fc_norm
    'vit_so150m_patch16_reg4_gap_256': ({}, {}, 'ViT without a class token'),                         # registers have positions
    'vit_so150m_patch16_reg4_map_256': ({}, dict(pool='map'), 'ViT with attention pooling'),                      # attention pooling
    'eva_large_patch14_196': ({}, {}, 'ViT'),                                   # class token, fc_norm
    'vit_base_patch16_clip_224': ({}, dict(act='gelu'), 'CLIP'),
    'vit_base_patch16_clip_quickgelu_224': ({}, dict(act='quick_gelu'), 'CLIP'),
    'vit_base_patch16_siglip_224': ({}, dict(act='gelu'), 'SigLIP'),
    'vit_base_patch16_siglip_gap_224': ({}, {}, 'ViT without a class token'),
    'vit_pe_core_tiny_patch16_384': (dict(ref_feat_shape=(4, 4)), {}, 'Perception Encoder'),     # 8 heads in its pooling
    'vit_pe_lang_gigantic_patch14_448': (dict(ref_feat_shape=(4, 4)), {}, 'Perception Encoder'), # no class token
    'vit_pe_spatial_base_patch16_512': (dict(ref_feat_shape=(4, 4)), {}, 'Perception Encoder'),
    'vit_base_patch32_siglip_256': ({}, dict(act='gelu_tanh'), 'SigLIP'),
    'vit_giant_patch14_dinov2': ({}, {}, 'DINOv2'),                             # SwiGLU in one layer
    'vit_intern300m_patch14_448': ({}, {}, 'ViT without a last norm'),
    'beit3_base_patch16_224': ({}, {}, 'BEiT-3'),                               # norms within
    'aimv2_large_patch14_224': ({}, {}, 'AIMv2'),                               # RMSNorm, no biases
    'eva_giant_patch14_224': ({}, {}, 'EVA'),
    'eva02_tiny_patch14_224': ({}, {}, 'EVA-02'),
    'eva02_base_patch14_224': ({}, {}, 'EVA-02'),                               # q, k, v apart; SwiGLU in two layers
    'eva02_base_patch16_clip_224': ({}, {}, 'EVA-02'),                          # norms within
    'vit_medium_patch16_rope_reg1_gap_256': ({}, dict(grid=(4, 4)), 'ViT with rotary positions'),
    'vit_small_patch16_rope_224': ({}, dict(grid=(4, 4)), 'RoPE-ViT'),
    'vit_small_patch16_rope_ape_224': ({}, dict(family='RoPE-ViT with learned positions'), 'RoPE-ViT with learned positions'),
    'vit_small_patch16_dinov3': ({}, dict(pool='mean'), 'DINOv3'),
    'vit_small_patch16_dinov3_qkvb': ({}, dict(pool='mean'), 'DINOv3'),
    'vit_huge_plus_patch16_dinov3': ({}, dict(pool='mean'), 'DINOv3'),          # SwiGLU in two layers
}

ALWAYS = 'DINOv3', 'AIMv2', 'BEiT-3', 'Perception Encoder', 'CLIP'    # their epsilon is the family's

def timm_peer(name, size=None, **kw):
    patch = 14 if 'patch14' in name else 32 if 'patch32' in name else 16
    torch.manual_seed(0)
    kw = SMALL | dict(img_size=size or 4*patch) | TIMM.get(name, ({},))[0] | kw
    return shake(timm.create_model(name, **kw))

def facts(peer, name):
    "What no shape of a peer's weights shows, as a caller says it."
    found = timm_facts(peer)
    shown = hasattr(peer, 'head_dist') or getattr(peer, 'cls_token', None) is None or not isinstance(peer.fc_norm, torch.nn.Identity)
    if shown or found['pool'] not in ('cls', 'mean'): del found['pool']
    if found['act'] == 'silu': del found['act']             # gated: its shapes show it
    return found | TIMM[name][1]

def timm_weights(peer, x):
    "The attention weights of each block, as timm computes them without its fused path."
    seen = []
    for block in peer.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad(): peer(x)
    return torch.stack(seen)

def test_small_peers_are_as_different_as_the_families():
    assert len({tuple(sorted(k.split('blocks.0.')[-1] for k in timm_peer(name).state_dict() if 'blocks.1' not in k)) for name in TIMM}) > 14

@pytest.mark.parametrize('name', TIMM)
def test_timm(tmp_path, name):
    peer, (_, _, family) = timm_peer(name), TIMM[name]
    save_file(peer.state_dict(), tmp_path/'a.safetensors')
    known = facts(peer, name)
    for f in known.keys() - {'grid', 'family'}:        # each is asked for
        if f != 'pool' and not (f == 'norm_eps' and family in ALWAYS): refused('how many heads' if f == 'heads' else f, tmp_path/'a.safetensors', **{k: v for k, v in known.items() if k != f})
    report, heard = build(tmp_path/'a.safetensors', **known)
    model = report.model.eval()
    x = images(model)
    with torch.no_grad():
        assert relative(model.forward_features(x), peer.forward_features(x)) < 1e-5
        assert relative(model(x), peer(x)) < 1e-5
    assert isinstance(model, FamilyViT) and model.cfg.family == family and unwrap_model(torch.nn.Sequential(model)) is model
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in peer.parameters())
    assert not heard and not report.assumed and report.said['heads'] == (4, 'the call')
    ours, theirs = attention_maps(model, x), timm_weights(peer, x)
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 1e-5

@pytest.mark.parametrize('name', TIMM)
def test_a_save_rebuilds_the_model(tmp_path, name):
    peer = timm_peer(name)
    save_file(peer.state_dict(), tmp_path/'a.safetensors')
    model = build(tmp_path/'a.safetensors', **facts(peer, name))[0].model.eval()
    save_checkpoint(model, tmp_path/'b.safetensors')
    report, heard = build(tmp_path/'b.safetensors')
    again, x = report.model.eval(), images(model)
    assert not heard and not report.assumed and again.cfg == model.cfg and type(again) is FamilyViT
    with torch.no_grad(): assert torch.equal(again(x), model(x))
    assert load_checkpoint(build_vit(model.cfg), tmp_path/'b.safetensors').loaded
    if name in ('vit_base_patch16_gap_224', 'vit_base_patch16_siglip_gap_224'):      # are Google's 'gap', but for the GELU
        with pytest.warns(UserWarning, match='exact GELU'): save_npz(model, tmp_path/'a.npz')
    else:
        with pytest.raises(CheckpointError, match='no place for'): save_npz(model, tmp_path/'a.npz')

@pytest.mark.parametrize('name', [n for n in TIMM if 'rope' in n or 'eva02' in n or 'dinov3' in n])
def test_rotary_positions_matter(tmp_path, name):
    "The same weights with other rotary positions give something else: the comparison above can fail."
    peer = timm_peer(name)
    save_file(peer.state_dict(), tmp_path/'a.safetensors')
    model = build(tmp_path/'a.safetensors', **facts(peer, name))[0].model.eval()
    kind, temperature, *rest = model.cfg.rope
    x = images(model)
    for rope in (None, (kind, 2*temperature, *rest), ({'index': 'centred'}.get(kind, 'index'), temperature, *rest)):
        other = build_vit(replace(model.cfg, rope=rope)).eval()
        other.load_state_dict(model.state_dict())
        with torch.no_grad(): assert relative(other(x), peer(x)) > 1e-3

@pytest.mark.parametrize('name', ['eva02_base_patch14_224', 'vit_small_patch16_dinov3', 'vit_small_patch16_rope_224', 'vit_medium_patch16_rope_reg1_gap_256'])
def test_rectangles(tmp_path, name):
    patch = 14 if 'patch14' in name else 16
    peer = timm_peer(name, size=(2*patch, 5*patch))
    save_file(peer.state_dict(), tmp_path/'a.safetensors')
    model = build(tmp_path/'a.safetensors', **facts(peer, name) | dict(grid=(2, 5)))[0].model.eval()
    x = images(model)
    with torch.no_grad(): assert relative(model(x), peer(x)) < 1e-5

def test_maps_of_families(tmp_path):
    "Rollout, relevance and positions, with and without a class token."
    for name in ('eva02_tiny_patch14_224', 'vit_base_patch16_siglip_224', 'deit_tiny_distilled_patch16_224'):
        peer = timm_peer(name)
        save_file(peer.state_dict(), tmp_path/'a.safetensors')
        model = build(tmp_path/'a.safetensors', **facts(peer, name))[0].model.eval()
        x = images(model)
        maps, R = rollout(attention_maps(model, x)), relevance(model, x)
        assert maps.shape == R.shape == (2, model.n_prefix + 16, model.n_prefix + 16) and R.min() >= 0
        assert position_similarity(model).shape == (4, 4, 4, 4)
        with capture_attention(model, queries=[0]) as cap, torch.no_grad(): model(x)
        assert cap.weights.shape[3] == 1

def test_new_heads_and_other_sizes(tmp_path):
    peer = timm_peer('deit_tiny_distilled_patch16_224')
    save_file(peer.state_dict(), tmp_path/'a.safetensors')
    cfg = build(tmp_path/'a.safetensors', **facts(peer, 'deit_tiny_distilled_patch16_224'))[0].model.cfg
    model = build_vit(replace(cfg, num_classes=3, img_size=(48, 80)))
    report = load_checkpoint(model, tmp_path/'a.safetensors')
    assert not model.head.weight.any() and not model.head_dist.weight.any()
    assert report.resized['pos_embed'].startswith('4 x 4 to 3 x 5') and model.pos_embed.shape == (1, 17, 48)
    assert torch.equal(model.pos_embed[:, :2], peer.pos_embed[:, :2])


# ------------------------------------------------------------------------------ Google's gap

def test_google_gap(tmp_path):
    "classifier='gap': no class token, the mean of all patches, the tanh form of the GELU."
    arrays = google_arrays(D=32, M=64, depth=2, heads=4, patch=8, positions=4, classes=10)
    arrays = {k: v for k, v in arrays.items() if k != 'cls'}
    arrays['Transformer/posembed_input/pos_embedding'] = arrays['Transformer/posembed_input/pos_embedding'][:, 1:]
    np.savez(tmp_path/'a.npz', **arrays)
    report, heard = build(tmp_path/'a.npz')
    model = report.model.eval()
    assert not heard and (model.cfg.pool, model.cfg.act, model.n_prefix, model.cfg.heads) == ('mean', 'gelu_tanh', 0, 4)
    peer = timm.models.VisionTransformer(16, 8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, num_classes=10, class_token=False,
                                         global_pool='avg', fc_norm=False, act_layer='gelu_tanh').eval()
    peer.load_pretrained(str(tmp_path/'a.npz'))
    x = images(model)
    with torch.no_grad(): assert relative(model(x), peer(x)) < 1e-5
    save_npz(model, tmp_path/'b.npz')
    with np.load(tmp_path/'b.npz') as again: assert all(np.array_equal(again[k], v) for k, v in arrays.items())


# ------------------------------------------------------------------------------ transformers

HF = dict(hidden_size=48, num_attention_heads=4, num_hidden_layers=2, image_size=32, patch_size=8, num_labels=5)

def hf_peer(folder, name, config, **kw):
    torch.manual_seed(0)
    cfg = getattr(transformers, config + 'Config')(**HF | kw)
    peer = shake(getattr(transformers, name)(cfg))
    peer.save_pretrained(folder)
    return peer

HF_KINDS = {  # class: (config, arguments, output, what is said)
    'DeiTForImageClassificationWithTeacher': ('DeiT', dict(intermediate_size=80), 'logits', {}),
    'DeiTForImageClassification': ('DeiT', dict(intermediate_size=80), 'logits', {}),
    'Dinov2ForImageClassification': ('Dinov2', dict(mlp_ratio=2), 'logits', {}),
    'Dinov2WithRegistersForImageClassification': ('Dinov2WithRegisters', dict(mlp_ratio=2, num_register_tokens=3), 'logits', {}),
    'Dinov2Model': ('Dinov2', dict(use_swiglu_ffn=True), 'pooler_output', {}),
    'IJepaForImageClassification': ('IJepa', dict(intermediate_size=80), 'logits', {}),
    'DINOv3ViTModel': ('DINOv3ViT', dict(intermediate_size=80, num_register_tokens=4), 'pooler_output', {}),
    'CLIPVisionModel': ('CLIPVision', dict(intermediate_size=80), 'pooler_output', {}),
    'CLIPVisionModelWithProjection': ('CLIPVision', dict(intermediate_size=80, projection_dim=24), 'image_embeds', {}),
    'SiglipVisionModel': ('SiglipVision', dict(intermediate_size=80), 'pooler_output', {}),
}

def test_transformers_classifier_on_clip_is_refused(tmp_path):
    "It averages patches before the last norm, and nothing in its file says so."
    cfg = transformers.CLIPConfig(vision_config=HF | dict(intermediate_size=80), text_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2))
    shake(transformers.CLIPForImageClassification(cfg)).save_pretrained(tmp_path)
    refused('CLIP: .* averages patches', tmp_path)

@pytest.mark.parametrize('name', HF_KINDS)
def test_transformers(tmp_path, name):
    config, kw, output, said = HF_KINDS[name]
    peer = hf_peer(tmp_path, name, config, **kw)
    grid = dict(grid=(4, 4)) if 'DINOv3' in name else {}
    report, heard = build(tmp_path, **grid, **said)
    model = report.model.eval()
    x = images(model)
    peer.set_attn_implementation('eager')
    with torch.no_grad():
        out = peer(x, output_attentions=True)
        assert relative(model(x), getattr(out, output)) < 1e-5
    assert (attention_maps(model, x) - torch.stack(out.attentions)).abs().max() < 1e-5
    save_checkpoint(model, tmp_path/'ours.safetensors')
    with torch.no_grad(): assert torch.equal(build(tmp_path/'ours.safetensors')[0].model.eval()(x), model(x))


# ------------------------------------------------------------- OpenCLIP's and Meta's own names

def test_openclip(tmp_path):
    "As OpenAI and OpenCLIP name them, beside the half for texts; timm has a translation of its own."
    peer = timm_peer('vit_base_patch16_clip_quickgelu_224')
    torch.nn.init.zeros_(peer.head.bias)
    theirs, state = {}, peer.state_dict()
    for new, old in (('class_embedding', 'cls_token'), ('positional_embedding', 'pos_embed'), ('conv1.weight', 'patch_embed.proj.weight'),
                     *((f'ln_{a}.{e}', f'{b}.{e}') for a, b in (('pre', 'norm_pre'), ('post', 'norm')) for e in ('weight', 'bias'))):
        theirs[new] = state[old].squeeze(0).squeeze(0) if 'embedding' in new else state[old]
    theirs['proj'] = state['head.weight'].T.contiguous()
    for i in range(2):
        for new, old in (('ln_1.', 'norm1.'), ('ln_2.', 'norm2.'), ('attn.in_proj_', 'attn.qkv.'), ('attn.out_proj.', 'attn.proj.'),
                         ('mlp.c_fc.', 'mlp.fc1.'), ('mlp.c_proj.', 'mlp.fc2.')):
            for e in ('weight', 'bias'): theirs[f'transformer.resblocks.{i}.{new}{e}'] = state[f'blocks.{i}.{old}{e}']
    theirs = {f'visual.{k}': v.clone() for k, v in theirs.items()}
    again = timm.models.vision_transformer._convert_openai_clip(dict(theirs), peer)
    assert all(torch.equal(again[k].reshape(v.shape), v) for k, v in state.items())
    text = {'token_embedding.weight': torch.ones(9, 8), 'transformer.resblocks.0.ln_1.weight': torch.ones(8), 'logit_scale': torch.ones(())}
    save_file(theirs | text, tmp_path/'a.safetensors')
    refused('act is in no shape.*2 blocks', tmp_path/'a.safetensors', heads=4)
    report, _ = build(tmp_path/'a.safetensors', heads=4, act='quick_gelu')
    model, x = report.model.eval(), images(report.model)
    assert report.format == 'openclip' and model.head.bias is None and any('left out' in n for n in report.notes)
    with torch.no_grad(): assert relative(model(x), peer(x)) < 1e-5
    larger = build_vit(replace(model.cfg, img_size=96))
    assert 'bicubic' in load_checkpoint(larger, tmp_path/'a.safetensors').resized['pos_embed']

def test_metas_dinov3(tmp_path):
    "The keys' biases are in the file, and masked."
    peer = timm_peer('vit_small_patch16_dinov3_qkvb', num_classes=0, global_pool='token')
    theirs = {}
    for k, v in peer.state_dict().items():
        if k.endswith('v_bias'): continue
        if k.endswith('q_bias'):
            v = torch.cat([v, torch.full_like(v, 7.), peer.state_dict()[k.replace('q_bias', 'v_bias')]])
            theirs[k.replace('q_bias', 'qkv.bias_mask')] = torch.ones_like(v)
        for old, new in (('q_bias', 'qkv.bias'), ('gamma_1', 'ls1.gamma'), ('gamma_2', 'ls2.gamma'), ('reg_token', 'storage_tokens')): k = k.replace(old, new)
        theirs[k] = v
    theirs |= {'mask_token': torch.ones(1, 48), 'rope_embed.periods': torch.ones(3)}
    torch.save(theirs, tmp_path/'a.pth')
    report, _ = build(tmp_path/'a.pth', heads=4, grid=(4, 4))
    model, x = report.model.eval(), images(report.model)
    assert report.format == 'dinov3' and set(model.cfg.no_bias) == {'key'}
    with torch.no_grad(): assert relative(model(x), peer(x)) < 1e-5

def test_metas_dinov2_with_swiglu(tmp_path):
    peer = timm_peer('vit_giant_patch14_dinov2', num_classes=0)
    theirs = {k.replace('mlp.fc1', 'mlp.w12').replace('mlp.fc2', 'mlp.w3'): v for k, v in peer.state_dict().items()}
    torch.save(theirs | {'mask_token': torch.ones(1, 48)}, tmp_path/'a.pth')
    report, _ = build(tmp_path/'a.pth', heads=4)
    with torch.no_grad(): assert relative(report.model.eval()(images(report.model)), peer(images(report.model))) < 1e-5
    assert report.format == 'dinov2'


# ------------------------------------------------------------------- what is refused, and asked

STRANGE = dict(swin_tiny_patch4_window7_224='a Swin Transformer', swinv2_tiny_window8_256='a Swin Transformer V2', maxvit_nano_rw_256='a MaxViT',
               cait_xxs24_224='a CaiT', xcit_nano_12_p16_224='an XCiT', convit_tiny='a ConViT', levit_128s='a LeViT', pvt_v2_b0='a PVT',
               beit_base_patch16_224='a BEiT', resnet18='of convolutions', efficientnet_b0='of convolutions', mixer_s16_224='an MLP-Mixer',
               hiera_tiny_224='a Hiera', vit_small_patch16_18x2_224='parallel blocks', vit_dwee_patch16_reg1_gap_256='a differential Transformer',
               vit_small_patch16_rope_mixed_224='a RoPE-ViT with mixed', vit_base_patch16_xp_224='parallel blocks', vit_small_resnet26d_224='a hybrid')

@pytest.mark.parametrize('name', STRANGE)
def test_strangers_are_refused_by_name(tmp_path, name):
    "In one line, with their family's name, and not for a wrong reason such as a grid or heads."
    kw = dict(depth=2) if name.startswith(('vit', 'beit', 'cait')) and 'resnet' not in name else {}
    with torch.device('meta'): peer = timm.create_model(name, **kw)
    save_file({k: torch.empty(v.shape, dtype=torch.float16) for k, v in peer.state_dict().items()}, tmp_path/'a.safetensors')
    refused(STRANGE[name], tmp_path/'a.safetensors')

def test_two_families_look_the_same(tmp_path, in_process):
    "DeiT III in its authors' names, and RoPE-ViT with learned positions: the file is asked about, and an answer decides."
    deit = timm_peer('deit3_small_patch16_224')
    theirs = {k.replace('ls1.gamma', 'gamma_1').replace('ls2.gamma', 'gamma_2'): v for k, v in deit.state_dict().items()}
    torch.save(theirs, tmp_path/'a.pth')
    refused('DeiT III or RoPE-ViT with learned positions.*say so.*family=', tmp_path/'a.pth', heads=4)
    known = dict(heads=4, act='gelu', norm_eps=1e-6, pool='cls')
    report, heard = build(tmp_path/'a.pth', **known, family='DeiT III')
    x = images(report.model)
    with torch.no_grad(): assert relative(report.model.eval()(x), deit(x)) < 1e-5
    other = build(tmp_path/'a.pth', **known, family='RoPE-ViT with learned positions')[0].model.eval()
    with torch.no_grad(): assert relative(other(x), deit(x)) > 1e-3
    refused('not those of SigLIP', tmp_path/'a.pth', heads=4, family='SigLIP')
    with pytest.raises(ValueError, match='unknown family'): load_checkpoint(None, tmp_path/'a.pth', family='Swin')
    flags = '--heads', '4', '--act', 'gelu', '--norm_eps', '1e-6', '--pool', 'cls'
    assert in_process(vit_weights, 'verify', 'a.pth', *flags)[0] == 2
    status, out, err = in_process(vit_weights, 'verify', 'a.pth', *flags, '--family', 'DeiT III')
    assert status == 0 and 'DeiT III (the call)' in out, err

def test_timms_name_for_it_says_the_rest(tmp_path):
    "config.json of timm has the architecture; two of the same shapes differ in the activation."
    from timm.models._hub import save_for_hf
    for name, act in (('vit_base_patch16_clip_quickgelu_224', 'quick_gelu'), ('vit_base_patch16_clip_224', 'gelu'), ('vit_base_patch32_siglip_256', 'gelu_tanh')):
        peer = timm_peer(name)
        save_for_hf(peer, tmp_path/name, model_args=dict(num_heads=4))
        report, _ = build(tmp_path/name)
        x = images(report.model)
        assert report.model.cfg.act == act and 'act' not in report.assumed
        with torch.no_grad(): assert relative(report.model.eval()(x), peer(x)) < 1e-5

@pytest.mark.parametrize('changes', [dict(tokens=('reg',)), dict(pool='max'), dict(norms=('last',)), dict(no_bias=('mlp',)), dict(norm='batch'), dict(pos_rows=3),
    dict(tokens=(), pos_rows=0), dict(pos_embed='sincos2d'), dict(rope=('index', 100.), dim=30, heads=3), dict(act='swish'), dict(depth=0)], ids=str)
def test_configs_that_do_not_fit(changes):
    with pytest.raises(ValueError) as e: FamilyConfig(**changes)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('name', ['deit_tiny_distilled_patch16_224', 'vit_base_patch16_siglip_224', 'eva02_base_patch16_clip_224', 'vit_base_patch16_clip_224'])
def test_every_tensor_is_needed(tmp_path, name):
    state = timm_peer(name).state_dict()
    for key in [k for k in state if '.1.' not in k]:
        save_file({k: v for k, v in state.items() if k != key}, tmp_path/'a.safetensors')
        refused('a.safetensors: ', tmp_path/'a.safetensors', heads=4, **dict(act='gelu') if 'eva' not in name else {})

def test_a_given_model_is_held_against_the_file(tmp_path):
    save_file(timm_peer('vit_base_patch16_siglip_224').state_dict(), tmp_path/'a.safetensors')
    cfg = build(tmp_path/'a.safetensors', heads=4, act='gelu', norm_eps=1e-6)[0].model.cfg
    assert load_checkpoint(build_vit(cfg), tmp_path/'a.safetensors', act='gelu').loaded
    plain = VisionTransformer(ViTConfig(img_size=64, dim=48, depth=2, heads=4, mlp_dim=192, num_classes=5))
    for model in (plain, build_vit(replace(cfg, pool='mean')), build_vit(replace(cfg, norms=('final', 'pre')))):
        with pytest.raises(CheckpointError, match='missing|unexpected') as e: load_checkpoint(model, tmp_path/'a.safetensors')
        assert '\n' not in str(e.value)
    with pytest.raises(CheckpointError, match='has act gelu_tanh, but the model gelu'): load_checkpoint(build_vit(cfg), tmp_path/'a.safetensors', act='gelu_tanh')


# ------------------------------------------------------------------------------- the commands

@pytest.mark.parametrize('name, front', [('vit_base_patch16_siglip_224', []), ('deit_tiny_distilled_patch16_224', ['class token', 'distillation token']),
                                         ('vit_medium_patch16_reg4_gap_256', [f'register {i}' for i in range(1, 5)])])
def test_commands_and_explorer(tmp_path, in_process, name, front):
    "vit_attention, the explorer and vit_weights take any family; the mean over queries where there is no class token."
    save_file(timm_peer(name).state_dict(), tmp_path/'a.safetensors')
    model = build(tmp_path/'a.safetensors', heads=4, act='gelu', norm_eps=1e-6)[0].model
    save_checkpoint(model, tmp_path/'b.safetensors')
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path/'photo.png')
    assert token_names(model) == front
    for method in ('raw', 'rollout', 'relevance'):
        status, out, err = in_process(vit_attention, 'b.safetensors', 'photo.png', '--out', 'out', '--method', method)
        assert status == 0 and json.loads((tmp_path/'out'/'attention.json').read_text())['query'] == ('cls' if 'class token' in front else 'mean'), err
    status, out, err = in_process(vit_attention, 'b.safetensors', 'photo.png', '--out', 'out', '--query', 'cls')
    assert (status == 0) == ('class token' in front) and (status == 0 or 'no class token' in err and err.count('\n') == 1)
    record = AttentionExplorer(model, pixels).images[0]
    assert record['front'] == front and record['n_prefix'] == len(front) and len(record['rollout']) == (16 + len(front))**2
    assert 'cannot run in the page' in in_process(vit_attention, 'b.safetensors', '--live', 'page.html')[2]
    status, out, err = in_process(vit_weights, 'verify', 'b.safetensors')
    assert status == 0 and model.cfg.family in out and 'all finite' in out
    status, out, err = in_process(vit_weights, 'convert', 'b.safetensors', 'c.safetensors', '--img_size', '96')
    assert status == 0 and load_checkpoint(None, tmp_path/'c.safetensors').model.grid == (6, 6), err

def test_flops_of_a_family_are_not_guessed():
    sizes = dict(img_size=32, patch_size=8, dim=32, depth=2, heads=2, mlp_dim=64)
    assert count_flops(ViTConfig(**sizes)) > 0
    with pytest.raises(ValueError, match='flop_counter'): count_flops(FamilyConfig(**sizes))

def test_a_place_among_texts_is_no_class(tmp_path, in_process):
    "CLIP's projection has outputs and no classes; a classifier that was trained on top of it has some."
    peer = timm_peer('vit_base_patch16_clip_224')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path/'photo.png')
    for bias in (0., 1.):
        torch.nn.init.constant_(peer.head.bias, bias)
        save_file(peer.state_dict(), tmp_path/'a.safetensors')
        model = build(tmp_path/'a.safetensors', heads=4, act='gelu', pool='cls', scale='clip')[0].model
        save_checkpoint(model, tmp_path/'b.safetensors', dict(scale='clip'))
        status, out, err = in_process(vit_attention, 'b.safetensors', 'photo.png', '--out', 'out')
        seen = json.loads((tmp_path/'out'/'attention.json').read_text())['images'][0]
        record = AttentionExplorer(model, tmp_path/'photo.png').images[0]
        assert status == 0 and ('prediction' in seen) == bool(bias) == ('class ' in out) == bool(record['classes']), err
        status, out, err = in_process(vit_attention, 'b.safetensors', 'photo.png', '--out', 'out', '--method', 'relevance')
        assert (status, 'place among texts' in err, err.count('\n')) == ((0, False, 0) if bias else (2, True, 1))


# ------------------------------------------------------------------------- what can be fetched

LATER = {n: c for n, c in CHECKPOINTS.items() if c.urls and c.urls[0].startswith('https://huggingface.co/timm/')}

def hollow(path, state):
    "A safetensors file with the names and shapes of a state dict, all zeros, which takes no room on the disk."
    header, end = {}, 0
    for k, v in state.items():
        header[k] = dict(dtype='F32', shape=list(v.shape), data_offsets=[end, end := end + 4*v.numel()])
    text = json.dumps(header).encode()
    with open(path, 'wb') as f:
        f.write(len(text).to_bytes(8, 'little') + text)
        f.truncate(8 + len(text) + end)

@pytest.mark.parametrize('name', LATER)
def test_what_is_fetched_from_timm_is_timms_model(tmp_path, name, monkeypatch):
    "The model under the address's name, with nothing assumed; its images are scaled as timm says."
    monkeypatch.setenv('VIT_COURSE_CACHE', str(tmp_path))
    known, address = LATER[name], LATER[name].urls[0].split('/')[4]
    asked = timm.models.get_pretrained_cfg(address)
    assert asked.hf_hub_id == f'timm/{address}' and asked.num_classes == known.num_classes
    arch = address.split('.')[0].replace('clip_', 'clip_quickgelu_')      # as timm's note on these weights says
    with torch.device('meta'): peer = timm.create_model(arch, num_classes=known.num_classes, img_size=known.img_size)
    hollow(tmp_path/known.file, peer.state_dict())
    report, expected = inspect_checkpoint(None, name), timm_facts(peer)
    cfg = report.model.cfg
    assert not report.assumed and cfg.heads == expected['heads'] and cfg.act == expected['act'] and cfg.norm_eps == expected['norm_eps']
    with torch.device('meta'): model = known.create()
    same = dict(layer_scale=None, img_size=pair(known.img_size), patch_size=pair(cfg.patch_size))   # where a scale began is in no file
    assert not inspect_checkpoint(model, name).problems and replace(cfg, **same) == replace(model.cfg, **same)
    mean, std = mean_and_std(report.scale)
    for a, b in ((mean, asked.mean), (std, asked.std)): assert np.allclose(np.broadcast_to(a, 3), b, atol=1e-4)

def test_a_fetched_file_is_known_by_its_name(tmp_path, monkeypatch):
    "Nothing is assumed of it, and its features are timm's."
    monkeypatch.setenv('VIT_COURSE_CACHE', str(tmp_path))
    torch.manual_seed(0)
    peer = shake(timm.create_model('vit_small_patch16_dinov3', num_classes=0, img_size=224, global_pool='avg'), std=.02)
    save_file(peer.state_dict(), tmp_path/CHECKPOINTS['dinov3-ViT-S_16'].file)
    report, heard = build('dinov3-ViT-S_16')
    verify_checkpoint('dinov3-ViT-S_16')
    assert not heard and not report.assumed and report.scale == 'imagenet' and report.model.cfg.family == 'DINOv3'
    x = images(report.model, 1)
    with torch.no_grad(): assert relative(report.model.eval()(x), peer(x)) < 1e-5
    save_file({k: v[:-1] if k == 'norm.weight' else v for k, v in peer.state_dict().items()}, tmp_path/CHECKPOINTS['dinov3-ViT-S_16'].file)
    with pytest.raises(CheckpointError): verify_checkpoint('dinov3-ViT-S_16')
