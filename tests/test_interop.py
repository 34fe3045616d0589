"Other tools take the model as it is: exporters, tracers, code written for timm or DINOv2, adapters. What they make of it has to compute the same."
import copy, json, sys

import numpy as np, pytest, torch
from reference import google_arrays
from test_parity import from_timm, relative, shake
from test_weights_cli import TINY, one_line, weights  # noqa: F401
from vit_course.checkpoints import load_checkpoint, save_checkpoint
from vit_course.tools.capture import capture_attention
from vit_course.tools.export import save_onnx
from vit_course.tools.hub import SCALES
from vit_course.tools.optimizers import make_optimizer
from vit_course.vit import VisionTransformer, create_vit, unwrap_model

KINDS = {
    'plain': {}, 'registers': dict(registers=3, pool='mean'), 'rectangle': dict(img_size=(16, 40), in_chans=2),
    'all options': dict(qk_norm=True, layer_scale=0.1, pre_logits=24, pos_embed='sincos2d', act='gelu_tanh', drop=0.1, attn_drop=0.1, drop_path=0.1),
    'no positions, no head': dict(pos_embed='none', num_classes=0), 'hybrid': dict(hybrid=(1, 1), img_size=32)}


@pytest.fixture(params=KINDS)
def model(request): return shake(create_vit('testing', **KINDS[request.param]), 1)


def images(model, n, seed=0):
    size = model.cfg.img_size if isinstance(model.cfg.img_size, tuple) else (model.cfg.img_size,)*2
    return torch.randn(n, model.cfg.in_chans, *size, generator=torch.Generator().manual_seed(seed))


def batches_agree(model, f, sizes=(1, 3, 8)):
    for n in sizes:
        x = images(model, n, seed=n)
        with torch.no_grad(): torch.testing.assert_close(f(x), model(x), rtol=1e-5, atol=1e-5)


# ---- a batch of any size

def test_export_takes_any_batch(model):
    program = torch.export.export(model, (images(model, 2),), dynamic_shapes=({0: torch.export.Dim('batch')},), strict=False)
    batches_agree(model, program.module())


def test_jit_trace_takes_any_batch(model):
    with torch.no_grad(): traced = torch.jit.trace(model, images(model, 2), check_trace=False)
    batches_agree(model, traced)


# ---- torch.fx

@pytest.mark.parametrize('training', [False, True])
def test_fx_traces_the_model(model, training):
    model.train(training)
    graph = torch.fx.symbolic_trace(model)
    for n in (1, 5):
        x, out = images(model, n), []
        for f in (model, graph):
            torch.manual_seed(0)          # the same dropout
            out.append(f(x))
        torch.testing.assert_close(*out)


def test_a_traced_model_still_says_what_is_wrong():
    graph = torch.fx.symbolic_trace(create_vit('testing'))
    with pytest.raises(ValueError, match=r'takes images of shape \(B, 3, 16, 16\), got \(2, 3, 8, 8\)'): graph(torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r'takes images of shape .* got \(3, 16, 16\)'): graph(torch.randn(3, 16, 16))


def test_torchvisions_feature_extractor(model):
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    nodes = {'encoder.blocks.0': 'first', 'encoder.blocks.1.attn': 'attended', 'encoder.norm': 'features'}
    taken = extraction.create_feature_extractor(model, nodes)
    x, seen = images(model, 3), {}
    for name in nodes: model.get_submodule(name).register_forward_hook(lambda m, args, out, name=name: seen.update({nodes[name]: out}))
    with torch.no_grad():
        model(x)
        found = taken(x)
    assert found.keys() == seen.keys() and all(torch.equal(found[k], seen[k]) for k in seen)
    taken.train()(x)


# ---- what users of timm and DINOv2 know

def twins(registers=0, **kw):
    timm = pytest.importorskip('timm')
    theirs = shake(timm.models.VisionTransformer(img_size=(32, 48), patch_size=8, embed_dim=48, depth=4, num_heads=4, num_classes=5,
                                                 reg_tokens=registers, no_embed_class=bool(registers), **kw), 3)
    ours = create_vit('testing', img_size=(32, 48), dim=48, depth=4, heads=4, mlp_dim=192, num_classes=5, registers=registers).eval()
    state = from_timm(theirs.state_dict())
    if registers: state['pos_embed'] = torch.cat([torch.zeros(1, 1, 48), state['pos_embed']], 1)
    ours.load_state_dict(state)
    return theirs, ours


@pytest.mark.parametrize('registers', [0, 2])
@pytest.mark.parametrize('n', [1, 3, [0, 2], (-1, 1), [3, 0], range(2)])
@pytest.mark.parametrize('reshape', [False, True])
@pytest.mark.parametrize('norm', [False, True])
def test_intermediate_layers_are_timms(registers, n, reshape, norm):
    theirs, ours = twins(registers)
    x = torch.randn(2, 3, 32, 48)
    for prefix in (False, True):
        with torch.no_grad(): a, b = (m.get_intermediate_layers(x, n, reshape=reshape, return_prefix_tokens=prefix, norm=norm) for m in (ours, theirs))
        assert type(a) is type(b) and len(a) == len(b) and type(a[0]) is type(b[0])
        for s, t in zip(a, b): torch.testing.assert_close(s, t, rtol=1e-4, atol=1e-5)


def test_intermediate_layers_by_default_are_dinov2s():
    model = shake(create_vit('testing'), 1)
    x = images(model, 2)
    with torch.no_grad(): (last,), z = model.get_intermediate_layers(x), model.forward_features(x)
    assert torch.equal(last, z[:, 1:])
    for wrong in (0, 3, -1, [], [2], [-3, 0]):
        with pytest.raises(ValueError, match='from 1 to 2'): model.get_intermediate_layers(x, wrong)


def test_reset_classifier():
    pair, x = twins(), torch.randn(2, 3, 32, 48)
    for m in pair:
        m.reset_classifier(7)
        assert m(x).shape == (2, 7)
        m.reset_classifier(0)
    with torch.no_grad(): torch.testing.assert_close(*(m(x) for m in pair), rtol=1e-4, atol=1e-5)
    model = create_vit('testing', pre_logits=24).double()
    model.reset_classifier(3)
    assert model.cfg == create_vit('testing', num_classes=3).cfg and model.head.weight.dtype == torch.float64
    out = model(images(model, 2).double())
    assert out.shape == (2, 3) and not out.any()
    with pytest.raises(ValueError): model.reset_classifier(-1)
    assert model.cfg.num_classes == 3


def test_a_reset_model_is_saved_as_it_is(tmp_path):
    model = shake(create_vit('testing', pre_logits=24), 1)
    model.reset_classifier(3)
    save_checkpoint(shake(model, 2), tmp_path/'m.safetensors')
    x = images(model, 2)
    with torch.no_grad(): assert torch.equal(load_checkpoint(None, tmp_path/'m.safetensors').model.eval()(x), model(x))


def test_what_does_not_decay_is_what_timm_would_leave_alone():
    optim = pytest.importorskip('timm.optim')
    model = create_vit('testing', registers=2, layer_scale=0.1)
    names = {id(p): n for n, p in model.named_parameters()}
    def spared(groups): return {names[id(p)] for g in groups if not g['weight_decay'] for p in g['params']}
    theirs = spared(optim.param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay()))
    assert theirs == spared(make_optimizer(model, 'adamw', weight_decay=0.1).param_groups)
    assert model.no_weight_decay() == pytest.importorskip('timm').create_model('test_vit').no_weight_decay()
    assert {'cls_token', 'reg_token', 'pos_embed', 'head.bias'} <= theirs and 'head.weight' not in theirs


# ---- another size

@pytest.mark.parametrize('size', [16, 48, (8, 56)])
@pytest.mark.parametrize('kind', KINDS)
def test_resized_is_the_model_that_is_loaded_for_that_size(tmp_path, kind, size):
    if kind == 'hybrid' and size == (8, 56): size = (24, 56)
    model = shake(create_vit('testing', **KINDS[kind]), 1)
    before = copy.deepcopy(model.state_dict())
    save_checkpoint(model, tmp_path/'m.safetensors')
    expected = create_vit('testing', **KINDS[kind] | dict(img_size=size)).eval()
    load_checkpoint(expected, tmp_path/'m.safetensors', head='keep' if model.cfg.num_classes else 'auto')
    new = model.resized(size)
    assert new.cfg == expected.cfg and not new.training
    x = images(new, 2)
    with torch.no_grad(): assert torch.equal(new(x), expected(x))
    with torch.no_grad():
        for p in new.parameters(): p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_resized_as_timm_does_it():
    theirs, ours = twins()
    theirs.set_input_size((48, 32))
    new, x = ours.resized((48, 32), resize='bicubic'), torch.randn(2, 3, 48, 32)
    with torch.no_grad(): assert relative(new(x), theirs(x)) < 1e-5 < relative(ours.resized((48, 32))(x), theirs(x))


def test_resized_keeps_type_mode_and_what_is_frozen():
    model = create_vit('testing').double().train()
    model.encoder.requires_grad_(False)
    new = model.resized(24)
    assert new.training and new.pos_embed.dtype == torch.float64
    assert {n for n, p in new.named_parameters() if p.requires_grad} == {n for n, p in model.named_parameters() if p.requires_grad}
    with pytest.raises(ValueError, match='not divisible'): model.resized(20)
    with pytest.raises(ValueError, match='unknown resize'): model.resized(24, 'nearest')


# ---- copies and compiled code inside of a capture

def test_a_copy_made_inside_is_a_model_like_any_other():
    model, kept = shake(create_vit('testing', qk_norm=True), 1), []
    a, b = images(model, 2, 1), images(model, 2, 2)
    own = model.encoder.blocks[0].attn.q_norm.register_forward_hook(lambda m, args, out: kept.append(out))
    with torch.no_grad(), capture_attention(model) as cap:
        model(a)
        seen = cap.q
        with capture_attention(model, 0): twin = copy.deepcopy(model); model(a)
        again = copy.deepcopy(model)
        for m in (twin, again, copy.deepcopy(model.encoder)): m(b) if m.__class__ is type(model) else m(model.embed(b))
        assert torch.equal(cap.q, seen)
        with capture_attention(twin) as other: assert torch.equal(twin(a), model(a)) and torch.equal(other.q, cap.q)
    for m in (model, twin, again):
        assert [len(x._forward_hooks) for x in m.modules() if x._forward_hooks] == [1] and not any('__deepcopy__' in vars(x) for x in m.modules())
        kept.clear(); m(a); assert len(kept) == 1          # somebody's own hook is copied, as ever
    own.remove()
    twin.encoder.blocks[0].attn.q_norm.weight.data.zero_()
    assert model.encoder.blocks[0].attn.q_norm.weight.any()


@pytest.mark.parametrize('before', [False, True])
def test_compiled_code_of_any_kind_is_seen_through(before):
    torch._dynamo.reset()
    model = shake(create_vit('testing'), 1)
    around = torch.nn.Sequential(model)
    x = images(model, 3)
    with torch.no_grad():
        with capture_attention(model) as cap: model(x)
        for f in (torch.compile(model, backend='aot_eager'), torch.compile(around, backend='aot_eager'), torch.compile(lambda x: model(x) + 1, backend='aot_eager')):
            if before: f(x)
            with capture_attention(model) as seen: f(x)
            assert torch.equal(seen.weights, cap.weights)


# ---- ONNX

def onnx_session(path): return pytest.importorskip('onnxruntime').InferenceSession(path, providers=['CPUExecutionProvider'])


def shapes(session): return {o.name: tuple(o.shape) for o in (*session.get_inputs(), *session.get_outputs())}


def test_onnx_gives_the_same_logits_and_attention(model, tmp_path):
    save_onnx(model, tmp_path/'m.onnx', attention=True)
    session = onnx_session(tmp_path/'m.onnx')
    L, H, T = model.cfg.depth, model.cfg.heads, model.n_prefix + model.grid[0]*model.grid[1]
    out, width = ('logits', 10) if model.cfg.num_classes else ('features', 32)
    assert shapes(session) == {'images': ('batch', *images(model, 1).shape[1:]), out: ('batch', width), 'attention': (L, 'batch', H, T, T)}
    for n in (1, 3, 8):
        x = images(model, n, seed=n)
        with torch.no_grad(), capture_attention(model) as cap: expected = model(x)
        logits, weights = map(torch.from_numpy, session.run(None, {'images': x.numpy()}))
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights, cap.weights, rtol=1e-4, atol=1e-6)


def test_a_model_is_exported_as_it_is_and_left_as_it_was(tmp_path):
    "In training, compiled, with other files there: what is written is the model in eval mode."
    model = shake(create_vit('testing', drop=0.5), 1)
    x = images(model, 2)
    with torch.no_grad(): expected = model(x)
    save_onnx(torch.compile(model.train(), backend='eager'), tmp_path/'m.onnx')
    assert model.training and [p.name for p in tmp_path.iterdir()] == ['m.onnx']
    logits, = onnx_session(tmp_path/'m.onnx').run(None, {'images': x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


def test_weights_beyond_what_onnx_holds_are_refused(tmp_path):
    with torch.device('meta'): huge = create_vit('ViT-H_14')
    with pytest.raises(ValueError, match='2 GB'): save_onnx(huge, tmp_path/'m.onnx')
    assert not list(tmp_path.iterdir())


def test_convert_to_onnx(weights, tmp_path):  # noqa: F811
    model, names = shake(create_vit('testing'), 1), [f'class {i}' for i in range(10)]
    save_checkpoint(model, tmp_path/'m.safetensors', dict(classes=json.dumps(names), scale='imagenet'))
    status, out, err = weights('convert', 'm.safetensors', 'm.onnx', '--img_size', '24', '32')
    assert (status, err) == (0, '') and out.startswith('m.onnx: testing, 24 x 32 pixels, 10 classes;')
    session, new = onnx_session(tmp_path/'m.onnx'), model.resized((24, 32))
    assert shapes(session) == {'images': ('batch', 3, 24, 32), 'logits': ('batch', 10)}
    for n in (1, 3, 8):
        x = images(new, n)
        with torch.no_grad(): torch.testing.assert_close(torch.from_numpy(session.run(None, {'images': x.numpy()})[0]), new(x), rtol=1e-4, atol=1e-5)
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in about['config'].items()}
    assert type(model.cfg)(**config) == new.cfg and about['classes'] == names
    assert about['scale'] == 'imagenet' and (about['mean'], about['std']) == SCALES['imagenet']


def test_convert_to_onnx_refuses_in_one_line_and_leaves_what_is_there(weights, tmp_path, monkeypatch):  # noqa: F811
    np.savez(tmp_path/'a.npz', **google_arrays(**TINY))
    (tmp_path/'m.onnx').write_bytes(b'precious')
    files = sorted(p.name for p in tmp_path.iterdir())
    one_line(weights('convert', 'none.npz', 'm.onnx'), 'none.npz: no such file')
    one_line(weights('convert', 'a.npz', 'm.onnx', '--img_size', '17'), 'not divisible')
    one_line(weights('convert', 'a.npz', 'b.safetensors', '--attention'), 'b.safetensors', '.onnx')
    one_line(weights('convert', 'a.npz', 'nowhere/m.onnx'), 'nowhere')
    def full(self, path, **kw):
        with open(path, 'wb') as f: f.write(b'half of it')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('torch.onnx.ONNXProgram.save', full)
    one_line(weights('convert', 'a.npz', 'm.onnx'), 'No space left')
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    one_line(weights('convert', 'a.npz', 'm.onnx'), "onnxscript not installed: pip install 'vit_course[onnx]'")
    assert (tmp_path/'m.onnx').read_bytes() == b'precious' and sorted(p.name for p in tmp_path.iterdir() if p.name != 'cache') == files


# ---- LoRA

def test_lora(tmp_path):
    peft = pytest.importorskip('peft')
    base = shake(create_vit('testing', num_classes=4), 1)
    before, (x, y) = copy.deepcopy(base.state_dict()), (images(base, 8), torch.arange(8) % 4)
    lora = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=4, target_modules=['qkv', 'attn.proj'], modules_to_save=['head']))
    trained = {n for n, p in lora.named_parameters() if p.requires_grad}
    assert len(trained) == 2*2*2 + 2 and all('.attn.' in n and '.lora_' in n or '.head.modules_to_save.' in n for n in trained)
    with torch.no_grad(): torch.testing.assert_close(lora(x), base(x))          # it starts as the model that it adapts
    opt = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(lora(x), y)
        opt.zero_grad(); loss.backward(); opt.step()
    assert loss < 0.2
    lora.save_pretrained(tmp_path)
    frozen = lora.get_base_model().state_dict()
    for k, w in before.items():
        if not k.startswith('head'): assert torch.equal(frozen.get(k, frozen.get(k.replace('.weight', '.base_layer.weight').replace('.bias', '.base_layer.bias'))), w), k
    again = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    with torch.no_grad():
        adapted = lora.eval()(x)
        assert (adapted - base(x)).abs().max() > 0.1 and torch.equal(again(x), adapted)
        with capture_attention(lora) as cap: lora(x)
        merged = lora.merge_and_unload()
        assert type(merged) is VisionTransformer and unwrap_model(again) is not merged
        torch.testing.assert_close(merged(x), adapted, rtol=1e-4, atol=1e-5)
        with capture_attention(merged) as same: merged(x)
        torch.testing.assert_close(same.weights, cap.weights, rtol=1e-4, atol=1e-6)
    save_checkpoint(merged, tmp_path/'merged.safetensors')
    with torch.no_grad(): assert torch.equal(load_checkpoint(None, tmp_path/'merged.safetensors').model.eval()(x), merged(x))
