"""What no shape of a checkpoint shows (heads, activation, epsilon, pooling, the scale of images) is
said by the call, the file, what lies beside it, or a table of published models; else it is asked
for. A model that is built from a file alone gives the numbers of the library that wrote it, or an
error; never silently others."""
import json, warnings
from functools import partial
from pathlib import Path

import conftest, numpy as np, pytest, torch
from conftest import relative
from reference import google_arrays
from safetensors.torch import save_file
from vit_course.checkpoints import (CHECKPOINTS, CheckpointError, convert_checkpoint,
                                    inspect_checkpoint, load_checkpoint, save_checkpoint, save_npz,
                                    verify_checkpoint)
from vit_course.tools.commands import vit_weights
from vit_course.patches import pair
from vit_course.tools.hub import known_by_file
from vit_course.tools.load_plan import empty_model, plan
from vit_course.tools.weight_config import HIDDEN, gather, guess_config, mean_and_std, published
from vit_course.tools.weight_files import (LAYOUTS, READ_ERRORS, CheckpointFile, locate_tensor,
                                           recognise)
from vit_course.vit import CONFIGS, create_vit

timm = pytest.importorskip('timm')
torchvision = pytest.importorskip('torchvision')
transformers = pytest.importorskip('transformers')
from timm.models._hub import save_for_hf
from timm.models.vision_transformer import VisionTransformer as TimmViT

transformers.utils.logging.disable_progress_bar()

HF = dict(vit='ViT', deit='DeiT', dinov2='Dinov2', registers='Dinov2WithRegisters')


shake = partial(conftest.shake, std=.3)    # so large that heads and activation matter much

def build(source, **said):
    "(the report of a model that is built from a source alone, the warnings)."
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        report = load_checkpoint(None, source, **said)
    return report, [str(w.message) for w in heard if 'assumed' in str(w.message)]

def same(report, theirs):
    "The model that was built computes what the peer computes."
    c = report.model.cfg
    x = torch.randn(2, c.in_chans, *pair(c.img_size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(): assert relative(report.model.eval()(x), theirs(x)) < 1e-4

SAID = dict(act='gelu', norm_eps=1e-6, pool='cls')

def flags(**said): return [word for f, value in said.items() for word in (f'--{f}', str(value))]

def refused(reason, source, **said):
    with pytest.raises(CheckpointError, match=reason) as e: load_checkpoint(None, source, **said)
    assert '\n' not in str(e.value)

class Headers(CheckpointFile):
    "A file that has no numbers: names and shapes alone."
    def __init__(self, name, shapes): # {name: shape}
        self.path, self.metadata, self.said, self.notes = Path('nowhere')/name, {}, {}, []
        self.arrays = {name: (tuple(shape), torch.float32) for name, shape in shapes.items()}
    def config(self, **said): # (config, what was assumed)
        recognise(self)
        gather(self, known_by_file(self.path), **said)
        return guess_config(self)


# ---- published models are known by all their sizes

def test_every_vit_of_timm_is_right_or_refused():
    "From the shapes of its tensors."
    loaded = []
    modules = 'vision_transformer', 'deit', 'vision_transformer_hybrid'
    for name in [n for m in modules for n in timm.list_models(module=m)]:
        with torch.device('meta'): peer = timm.create_model(name, weight_init='skip')
        file = Headers('model.safetensors', {k: v.shape for k, v in peer.state_dict().items()})
        try:
            cfg, assumed = file.config()
            if plan(file, empty_model(cfg))[1].problems: continue
        except READ_ERRORS: continue     # what `open_checkpoint` makes a CheckpointError of
        block, gelu = peer.blocks[0], peer.blocks[0].mlp.act
        theirs = block.attn.num_heads, block.norm1.eps, peer.norm.eps, peer.global_pool
        assert (cfg.heads, cfg.norm_eps, cfg.norm_eps, dict(cls='token')[cfg.pool]) == theirs, name
        assert type(gelu).__name__ == 'GELU' and gelu.approximate == 'none', name
        assert cfg.act == 'gelu', name
        assert set(assumed) == set(HIDDEN), name
        loaded.append(name)
    assert len(loaded) > 50
    assert {'vit_so400m_patch14_reg1_tipsv2', 'vit_giant_patch14_224',
            'deit3_small_patch16_224'} <= set(loaded)

def test_the_table_says_where_it_is_from():
    rows = published()
    assert len({json.dumps(row) for row in rows}) == len(rows) > 100
    for row in rows:
        assert set(row) == {'source', 'format', 'dim', 'depth', 'mlp_dim', 'patch_size', 'features',
                            'names', *HIDDEN} and row['names'] and row['source']
        assert row['heads'] is None or row['heads'] > 0

def test_the_papers_models_are_in_the_table():
    for name, c in CONFIGS.items():
        file = Headers('a.pth', library_shapes(c, 'timm'))
        if name in ('ViT-digits', 'ViT-tiny_4', 'testing'):
            with pytest.raises(CheckpointError, match='no published model'): file.config()
        else: assert file.config()[0].heads == c.heads

def test_published_models_that_differ_are_asked_about(monkeypatch):
    "By name, and what is said decides between them."
    from vit_course.tools import weight_config
    c = CONFIGS['ViT-Ti_16']
    shapes = library_shapes(c, 'timm')
    row = next(r for r in published() if 'vit_tiny_patch16_224' in r['names'])
    other = row | dict(heads=12, norm_eps=1e-5, names=['vit_other'])
    monkeypatch.setattr(weight_config, 'published', lambda: [row, other])
    with pytest.raises(CheckpointError, match='12 heads as vit_other; 3 heads as .*heads=12'):
        Headers('a.pth', shapes).config()
    cfg, assumed = Headers('a.pth', shapes).config(norm_eps=1e-5)
    assert cfg.heads == 12 and set(assumed) == {'heads', 'act', 'pool'}
    with pytest.raises(CheckpointError, match='act, norm_eps and pool are in no shape'):
        Headers('a.pth', shapes).config(heads=6)
    monkeypatch.setattr(weight_config, 'published', lambda: [row | dict(act='relu')])
    with pytest.raises(CheckpointError, match='has act relu: only gelu, gelu_tanh'):
        Headers('a.pth', shapes).config()

def library_shapes(cfg, fmt):
    "Names and shapes of a model's tensors as a library keeps them."
    shapes = {}
    for key, w in empty_model(cfg).state_dict().items():
        names, layout = locate_tensor(fmt, key)
        part = w.chunk(len(names))[0]
        for name in names: shapes[name] = LAYOUTS[layout][1](part, cfg.heads).shape
    return shapes | ({'mask_token': (1, cfg.dim)} if fmt == 'dinov2' else {})

@pytest.mark.parametrize('name', [n for n, c in CHECKPOINTS.items() if c.urls and 'family' not in c.options])   # test_families has those
def test_published_files_are_known_by_name_and_nothing_is_assumed(name):
    known = CHECKPOINTS[name]
    with torch.device('meta'): theirs = known.create().cfg
    shapes = library_shapes(theirs, known.format)
    cfg, assumed = Headers(known.file, shapes).config()
    assert (cfg.heads, cfg.act, cfg.pool, assumed) == (theirs.heads, theirs.act, theirs.pool, {})
    said = dict(norm_eps=1e-12) if known.format == 'hf' else {}     # facebook/vit-msn-base has 1e-6
    cfg, assumed = Headers('other' + Path(known.file).suffix, shapes).config(**said)
    assert cfg.heads == theirs.heads and ('heads' in assumed) == (known.format != 'npz')
    with pytest.raises(CheckpointError, match=f'{theirs.heads} heads, but the call 2 heads'):
        Headers(known.file, shapes).config(heads=2)

def test_a_name_alone_proves_nothing(tmp_path):
    "Another model under a published name."
    path = tmp_path/CHECKPOINTS['timm-ViT-B_16-224'].file
    save_file(timm_peer(num_heads=3).state_dict(), path)
    refused('how many heads', path)

@pytest.mark.parametrize('change', [dict(depth=11), dict(mlp_dim=3000), dict(dim=780),
    dict(patch_size=4), dict(patch_size=(16, 32), img_size=(64, 128))], ids=str)
@pytest.mark.parametrize('fmt', ['timm', 'torchvision', 'hf', 'dinov2'])
def test_one_size_off_is_another_model(fmt, change):
    with torch.device('meta'): cfg = create_vit('ViT-B_16', **dict(img_size=64) | change).cfg
    file = Headers('model.bin', library_shapes(cfg, fmt))
    with pytest.raises(CheckpointError, match='how many heads.*heads=4.*--heads'): file.config()
    assert file.config(heads=6, **SAID)[0].heads == 6

def test_registers_do_not_matter():
    with torch.device('meta'): cfg = create_vit('ViT-S_14', registers=7, num_classes=0).cfg
    assert Headers('a.pth', library_shapes(cfg, 'timm')).config()[0].heads == 6


# ---- Hugging Face: config.json is read

def hf_peer(kind, folder, head=True, **changes):
    kw = dict(hidden_size=48, num_attention_heads=4, num_hidden_layers=2, image_size=32,
              patch_size=8, num_labels=5)
    dino = kind in ('dinov2', 'registers')
    kw |= dict(mlp_ratio=2) if dino else dict(intermediate_size=80)
    cfg = getattr(transformers, HF[kind] + 'Config')(**kw | changes)
    what = 'ForImageClassification' if head and not dino else 'Model'
    peer = shake(getattr(transformers, HF[kind] + what)(cfg))
    peer.save_pretrained(folder)
    return peer

def change_config(folder, **changes):
    path = folder/'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

HF_VARIANTS = [dict(num_attention_heads=h) for h in (1, 2, 3, 6, 8, 12)] + [
    dict(hidden_size=192, num_attention_heads=12),
    dict(hidden_size=60, num_attention_heads=5, num_hidden_layers=3), dict(hidden_act='gelu_new'),
    dict(hidden_act='gelu_pytorch_tanh', num_attention_heads=16), dict(layer_norm_eps=1e-3),
    dict(layer_norm_eps=.1, patch_size=4)]

@pytest.mark.parametrize('changes', HF_VARIANTS, ids=str)
@pytest.mark.parametrize('kind', ['vit', 'dinov2', 'registers'])
def test_hf_folders_say_what_they_are(tmp_path, kind, changes):
    peer = hf_peer(kind, tmp_path, **changes)
    if kind == 'vit': theirs = lambda x: peer(x).logits
    else: theirs = lambda x: peer(x).pooler_output      # the class token after the last norm
    for source in (tmp_path, tmp_path/'model.safetensors'):
        report, heard = build(source)
        assert not heard and not report.assumed
        same(report, theirs)
    assert verify_checkpoint(tmp_path).model.cfg == report.model.cfg

@pytest.mark.parametrize('changes', HF_VARIANTS[:3], ids=str)
def test_hf_pooler(tmp_path, changes):
    peer = hf_peer('vit', tmp_path, head=False, **changes)
    same(build(tmp_path)[0], lambda x: peer(x).pooler_output)
    hf_peer('vit', tmp_path, head=False, pooler_act='gelu')
    refused('pooler_act is gelu', tmp_path)

def test_hf_deit_has_a_token_more(tmp_path):
    peer = hf_peer('deit', tmp_path)
    report, heard = build(tmp_path)
    assert not heard and report.model.n_prefix == 2
    same(report, lambda x: peer(x).logits)

@pytest.mark.parametrize('act', ['relu', 'mish', 'gelu_fast', 'swish'])
@pytest.mark.parametrize('kind', ['vit', 'registers'])
def test_other_activations_are_refused_by_name(tmp_path, kind, act):
    hf_peer(kind, tmp_path, hidden_act=act)
    refused(f'config.json: its hidden_act is {act}', tmp_path)
    with pytest.raises(CheckpointError, match=act): load_checkpoint(create_vit('testing'), tmp_path)
    with pytest.raises(CheckpointError, match=act): load_checkpoint(None, tmp_path, act='gelu')

def test_swiglu_is_in_the_shapes(tmp_path):
    peer = hf_peer('dinov2', tmp_path, use_swiglu_ffn=True)
    report, heard = build(tmp_path)
    assert not heard and report.model.cfg.act == 'swiglu'
    same(report, lambda x: peer(x).pooler_output)
    change_config(tmp_path, use_swiglu_ffn=False)
    refused('its use_swiglu_ffn is False, but the weights', tmp_path)

def test_without_its_config_the_file_asks(tmp_path):
    peer = hf_peer('vit', tmp_path, num_attention_heads=6)
    (tmp_path/'config.json').unlink()
    refused('how many heads', tmp_path)
    refused("act and norm_eps are in no shape.*act='gelu', norm_eps=1e-06", tmp_path, heads=6)
    report, heard = build(tmp_path, heads=6, act='gelu', norm_eps=1e-12)
    assert not report.assumed and not heard
    assert report.said['pool'] == ('cls', "transformers' code")
    assert report.said['norm_eps'] == (1e-12, 'the call')
    same(report, lambda x: peer(x).logits)

@pytest.mark.parametrize('eps', [1e-6, 1e-3])
def test_a_norm_eps_that_was_given_is_never_changed(tmp_path, eps):
    "MSN's models have the names of Hugging Face's ViT, and another epsilon."
    peer = hf_peer('vit', tmp_path, layer_norm_eps=eps)
    (tmp_path/'config.json').unlink()
    kw = dict(img_size=32, patch_size=8, dim=48, heads=4, depth=2, mlp_dim=80, num_classes=5)
    for model in (create_vit('testing', norm_eps=eps, **kw), None):
        said = {} if model else dict(heads=4, act='gelu', norm_eps=eps)
        report = load_checkpoint(model, tmp_path, **said)
        assert report.model.cfg.norm_eps == eps and not report.adjusted
        same(report, lambda x: peer(x).logits)
    assert load_checkpoint(create_vit('testing', **kw), tmp_path, norm_eps=eps).said[
        'norm_eps'] == (eps, 'the call')

def test_a_given_model_of_another_epsilon_is_doubted_aloud(tmp_path):
    cfg = transformers.ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768,
                                 num_labels=2)
    torch.save(transformers.ViTForImageClassification(cfg).state_dict(), tmp_path/'a.bin')
    kw = dict(num_classes=2)
    with pytest.warns(UserWarning, match='nobody says which norm_eps.*1e-06.*have 1e-12'):
        report = load_checkpoint(create_vit('ViT-Ti_16', **kw), tmp_path/'a.bin')
    assert report.model.cfg.norm_eps == 1e-6 and not report.adjusted
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_checkpoint(create_vit('ViT-Ti_16', norm_eps=1e-12, **kw), tmp_path/'a.bin')

PREPROCESSOR = [
    (dict(image_mean=[.5]*3, image_std=[.5]*3), 'half'),
    (dict(image_mean=[.485, .456, .406], image_std=[.229, .224, .225], do_rescale=True,
          rescale_factor=1/255), 'imagenet'),
    (dict(image_mean=[.1, .2, .3], image_std=[1, 2, 3]), ([.1, .2, .3], [1, 2, 3])),
    (dict(image_mean=[.5]*3, image_std=[.5]*3, do_normalize=False), ([0.]*3, [1.]*3)),
    (dict(image_mean=[127.5]*3, image_std=[127.5]*3, do_rescale=False), 'half'), (dict(), None)]

@pytest.mark.parametrize('config, scale', PREPROCESSOR, ids=str)
def test_the_scale_of_images_is_read(tmp_path, config, scale):
    hf_peer('vit', tmp_path)
    (tmp_path/'preprocessor_config.json').write_text(json.dumps(config))
    report = build(tmp_path)[0]
    if scale is None: assert report.scale is None and 'scale' not in report.said
    elif isinstance(scale, str): assert report.scale == scale
    else: assert [list(o) for o in mean_and_std(report.scale)] == [list(o) for o in scale]
    if scale: assert report.said['scale'][1] == 'its preprocessor_config.json'
    assert build(tmp_path, scale=report.scale or 'clip')[0].scale
    if scale: refused('but the call scale', tmp_path, scale='[[9], [9]]')

@pytest.mark.parametrize('config', ['[]', '{', '{"image_mean": 1, "image_std": 2}',
    '{"image_mean": [NaN], "image_std": [1]}', '{"image_mean": [0], "image_std": [0]}',
    '{"image_mean": [0, 1], "image_std": [1]}', '{"image_mean": ["a"], "image_std": [1]}',
    '{"image_mean": [1], "image_std": [1], "rescale_factor": 0}',
    '{"image_mean": [1' + '0'*400 + '], "image_std": [1]}'], ids=lambda t: t[:40])
def test_what_is_no_preprocessor(tmp_path, config):
    hf_peer('vit', tmp_path)
    (tmp_path/'preprocessor_config.json').write_text(config)
    refused('preprocessor_config.json: ', tmp_path)

def test_classes_have_their_names(tmp_path):
    names = ['ant', 'bee', 'cat', 'dog', 'emu']
    hf_peer('vit', tmp_path, id2label=dict(enumerate(names)))
    assert build(tmp_path)[0].classes == names
    few, many, five = {'0': 'ant'}, {str(i): str(i) for i in range(6)}, range(5)
    for other in (few, many, {'a': 'b'}, {str(i): i for i in five}, {str(i + 1): 'x' for i in five},
                  {}, None):
        change_config(tmp_path, id2label=other)
        assert build(tmp_path)[0].classes is None
    hf_peer('vit', tmp_path)                            # LABEL_0 is no name
    assert build(tmp_path)[0].classes is None

@pytest.mark.parametrize('text', ['', '[]', '3', 'null', '"vit"', '{', '{"a": }', '[' * 100_000,
    '{"num_attention_heads": 4', '\0', '{}{}', '\udcff'], ids=lambda text: ascii(text)[:9])
def test_what_is_no_config(tmp_path, text):
    hf_peer('vit', tmp_path)
    (tmp_path/'config.json').write_text(text, errors='surrogateescape')
    refused('config.json: (cannot be read as JSON|not the config of a model)', tmp_path)

@pytest.mark.parametrize('field', ['num_attention_heads', 'hidden_size', 'num_hidden_layers',
    'intermediate_size', 'layer_norm_eps', 'hidden_act'])
@pytest.mark.parametrize('value', [True, False, None, -4, 0, 10**30, 10**4000, 4.5, float('nan'),
    float('inf'), '4', '', 'x'*10**5, [4], [], {}], ids=lambda v: str(v)[:9])
def test_strange_values_are_a_line(tmp_path, field, value):
    hf_peer('vit', tmp_path)
    change_config(tmp_path, **{field: value})
    refused(f'config.json: its {field} is', tmp_path)
    model = create_vit('testing')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError) as e: load_checkpoint(model, tmp_path)
    assert len(str(e.value)) < 600
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())

@pytest.mark.parametrize('field, value', [('hidden_size', 96), ('num_hidden_layers', 3),
                                          ('intermediate_size', 81)])
def test_a_config_of_other_weights(tmp_path, field, value):
    hf_peer('vit', tmp_path)
    change_config(tmp_path, **{field: value})
    refused(f'config.json: its {field} is {value}, but the weights beside it have', tmp_path)

def test_heads_that_do_not_divide(tmp_path):
    hf_peer('vit', tmp_path)
    change_config(tmp_path, num_attention_heads=7)
    refused('7 heads, into which its width 48', tmp_path)

def test_config_json_is_a_folder(tmp_path):
    hf_peer('vit', tmp_path)
    (tmp_path/'config.json').unlink()
    (tmp_path/'config.json').mkdir()
    refused('config.json: no file', tmp_path)

def test_a_given_model_is_held_against_the_config(tmp_path):
    peer = hf_peer('vit', tmp_path, num_attention_heads=6, hidden_act='gelu_new',
                   layer_norm_eps=1e-3)
    kw = dict(img_size=32, patch_size=8, dim=48, depth=2, mlp_dim=80, num_classes=5)
    report = load_checkpoint(create_vit('testing', heads=6, act='gelu_tanh', **kw), tmp_path)
    assert report.adjusted and not report.assumed
    same(report, lambda x: peer(x).logits)
    act = 'has act gelu_tanh, but the model gelu'
    for heads, reason in ((4, f'its config.json has 6 heads, but the model 4, {act}'),
                          (6, f'its config.json {act}')):
        with pytest.raises(CheckpointError, match=reason):
            load_checkpoint(create_vit('testing', heads=heads, **kw), tmp_path)

def test_files_of_other_kinds_do_not_read_a_config_that_lies_about(tmp_path):
    (tmp_path/'config.json').write_text('no JSON')
    save_checkpoint(shake(create_vit('testing')), tmp_path/'best.safetensors')
    save_npz(create_vit('testing'), tmp_path/'a.npz')
    for name in ('best.safetensors', 'a.npz'): assert not build(tmp_path/name)[0].assumed


# ---- timm

def timm_peer(**changes):
    kw = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, mlp_ratio=2,
              num_classes=5)
    return shake(TimmViT(**kw | changes))

def timm_tiny(**kw): # timm's ViT-Ti, for other images
    return shake(timm.create_model('vit_tiny_patch16_224', img_size=64, num_classes=7, **kw), std=.1)

TIMM_VARIANTS = [dict(num_heads=h) for h in (1, 2, 3, 6, 16)] + [
    dict(embed_dim=192, num_heads=12), dict(depth=3, mlp_ratio=3), dict(init_values=.1),
    dict(reg_tokens=3, no_embed_class=True), dict(patch_size=4), dict(no_embed_class=True),
    dict(num_classes=0)]

@pytest.mark.parametrize('changes', TIMM_VARIANTS, ids=str)
def test_timm_asks(tmp_path, changes):
    peer = timm_peer(**changes)
    save_file(peer.state_dict(), tmp_path/'model.safetensors')
    refused('how many heads', tmp_path)
    heads = changes.get('num_heads', 4)
    refused("act, norm_eps and pool are in no shape.*pool='cls'", tmp_path, heads=heads)
    report, heard = build(tmp_path, heads=heads, **SAID)
    same(report, peer)
    assert not heard and not report.assumed
    assert {who for _, who in report.said.values()} == {'the call'}

@pytest.mark.parametrize('heads', [2, 3, 12])
def test_norms_on_queries_tell_the_heads(tmp_path, heads):
    peer = timm_peer(num_heads=heads, qk_norm=True)
    save_file(peer.state_dict(), tmp_path/'model.safetensors')
    report = build(tmp_path, **SAID)[0]
    assert report.said['heads'] == (heads, 'its shape') and report.model.cfg.heads == heads
    same(report, peer)
    refused(f'its shape has {heads} heads, but the call 4 heads', tmp_path, heads=4)

@pytest.mark.parametrize('name, kw', [
    ('vit_tiny_patch16_224', dict()), ('vit_tiny_patch16_224', dict(num_heads=6)),
    ('vit_tiny_patch16_224', dict(depth=2)), ('vit_tiny_patch16_224', dict(mlp_ratio=2)),
    ('vit_tiny_patch16_224', dict(num_heads=12, depth=2)), ('test_vit', dict(num_heads=2)),
    ('vit_tiny_patch16_224', dict(depth=2, num_heads=4, act_layer='gelu_tanh')),
    ('vit_tiny_patch16_224', dict(depth=2, num_heads=3, global_pool='avg', fc_norm=False)),
    ('vit_tiny_patch16_224', dict(depth=2, num_heads=3, global_pool='avg')),      # fc_norm
    ('vit_so400m_patch14_reg1_tipsv2', dict(depth=2, num_heads=16, img_size=56)),
    ('deit3_small_patch16_224', dict(num_heads=2, depth=3, drop_path_rate=.1))], ids=str)
def test_timms_own_folders(tmp_path, name, kw):
    peer = shake(timm.create_model(name, **dict(img_size=64, num_classes=7) | kw), std=.1)
    save_for_hf(peer, tmp_path)
    report, heard = build(tmp_path)
    assert not report.assumed and not heard
    assert all(report.said[f][1] == 'its config.json' for f in (*HIDDEN, 'scale'))
    same(report, peer)

MEAN = dict(num_heads=3, global_pool='avg')

@pytest.mark.parametrize('kw, reason', [
    (dict(num_heads=3, act_layer='relu'), 'act_layer is relu'), (dict(num_heads=3, norm_layer='rmsnorm'), 'norm_layer'),
    (MEAN | dict(global_pool='avgmax', fc_norm=False), 'global_pool is avgmax'),
    (MEAN | dict(fc_norm=False, pool_include_prefix=True), 'pool_include_prefix')], ids=str)
def test_timms_folders_that_are_not_ours(tmp_path, kw, reason):
    save_for_hf(timm_tiny(**kw), tmp_path)
    refused(reason, tmp_path)

def test_a_folder_of_another_architecture(tmp_path):
    save_for_hf(timm_tiny(depth=2), tmp_path)
    change_config(tmp_path, architecture='vit_small_patch16_224')
    refused('its architecture, vit_small_patch16_224, has .*, but the weights beside it', tmp_path)
    change_config(tmp_path, architecture='vit_of_tomorrow')
    refused('how many heads', tmp_path)

def test_timms_names_of_classes_and_scale(tmp_path):
    peer = timm_tiny(depth=2)
    save_for_hf(peer, tmp_path)
    report = build(tmp_path)[0]
    assert report.scale == 'half' and report.classes is None
    about = json.loads((tmp_path/'config.json').read_text())['pretrained_cfg']
    about |= dict(mean=[.1, .2, .3], std=[.4, .5, .6])
    names = [f'n{i}' for i in range(7)]
    change_config(tmp_path, pretrained_cfg=about, label_names=names)
    report = build(tmp_path)[0]
    assert mean_and_std(report.scale) == ([.1, .2, .3], [.4, .5, .6])
    assert report.classes == names and report.said['classes'] == ('7 names', 'its config.json')
    change_config(tmp_path, label_descriptions={n: f'bird {n}' for n in names})
    assert build(tmp_path)[0].classes == [f'bird {n}' for n in names]
    convert_checkpoint(tmp_path, tmp_path/'new.safetensors')
    again = build(tmp_path/'new.safetensors')[0]
    assert again.classes == [f'bird {n}' for n in names] and again.scale == report.scale
    change_config(tmp_path, pretrained_cfg=about | dict(std=[0, 0, 0]))
    refused('its mean is', tmp_path)

def test_a_published_size_is_assumed_aloud(tmp_path):
    peer = timm_tiny()
    torch.save(peer.state_dict(), tmp_path/'a.pth')
    report, heard = build(tmp_path/'a.pth')
    same(report, peer)
    line = 'heads 3, act gelu, norm_eps 1e-06, pool cls (published models of its shapes: '
    assert report.assumptions.startswith(line) and line in heard[0] and 'heads=' in heard[0]
    assert '\n' not in heard[0] and 'deit_tiny_patch16_224' in heard[0]
    rows = [row.split() for row in str(report).splitlines()]
    assert ['assumed', '4', 'heads:', '3'] in rows
    assert any(row[:6] == ['said', '3', 'heads:', 'published', 'models', 'of'] for row in rows)
    for call in (inspect_checkpoint, load_checkpoint, lambda _, path: verify_checkpoint(path)):
        with pytest.warns(UserWarning, match='assumed heads 3') as caught:
            call(None, tmp_path/'a.pth')
        assert caught[0].filename == __file__           # the line to look at is the caller's
    six = timm_tiny(num_heads=6)
    torch.save(six.state_dict(), tmp_path/'b.pth')      # nothing in it says so: the caller must
    refused('act, norm_eps and pool are in no shape', tmp_path/'b.pth', heads=6)
    same(build(tmp_path/'b.pth', heads=6, **SAID)[0], six)

def test_a_given_model_needs_no_assumption(tmp_path):
    peer = timm_peer(num_heads=6)
    torch.save(peer.state_dict(), tmp_path/'a.pth')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ours = create_vit('testing', img_size=32, dim=48, heads=6, mlp_dim=96, num_classes=5)
        report = load_checkpoint(ours, tmp_path/'a.pth')
    assert not report.assumed
    same(report, peer)


# ---- torchvision, Google, and our own

@pytest.mark.parametrize('heads', [2, 6, 12])
def test_torchvision(tmp_path, heads):
    peer = shake(torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=heads, hidden_dim=48, mlp_dim=64,
        num_classes=5, norm_layer=partial(torch.nn.LayerNorm, eps=1e-3)))
    torch.save(peer.state_dict(), tmp_path/'a.pth')
    refused('how many heads', tmp_path/'a.pth')
    refused('norm_eps is in no shape', tmp_path/'a.pth', heads=heads)
    report = build(tmp_path/'a.pth', heads=heads, norm_eps=1e-3)[0]
    assert not report.assumed and report.said['act'] == ('gelu', "torchvision's code")
    same(report, peer)

@pytest.mark.parametrize('heads', [1, 4, 16])
def test_googles_kernels_say_it(tmp_path, heads):
    np.savez(tmp_path/'a.npz', **google_arrays(D=32, M=64, depth=2, heads=heads, patch=8,
                                               positions=4, classes=10))
    report, heard = build(tmp_path/'a.npz')
    assert report.model.cfg.heads == heads and not heard and not report.assumed
    assert report.model.cfg.act == 'gelu_tanh'          # Google's
    assert build(tmp_path/'a.npz', act='gelu')[0].model.cfg.act == 'gelu'
    refused(f'its shape has {heads} heads, but the call 2 heads', tmp_path/'a.npz', heads=2)

OWN = [dict(), dict(depth=2), dict(heads=6), dict(depth=2, heads=12), dict(pool='mean'),
       dict(act='gelu_tanh', norm_eps=1e-3), dict(registers=2, layer_scale=.1),
       dict(dim=96, mlp_dim=100),
       dict(patch_size=16, depth=12, heads=3),   # all the sizes of ViT-Ti
       dict(patch_size=16, depth=12, heads=6)]

@pytest.mark.parametrize('kw', OWN, ids=str)
def test_our_plain_state_dicts_ask(tmp_path, kw):
    model = shake(create_vit('ViT-tiny_4', **kw))
    torch.save(model.state_dict(), tmp_path/'a.pt')
    save_file(model.state_dict(), tmp_path/'b.safetensors')
    save_checkpoint(model, tmp_path/'c.safetensors')
    c = model.cfg
    for name in ('a.pt', 'b.safetensors'):
        refused('how many heads', tmp_path/name)
        said = {f: getattr(c, f) for f in HIDDEN}
        report, heard = build(tmp_path/name, **said)
        same(report, model)
        assert not report.assumed and not heard
        refused('act, norm_eps and pool are in no shape', tmp_path/name, heads=c.heads)
    report, heard = build(tmp_path/'c.safetensors')     # says all of it
    same(report, model)
    assert not report.assumed and not heard

def test_our_norms_on_queries_tell_the_heads(tmp_path):
    model = create_vit('ViT-tiny_4', depth=2, heads=8, qk_norm=True)
    torch.save(model.state_dict(), tmp_path/'a.pt')
    assert build(tmp_path/'a.pt', **SAID)[0].model.cfg.heads == 8

@pytest.mark.parametrize('said, reason', [
    (dict(heads=4), 'its config has 2 heads, but the call 4 heads'),
    (dict(pool='mean'), 'pool cls'),
    (dict(act='gelu_tanh'), 'act gelu, but the call act gelu_tanh'),
    (dict(norm_eps=1e-3), 'norm_eps 1e-06')], ids=str)
def test_the_call_may_not_contradict(tmp_path, said, reason):
    path = tmp_path/'a.safetensors'
    save_checkpoint(create_vit('testing'), path)
    for call in (lambda: load_checkpoint(None, path, **said),
                 lambda: verify_checkpoint(path, **said),
                 lambda: load_checkpoint(create_vit('testing'), path, **said)):
        with pytest.raises(CheckpointError, match=reason): call()

def test_a_kept_head_keeps_its_pooling(tmp_path):
    path = tmp_path/'a.safetensors'
    save_checkpoint(shake(create_vit('testing')), path)
    with pytest.raises(CheckpointError, match='has pool cls, but the model mean'):
        load_checkpoint(create_vit('testing', pool='mean'), path)
    for kw, head in ((dict(num_classes=3), 'auto'), (dict(), 'new'), (dict(num_classes=0), 'auto')):
        model = create_vit('testing', pool='mean', **kw)    # a new head may look elsewhere
        assert load_checkpoint(model, path, head=head).model.cfg.pool == 'mean'

def test_googles_format_has_no_place_for_another_epsilon(tmp_path):
    with pytest.raises(CheckpointError, match='no place for norm_eps=0.001'):
        save_npz(create_vit('testing', norm_eps=1e-3), tmp_path/'a.npz')

@pytest.mark.parametrize('said', [dict(heads=0), dict(heads=-2), dict(heads=True), dict(heads=2.),
    dict(heads='2'), dict(act='relu'), dict(pool='max'), dict(norm_eps=0), dict(depth=3),
    dict(head_count=2)], ids=str)
def test_what_cannot_be_said(tmp_path, said):
    torch.save(create_vit('testing').state_dict(), tmp_path/'a.pt')
    for call in (load_checkpoint, inspect_checkpoint):
        with pytest.raises(ValueError) as e: call(None, tmp_path/'a.pt', **said)
        assert not isinstance(e.value, CheckpointError) and '\n' not in str(e.value)
    refused('5 heads, into which its width 32', tmp_path/'a.pt', heads=5)


# ---- the command

@pytest.mark.parametrize('command', [('verify', 'a.pt'), ('convert', 'a.pt', 'b.safetensors')],
                         ids=str)
def test_the_command_takes_heads(in_process, command):
    model = shake(create_vit('ViT-tiny_4', depth=2, heads=6))
    torch.save(model.state_dict(), 'a.pt')
    status, out, err = in_process(vit_weights, *command)
    assert status == 2 and out == '' and err.count('\n') == 1 and '--heads' in err
    for wrong in ('0', '-1', '5', 'x'):
        status, out, err = in_process(vit_weights, *command, '--heads', wrong, *flags(**SAID))
        assert status == 2 and err.count('\n') == 1
    status, out, err = in_process(vit_weights, *command, '--heads', '6')
    assert status == 2 and out == '' and err.count('\n') == 1
    assert '--act gelu --norm_eps 1e-06 --pool cls' in err
    for wrong in (dict(act='relu'), dict(norm_eps=0), dict(pool='max'), dict(scale='odd')):
        status, out, err = in_process(vit_weights, *command, '--heads', '6', *flags(**SAID | wrong))
        assert status == 2 and out == '' and err.count('\n') == 1
    status, out, err = in_process(vit_weights, *command, '--heads', '6', *flags(**SAID))
    assert (status, err) == (0, '') and out.count('\n') == 1
    assert '6 heads, act gelu, norm_eps 1e-06, pool cls (the call)' in out
    if command[0] == 'convert': same(build('b.safetensors')[0], model)

def test_the_command_knows_hf_folders(in_process, tmp_path):
    peer = hf_peer('vit', tmp_path/'hf', num_attention_heads=12)
    command = 'convert', 'hf', 'b.safetensors', '--img_size', '32'
    status, out, err = in_process(vit_weights, *command)
    assert status == 0 and 'assumed' not in out, err
    same(build('b.safetensors')[0], lambda x: peer(x).logits)
    status, out, err = in_process(vit_weights, 'verify', 'hf', '--heads', '4')
    assert status == 2 and 'its config.json has 12 heads, but the call 4 heads' in err

def test_training_from_an_hf_folder(in_process, tmp_path):
    from vit_course.tools.commands import vit_train
    hf_peer('vit', tmp_path/'hf', hidden_size=32, num_attention_heads=8, intermediate_size=64,
            image_size=16)
    run = '--name x --dataset digits --model_type testing --img_size 16 --num_steps 1 --device cpu'
    status, out, err = in_process(vit_train, *run.split(), '--pretrained_dir', 'hf')
    assert status == 2 and 'its config.json has 8 heads, but the model 2' in err
    assert err.count('\n') == 1
