"Attention maps against slow references: loops, finite differences, Jacobians, linear programmes, timm."
import copy, itertools, weakref

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from vit_course.attention_maps import *
from vit_course.faithfulness import *
from vit_course.tools.attention_files import examine
from vit_course.vit import ViTConfig, VisionTransformer, create_vit

TINY = dict(img_size=(16, 24), patch_size=8, dim=32, depth=3, heads=4, mlp_dim=64, num_classes=5)


def shaken(cfg=None, seed=0, **kw):
    "A model without zeros and ones in its weights."
    torch.manual_seed(seed)
    model = VisionTransformer(cfg or ViTConfig(**(TINY | kw))).eval()
    with torch.no_grad():
        for p in model.parameters(): p += 0.1*torch.randn_like(p)
    return model


def random_images(model, n=2, seed=1):
    size = model.cfg.img_size
    return torch.randn(n, 3, *(size if isinstance(size, tuple) else (size, size)), generator=torch.Generator().manual_seed(seed))


def hooks(model): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def random_weights(L, B, H, T, seed=0, sharp=3.): return (sharp*torch.randn(L, B, H, T, T, generator=torch.Generator().manual_seed(seed))).softmax(-1)


# --- capture

SHAPES = {'B/16 224': dict(model_type='ViT-B_16', depth=3), '32/4': dict(model_type='ViT-tiny_4'), '14 pixels': dict(model_type='ViT-S_14', img_size=(70, 98), depth=4),
          'registers': dict(model_type='ViT-S_14', img_size=56, registers=4, depth=4), 'qk_norm, rectangle': dict(model_type='ViT-tiny_4', img_size=(16, 48), qk_norm=True)}


@pytest.mark.parametrize('name', SHAPES)
def test_weights_times_values_are_the_fused_output(name):
    kw = SHAPES[name]
    model = create_vit(**kw).eval()
    blocks, values, outs = [b.attn for b in model.encoder.blocks], [], []
    for m in blocks:
        m.qkv.register_forward_hook(lambda m, i, o: values.append(o))
        m.proj.register_forward_pre_hook(lambda m, i: outs.append(i[0]))
    maps = attention_maps(model, random_images(model))
    T, H = model.n_prefix + model.grid[0]*model.grid[1], model.cfg.heads
    assert maps.shape == (model.cfg.depth, 2, H, T, T) and maps.dtype == torch.float32 and not maps.requires_grad
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]), rtol=0, atol=1e-6)
    for w, qkv, out in zip(maps, values, outs):
        v = qkv.unflatten(-1, (3, H, -1))[:, :, 2].transpose(1, 2)
        assert ((w @ v).transpose(1, 2).flatten(2) - out).abs().max() < 1e-6 * max(1, out.abs().max())


@pytest.mark.parametrize('kw', [dict(), dict(registers=3), dict(qk_norm=True), dict(pool='mean', pos_embed='sincos2d')], ids=str)
def test_weights_are_those_of_float64(kw):
    model = shaken(**kw)
    maps, x = attention_maps(model, random_images(model)), model.embed(random_images(model)).double()
    model.double()
    for b, got in zip(model.encoder.blocks, maps):
        q, k, v = b.attn.split_heads(b.norm1(x))
        want = (q @ k.transpose(-2, -1) / q.shape[-1]**.5).softmax(-1)
        torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-6)
        x = b(x)


def test_timm_sees_the_same_weights():
    timm = pytest.importorskip('timm')
    from test_parity import from_timm, shake
    peer = shake(timm.create_model('vit_tiny_patch16_224', img_size=64, num_classes=10), 3)
    ours, x, theirs = create_vit('ViT-Ti_16', 64, 10).eval(), torch.randn(2, 3, 64, 64), []
    ours.load_state_dict(from_timm(peer.state_dict()))
    for b in peer.blocks:
        b.attn.fused_attn = False
        b.attn.attn_drop.register_forward_hook(lambda m, i, o: theirs.append(o))
    with torch.no_grad(): peer(x)
    torch.testing.assert_close(attention_maps(ours, x), torch.stack(theirs), rtol=0, atol=1e-6)


def test_batch_item_equals_the_single_run():
    model = shaken(registers=1)
    x = random_images(model, 4)
    maps, rel = attention_maps(model, x), relevance(model, x, torch.tensor([0, 1, 2, 3]))
    roll = rollout(maps, 'max', .3)
    for i in range(4):
        one = attention_maps(model, x[i:i+1])
        torch.testing.assert_close(maps[:, i:i+1], one, rtol=0, atol=1e-6)
        torch.testing.assert_close(rel[i:i+1], relevance(model, x[i:i+1], i), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(roll[i:i+1], rollout(maps[:, i:i+1], 'max', .3))


def test_layers_and_queries_select():
    model = shaken(registers=2)
    x, all_ = random_images(model), attention_maps(model := shaken(registers=2), random_images(shaken(registers=2)))
    for layers, want in ((None, [0, 1, 2]), (-1, [2]), (1, [1]), ([2, 0], [2, 0]), ((0, -1), [0, 2]), ([1, 1], [1, 1])):
        with capture_attention(model, layers) as cap: model(x)
        assert cap.layers == want and len(cap) == len(want)
        torch.testing.assert_close(cap.weights, all_[want]); torch.testing.assert_close(torch.stack(list(cap)), all_[want])
        assert cap.q.shape == cap.k.shape == (len(want), 2, 4, 9, 8)
    for queries in ([0], [3, -1, 0], torch.tensor([4, 5]), np.array([8])):
        index = [int(i) for i in queries]
        torch.testing.assert_close(attention_maps(model, x, [0, 2], queries), all_[[0, 2]][:, :, :, index])


@pytest.mark.parametrize('layers', [3, -4, [0, 7], []])
def test_layer_out_of_range(layers):
    with pytest.raises(ValueError, match='0 to 2'), capture_attention(shaken(), layers): pass


def test_query_out_of_range():
    model = shaken()
    with pytest.raises(ValueError, match='0 to 6'): attention_maps(model, random_images(model), queries=[7])


def test_a_module_without_attention():
    with pytest.raises(ValueError, match='nothing to capture'), capture_attention(torch.nn.Linear(2, 2)): pass


def test_nothing_captured_raises_but_hides_no_other_error():
    model = shaken()
    with pytest.raises(RuntimeError, match='no attention was captured'), capture_attention(model): pass
    with pytest.raises(KeyError), capture_attention(model): raise KeyError
    with pytest.raises(RuntimeError, match='no attention'), capture_attention(model) as cap: cap.weights
    with pytest.raises(ValueError, match='takes images'), capture_attention(model): model(torch.randn(1, 3, 9, 9))
    assert hooks(model) == 0
    with pytest.raises(RuntimeError, match='layer 1, 2'), capture_attention(model): model.encoder.blocks[0](torch.randn(1, 7, 32))


def test_the_last_forward_counts():
    model = shaken()
    x = random_images(model, 5)
    with capture_attention(model) as cap:
        model(x[:3]); first = cap.weights
        model(x[3:]); second = cap.weights
    assert first.shape[1] == 3 and second is cap.weights
    torch.testing.assert_close(second, attention_maps(model, x[3:]))
    with pytest.raises(RuntimeError, match='layer 1, 2'), capture_attention(model) as cap: # a forward that stops half-way leaves nothing of the one before
        model(x)
        model.encoder.blocks[0](torch.randn(1, 7, 32))


def test_nested_and_repeated_and_crossed():
    model = shaken()
    x, want = random_images(model), attention_maps(model, random_images(model))
    for _ in range(3):
        with capture_attention(model) as outer:
            with capture_attention(model, -1, [0]) as inner: model(x)
            assert hooks(model) == 6
        torch.testing.assert_close(outer.weights, want); torch.testing.assert_close(inner.weights, want[-1:, :, :, :1])
    a, b = capture_attention(model), capture_attention(model)
    seen = [a.__enter__(), b.__enter__()]
    model(x)
    a.__exit__(None, None, None); assert hooks(model) == 6
    model(x); b.__exit__(None, None, None)
    assert hooks(model) == 0
    for cap in seen: torch.testing.assert_close(cap.weights, want)


@pytest.mark.parametrize('how', ['capture', 'maps', 'relevance', 'ablate', 'effects', 'deletion', 'examine'])
def test_the_model_is_restored_after_an_exception(how):
    model = shaken(attn_drop=.1).train()
    model.encoder.blocks[1].eval()
    modes, x = [m.training for m in model.modules()], random_images(model, 1)
    def explode(m, i): raise ZeroDivisionError
    model.head.register_forward_pre_hook(explode)
    before = hooks(model)
    with pytest.raises(ZeroDivisionError):
        if how == 'capture':
            with capture_attention(model): model(x)
        elif how == 'maps': attention_maps(model, x)
        elif how == 'relevance': relevance(model, x)
        elif how == 'ablate':
            with ablate(model, 0, 0): model(x)
        elif how == 'effects': head_effects(model, x)
        elif how == 'examine': examine(model, x)
        else: deletion_insertion(model, x, torch.rand(1, 2, 3))
    assert hooks(model) == before and [m.training for m in model.modules()] == modes


def test_eval_mode_and_gradients():
    model = shaken(attn_drop=.5, drop=.5).train()
    x = random_images(model)
    torch.testing.assert_close(attention_maps(model, x), attention_maps(model.eval(), x))
    with capture_attention(model) as cap: model(x).sum().backward()
    assert not cap.weights.requires_grad and not cap.q.requires_grad and model.head.weight.grad is not None
    dropless, drop = shaken().train(), shaken(attn_drop=.9).train()
    with capture_attention(dropless, 0) as a: dropless(x)
    with capture_attention(drop, 0) as b: drop(x)
    torch.testing.assert_close(a.weights, b.weights)     # dropout of the weights comes after what is shown


def test_autocast_computes_in_float32():
    model, want = shaken(), attention_maps(shaken(), random_images(shaken()))
    x = random_images(model)
    with torch.autocast('cpu', torch.bfloat16):
        got = attention_maps(model, x)
        with capture_attention(model) as cap: model(x)
        inside = cap.weights
    for w in (got, inside, cap.weights):
        assert w.dtype == torch.float32
        torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]), rtol=0, atol=1e-6)    # bfloat16 would be 1e-2 off
        torch.testing.assert_close(w, want, rtol=0, atol=.02)
    half = copy.deepcopy(model).half()
    assert attention_maps(half, x.half()).dtype == torch.float32


@pytest.mark.parametrize('how', ['torch.compile', 'model.compile', 'a block', 'data parallel'])
def test_compiled_and_wrapped(how):
    model = shaken()
    x, want = random_images(model), attention_maps(model, random_images(model))
    if how == 'torch.compile': wrapped = torch.compile(model, backend='eager')
    elif how == 'model.compile': model.compile(backend='eager'); wrapped = model
    elif how == 'a block': model.encoder.blocks[1] = torch.compile(model.encoder.blocks[1], backend='eager'); wrapped = model
    else: wrapped = torch.nn.DataParallel(model)
    logits, R = wrapped(x), relevance(shaken(), x)
    for _ in range(2):
        with capture_attention(wrapped) as cap: wrapped(x)
        torch.testing.assert_close(cap.weights, want); torch.testing.assert_close(attention_maps(wrapped, x), want)
        if how != 'a block': torch.testing.assert_close(relevance(wrapped, x), R)
        torch.testing.assert_close(wrapped(x), logits)
    if how == 'torch.compile': assert wrapped.__dict__['forward'] is not model.forward and wrapped.forward.__name__ == 'forward' or callable(wrapped.forward)
    if how == 'model.compile': assert model._compiled_call_impl is not None


def test_gradient_checkpointing():
    model = shaken().train()
    x = random_images(model)
    want, model.encoder.checkpointing = attention_maps(model, x), True
    with capture_attention(model) as cap:
        loss = model(x).sum()
        model(2*x)                      # another forward in between: recomputing the first one must not count
        loss.backward()
    torch.testing.assert_close(cap.weights, attention_maps(model, 2*x))
    with capture_attention(model) as cap: model(x).sum().backward()
    torch.testing.assert_close(cap.weights, want)


# --- memory

class Peak(TorchDispatchMode):
    "The most bytes of new tensors alive at a time, and the largest one."
    def __init__(self, *old): # tensors that exist already
        super().__init__()
        self.live, self.peak, self.largest, self.seen = 0, 0, 0, {t.untyped_storage().data_ptr(): 0 for t in old}
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        for t in tree_iter(out):
            if not isinstance(t, torch.Tensor): continue
            s = t.untyped_storage()
            if s.data_ptr() in self.seen or not s.nbytes(): continue
            n = self.seen[s.data_ptr()] = s.nbytes()
            self.live, self.largest = self.live + n, max(self.largest, n); self.peak = max(self.peak, self.live)
            weakref.finalize(s, self.free, s.data_ptr())
        return out
    def free(self, ptr): self.live -= self.seen.pop(ptr, 0)


def test_one_layer_of_b16_costs_no_more_than_that_layer():
    model, x = create_vit('ViT-B_16', depth=3).eval(), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        with Peak(x, *model.parameters()) as plain: model(x)
        with Peak(x, *model.parameters()) as seen, capture_attention(model, 1) as cap:
            model(x)
            assert cap.weights.shape == (1, 1, 12, 197, 197)
    layer = 12*197*197*4
    print(plain.peak, seen.peak, layer)
    assert 197*3072*4 * 2 < plain.peak < 197*3072*4 * 4   # the meter works: the MLP's two tables, and a little
    assert seen.peak - plain.peak <= layer
    with Peak() as naive: torch.randn(1, 12, 197, 64).softmax(-1) @ torch.randn(1, 12, 64, 197)
    assert naive.largest == layer


def test_single_rows_never_make_the_whole_table():
    model, x = shaken(img_size=(8, 1600), dim=16, heads=2, mlp_dim=16, depth=2), torch.randn(1, 3, 8, 1600)
    T = 201
    with torch.no_grad(), Peak() as rows: assert attention_maps(model, x, queries=[0, 7]).shape == (2, 1, 2, 2, T)
    with torch.no_grad(), Peak() as whole: attention_maps(model, x)
    assert rows.largest < 2*T*T*4 <= whole.largest


# --- rollout and flow

def layered(weights):
    "x <- (x + A x)/2, layer after layer, heads averaged."
    def f(x):
        for A in weights.mean(1): x = (x + A @ x) / 2
        return x
    return f


@pytest.mark.parametrize('L,T', [(1, 4), (3, 5), (12, 9)])
def test_rollout_is_the_jacobian(L, T):
    w = random_weights(L, 1, 3, T).double()
    J = torch.autograd.functional.jacobian(layered(w[:, 0]), torch.randn(T, dtype=torch.float64))
    torch.testing.assert_close(rollout(w)[0], J, rtol=0, atol=1e-6)
    if L > 1: # the other order has rows that sum to 1, too, and is wrong
        wrong = rollout(w.flip(0))[0]
        torch.testing.assert_close(wrong.sum(-1), torch.ones(T, dtype=torch.float64))
        assert (wrong - J).abs().max() > 1e-3
    bare_ = torch.autograd.functional.jacobian(lambda x: torch.linalg.multi_dot([*w[:, 0].mean(1).flip(0), x[:, None]])[:, 0] if L > 1 else w[0, 0].mean(0) @ x,
                                               torch.randn(T, dtype=torch.float64))
    torch.testing.assert_close(rollout(w, residual=False)[0], bare_, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.sampled_from(['mean', 'max', 'min']), st.floats(0, .999), st.booleans(),
       st.sampled_from([0., 1., 30., 300.]), st.integers(0, 10**6))
def test_rows_sum_to_one(L, B, H, T, fusion, discard, residual, sharp, seed):
    R = rollout(random_weights(L, B, H, T, seed, sharp), fusion, discard, residual)
    assert R.shape == (B, T, T) and (R >= 0).all()
    torch.testing.assert_close(R.sum(-1), torch.ones(B, T), rtol=0, atol=1e-5)


def test_discard_cuts_the_weakest_and_never_the_class_token():
    w = torch.tensor([[.01, .04, .25, .3, .4]]).expand(5, 5)[None, None, None]
    F_ = fuse_heads(w[0], discard=.5, residual=False)[0]
    torch.testing.assert_close(F_, (torch.tensor([.01, 0, 0, .3, .4])/.71).expand(5, 5))
    each = random_weights(1, 3, 2, 8)[0]
    alone = torch.cat([fuse_heads(each[i:i+1], 'min', .4) for i in range(3)])
    torch.testing.assert_close(fuse_heads(each, 'min', .4), alone)
    assert ((fuse_heads(each, discard=.4, residual=False) == 0).sum(-1) == 2).all()


def test_min_of_heads_that_share_nothing_keeps_the_token():
    w = torch.eye(4).roll(1, 0)[None, None]
    w = torch.cat([w, torch.eye(4).roll(2, 0)[None, None]], 1)      # (1,2,4,4): the heads look at different tokens
    torch.testing.assert_close(fuse_heads(w, 'min', residual=False)[0], torch.eye(4))


@pytest.mark.parametrize('kw,words', [(dict(fusion='sum'), 'mean, max, min'), (dict(discard=1.), 'less than 1'), (dict(discard=-.1), 'at least 0')])
def test_rollout_refuses(kw, words):
    with pytest.raises(ValueError, match=words): rollout(random_weights(1, 1, 1, 3), **kw)
    with pytest.raises(ValueError, match='without `queries`'): rollout(torch.rand(1, 1, 1, 2, 3))
    with pytest.raises(ValueError, match='at least one layer'): rollout([])


def test_rollout_takes_layers_one_by_one():
    model = shaken()
    with capture_attention(model) as cap: model(random_images(model))
    torch.testing.assert_close(rollout(cap), rollout(cap.weights))


def test_flow_against_a_linear_programme():
    from scipy.optimize import linprog
    w = random_weights(2, 1, 2, 3).double()
    got, layers, T = attention_flow(w)[0], [fuse_heads(a)[0].numpy() for a in w], 3
    edges = [((l+1, i), (l, j), layers[l][i, j]) for l in range(2) for i in range(T) for j in range(T)]
    for i, j in itertools.product(range(T), range(T)):
        inner = [(1, n) for n in range(T)]
        balance = [[(b == n) - (a == n) for a, b, _ in edges] for n in inner]
        gain = [-float(b == (0, j)) for _, b, _ in edges]
        bounds = [(0, c if (a[0] == 1 or a == (2, i)) else 0) for a, b, c in edges]
        assert -linprog(gain, A_eq=balance, b_eq=[0]*T, bounds=bounds).fun == pytest.approx(got[i, j].item(), abs=1e-5)


def test_flow_of_one_layer_is_the_layer():
    w = random_weights(1, 2, 2, 4)
    torch.testing.assert_close(attention_flow(w), fuse_heads(w[0]), rtol=0, atol=1e-6)


# --- relevance

def explicit(model, x, change=None):
    "Logits by way of explicit attention; `change` {(layer, image, head, i, j): amount} is added to the weights after the softmax."
    z, tables = model.embed(x), []
    for l, b in enumerate(model.encoder.blocks):
        q, k, v = b.attn.split_heads(b.norm1(z))
        w = (q @ k.transpose(-2, -1) / q.shape[-1]**.5).softmax(-1)
        for (layer, *place), amount in (change or {}).items():
            if layer == l: w = w.clone(); w[tuple(place)] += amount
        tables.append(w)
        z = z + b.ls1(b.attn.proj((w @ v).transpose(1, 2).flatten(2)))
        z = z + b.ls2(b.mlp(b.norm2(z)))
    z = model.encoder.norm(z)
    return model.head(z[:, 0] if model.cfg.pool == 'cls' else z[:, model.n_prefix:].mean(1)), tables


@pytest.mark.parametrize('kw', [dict(), dict(registers=1, layer_scale=.3, qk_norm=True), dict(pool='mean')], ids=str)
def test_relevance_by_finite_differences(kw):
    model = shaken(img_size=(8, 16), dim=8, heads=2, depth=2, mlp_dim=16, **kw)
    x, target, eps = random_images(model, 2), [3, 1], 1e-5
    got = relevance(model, x, torch.tensor(target))
    model, x = model.double(), x.double()
    with torch.no_grad():
        logits, tables = explicit(model, x)
        torch.testing.assert_close(logits, model(x))
        T = tables[0].shape[-1]
        R = torch.eye(T, dtype=torch.float64).repeat(2, 1, 1)
        for l, w in enumerate(tables):
            grad = torch.zeros_like(w)
            for place in itertools.product(*map(range, w.shape)):
                up, down = (explicit(model, x, {(l, *place): s*eps})[0][place[0], target[place[0]]] for s in (1, -1))
                grad[place] = (up - down) / (2*eps)
            R = R + (grad*w).clamp(min=0).mean(1) @ R
    torch.testing.assert_close(got.double(), R, rtol=1e-4, atol=1e-5)
    other = relevance(model.float(), x.float(), 0).double()
    assert (other - R).abs().max() > 1e-3           # it does depend on the class


def test_relevance_leaves_gradients_alone_and_repeats():
    model = shaken()
    x = random_images(model)
    model(x).sum().backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    first = relevance(model, x)
    torch.testing.assert_close(relevance(model, x), first, rtol=0, atol=0)
    assert all(torch.equal(p.grad, before[n]) for n, p in model.named_parameters())
    torch.testing.assert_close(relevance(model, x, model(x).argmax(1)), first)
    with torch.no_grad(): torch.testing.assert_close(relevance(model, x), first)
    with torch.inference_mode(): torch.testing.assert_close(relevance(model, x), first)
    for p in model.parameters(): p.requires_grad_(False); p.grad = None
    torch.testing.assert_close(relevance(model.train(), x), first)
    assert model.training and all(p.grad is None for p in model.parameters()) and not x.requires_grad


@pytest.mark.parametrize('target,words', [(5, '0 to 4'), (-1, '0 to 4'), (torch.tensor([0, 9]), '0 to 4'), (torch.tensor([0, 1, 2]), 'each of the 2'), (1.5, 'class number')])
def test_relevance_refuses_a_class(target, words):
    model = shaken()
    with pytest.raises(ValueError, match=words): relevance(model, random_images(model), target)


def test_relevance_needs_a_head():
    model = shaken(num_classes=0)
    with pytest.raises(ValueError, match='no head'): relevance(model, random_images(model))
    with pytest.raises(TypeError, match='VisionTransformer'): relevance(torch.nn.Linear(3, 3), torch.randn(1, 3))


# --- figures

def slow_distance(w, grid, n_prefix, patch):
    (h, wd), (ph, pw), out = grid, patch, []
    for i in range(h*wd):
        row = w[n_prefix + i, n_prefix:]
        out.append(sum(float(p/row.sum()) * np.hypot((i//wd - j//wd)*ph, (i%wd - j%wd)*pw) for j, p in enumerate(row)))
    return sum(out)/len(out)


@pytest.mark.parametrize('grid,n_prefix,patch', [((3, 3), 1, (16, 16)), ((2, 5), 1, (1, 1)), ((4, 2), 5, (14, 7))])
def test_distance_by_two_loops(grid, n_prefix, patch):
    w = random_weights(2, 2, 3, n_prefix + grid[0]*grid[1])
    got = attention_distance(w, grid, n_prefix, patch)
    want = [[[slow_distance(h, grid, n_prefix, patch) for h in b] for b in l] for l in w]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5)


def test_distance_does_not_take_the_class_token_for_a_neighbour():
    far, grid = torch.zeros(5, 5), (2, 2)
    far[:, 0], far[1, 4], far[2, 3], far[3, 2], far[4, 1] = .9, .1, .1, .1, .1       # nine tenths on the class token, the rest across
    assert attention_distance(far, grid) == pytest.approx(2**.5)
    far[1:, 1:] = 0
    assert attention_distance(far, grid).isnan()
    with pytest.raises(ValueError, match='grid of 2 x 3'): attention_distance(torch.rand(5, 5), (2, 3))


def test_entropy_and_prefix_mass():
    w = torch.stack([torch.eye(6)[2], torch.full((6,), 1/6)])
    np.testing.assert_allclose(entropy(w), [0, np.log(6)], atol=1e-6)
    np.testing.assert_allclose(prefix_mass(w, 3), [1, .5])


def test_rollout_washes_out():
    model = create_vit('ViT-tiny_4', depth=12).eval()
    x = random_images(model, 1)
    w = attention_maps(model, x)
    c = [mean_correlation(rollout(w[:n]))[0].item() for n in (1, 6, 12)]
    assert c[0] < c[1] < c[2] and c[2] > .95
    np.testing.assert_allclose(query_correlation(rollout(w))[0], np.corrcoef(rollout(w)[0, 1:, 1:].numpy()), atol=1e-4)


def test_patch_filters_are_principal_components():
    model = shaken(patch_size=(8, 4), img_size=(16, 16))
    filters, share = patch_filters(model, 7)
    E = model.patch_embed.proj.weight.detach().flatten(1).double().numpy()
    values, vectors = np.linalg.eigh(np.cov(E.T))
    assert filters.shape == (7, 3, 8, 4) and share.shape == (7,)
    np.testing.assert_allclose(share, values[::-1][:7]/values.sum(), rtol=1e-4)
    np.testing.assert_allclose(np.abs((filters.flatten(1).double().numpy() * vectors[:, ::-1][:, :7].T).sum(1)), 1, atol=1e-4)
    assert (filters.flatten(1).max(1).values == filters.flatten(1).abs().max(1).values).all()
    with pytest.raises(ValueError, match='hybrid'): patch_filters(create_vit('R50-ViT-B_16', 32, depth=1, hybrid=(1, 1, 1)))


def test_position_similarity():
    model = shaken(registers=2)
    s, p = position_similarity(model), model.pos_embed[0, 1:].detach()
    assert s.shape == (2, 3, 2, 3)
    assert s[1, 2, 0, 1].item() == pytest.approx(F.cosine_similarity(p[5], p[1], dim=0).item(), abs=1e-6)
    with pytest.raises(ValueError, match='no position'): position_similarity(shaken(pos_embed='none'))


def test_unnormalise_is_exact():
    from vit_course.data import Batches, ImageSet
    every = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 48, 1).expand(1, 16, 48, 3)
    for mean, std in SCALES.values():
        x = normalise(every, mean, std)
        assert torch.equal(unnormalise(x, mean, std), every)
        b = Batches(ImageSet(every.permute(0, 3, 1, 2), torch.zeros(1)), 1, (16, 48), ['a'], mean, std)
        torch.testing.assert_close(b.one_batch()[0], x); assert torch.equal(b.to_image(x), unnormalise(x, mean, std))


# --- images

def test_overlay():
    image, m = np.full((6, 9, 3), 100, np.uint8), torch.tensor([[0., 1., 2.], [3., 4., 5.]])
    out = overlay(image, m, alpha=1.)
    assert out.shape == image.shape and out.dtype == np.uint8
    blocks = out.reshape(2, 3, 3, 3, 3)
    assert (blocks == blocks[:, :1, :, :1]).all() and len(np.unique(out.reshape(-1, 3), axis=0)) == 6   # six patches, flat ones
    assert (overlay(image, m, alpha=0.) == image).all() and len(np.unique(overlay(image, m, 1., 'bilinear').reshape(-1, 3), axis=0)) > 6
    assert overlay(image, torch.ones(2, 3)).shape == image.shape
    with pytest.raises(ValueError, match='nearest or bilinear'): overlay(image, m, interpolation='bicubic')


def drawn(weights, grid, n_prefix=1, **kw):
    "What `show_heads` draws: brightness in [0,1] of every patch of every map (L,H,h,w), and its axes."
    from matplotlib.figure import Figure
    (h, w), (L, H) = grid, weights.shape[:2]
    axes = show_heads(weights, grid, n_prefix, fig=Figure(), **kw).axes
    image = axes[0].images[0]
    canvas = np.clip(np.asarray(image.get_array())/image.get_clim()[1], 0, 1)
    down, across = (round(float(t[1] - t[0])) if len(t) > 1 else 0 for t in (axes[0].get_yticks(), axes[0].get_xticks()))
    return np.stack([[canvas[l*down:l*down + h, n*across:n*across + w] for n in range(H)] for l in range(L)]), axes


@pytest.mark.parametrize('grid', [(2, 5), (5, 2), (8, 8), (3, 11)], ids=str)
@pytest.mark.parametrize('scale', ['own', 'shared'])
def test_show_heads_draws_every_map_in_its_place(scale, grid):
    w = random_weights(3, 1, 4, 2 + grid[0]*grid[1])[:, 0]
    image, axes = drawn(w, grid, 2, query=3, scale=scale)
    maps = w[:, :, 3, 2:].reshape(3, 4, *grid).double().numpy()
    top = np.quantile(maps, .98, axis=(2, 3), keepdims=True) if scale == 'own' else maps.max()
    np.testing.assert_allclose(image, np.minimum(maps/top, 1), rtol=1e-5)
    numbers, label = [float(t.get_text()) for t in axes[0].texts], axes[1].get_ylabel()
    if scale == 'own': np.testing.assert_allclose(numbers, 100*maps.max((2, 3)).ravel(), atol=.51)
    assert ('percentile' in label, 'one scale for all' in label, len(numbers)) == ((True, False, 12) if scale == 'own' else (False, True, 0))
    with pytest.raises(ValueError, match='own or shared'): show_heads(w, grid, 2, scale='each')


def test_each_map_has_its_own_scale_unless_asked():
    w = random_weights(3, 1, 4, 17)[:, 0]
    assert (drawn(w, (4, 4))[0] == drawn(w, (4, 4), scale='own')[0]).all() and (drawn(w, (4, 4))[0] != drawn(w, (4, 4), scale='shared')[0]).any()


@pytest.mark.parametrize('grid', [(8, 8), (16, 16), (3, 7)], ids=str)
@pytest.mark.parametrize('noise', [0, 1e-6, .02])
@pytest.mark.parametrize('rest', [1., 1e-3, 1e-9])
def test_a_uniform_head_looks_uniform(grid, noise, rest):
    "Also one that is uniform but for rounding, and one that gives nearly all to the class token."
    N = grid[0]*grid[1]
    w = torch.cat([torch.tensor([1 - rest]), rest/N*(1 + noise*(2*torch.rand(N, generator=torch.Generator().manual_seed(0)) - 1))]).expand(2, 3, 1, -1)
    assert drawn(w, grid)[0].min() > .95


def test_a_single_patch_neither_darkens_its_head_nor_is_its_dust_blown_up():
    slope = torch.linspace(0, 1, 256)/128
    w = torch.stack([slope, slope, slope*1e-7, torch.zeros(256)])        # a head with structure; with an outlier; nearly one-hot; nothing at all
    w[1, 100], w[2, 100] = .7, 1
    image = drawn(torch.cat([torch.zeros(4, 1), w], 1)[None, :, None], (16, 16))[0][0].reshape(4, 256)
    others = np.arange(256) != 100
    np.testing.assert_allclose(image[1, others], image[0, others], atol=.05)
    assert image[2, 100] == 1 and image[2, others].max() < 1e-4 and (image[3] == 0).all()


# What one sees at first sight. A head has visible structure when a tenth of its patches are brighter than a tenth of the range (and it is not flat).
def structured(image): return ((image > .1).mean((-2, -1)) >= .1) & (image.std((-2, -1)) > .05)


def shipped():
    from vit_course.checkpoints import load_checkpoint
    return load_checkpoint(None, 'vit-tiny-4-cifar10').model.eval(), 'half'


def dinov2():
    from conftest import SHARED
    from vit_course.checkpoints import load_checkpoint
    path = SHARED/'weights'/'dinov2_small_fp16.safetensors'
    if not path.exists(): pytest.skip(f'no weights of DINOv2-S here: {path}')
    model = create_vit('ViT-S_14', img_size=224, num_classes=0).eval()
    load_checkpoint(model, path)
    return model, 'imagenet'


@pytest.mark.parametrize('get', [shipped, dinov2], ids=lambda f: f.__name__)
def test_first_sight_of_real_maps_is_not_black(get):
    "Three quarters of the heads are to be seen, for the class token and for a patch, on three photographs. On a shared scale not half are."
    data = pytest.importorskip('skimage.data')
    from PIL import Image
    model, scale = get()
    (h, w), size = model.grid, model.patch_embed.img_size[::-1]
    photos = [np.asarray(Image.fromarray(getattr(data, name)()).resize(size, Image.Resampling.BILINEAR)) for name in ('cat', 'astronaut', 'coffee')]
    x = normalise(torch.from_numpy(np.stack(photos)), *SCALES[scale])
    weights = attention_maps(model, x, queries=[0, 1 + h//2*w + w//2])
    own, shared = ([np.mean([structured(drawn(weights[:, i], (h, w), query=query, scale=scale)[0]) for i in range(3)]) for query in (0, 1)] for scale in ('own', 'shared'))
    assert min(own) >= .75 > .5 > np.mean(shared), (own, shared)


# --- trust

def test_ablation_silences_one_head():
    model = shaken()
    x, l, h = random_images(model), 1, 2
    with torch.no_grad():
        silent = copy.deepcopy(model)
        silent.encoder.blocks[l].attn.proj.weight[:, h*8:(h+1)*8] = 0
        with ablate(model, l, h): torch.testing.assert_close(model(x), silent(x))
        effects = head_effects(model, x, 3)
        assert effects.shape == (3, 4, 2)
        torch.testing.assert_close(effects[l, h], (silent(x) - model(x))[:, 3])
        c = torch.compile(model, backend='eager'); c(x)
        with ablate(c, l, h): torch.testing.assert_close(c(x), silent(x))
    for bad in ((3, 0), (0, 4), (0, -1)):
        with pytest.raises(ValueError, match='there is no'), ablate(model, *bad): pass


class Linear(VisionTransformer):
    "A model whose logit is a known sum over the patches: the best order is known, too."
    def forward(self, x): return torch.stack([(x[:, 0].unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4)) * self.w).sum((1, 2)), torch.zeros(len(x))], 1)


def test_deletion_and_insertion_find_the_better_order():
    model = Linear(ViTConfig(**(TINY | dict(num_classes=2)))).eval()
    model.w = torch.tensor([[0., 1., 5.], [2., 0., 3.]])
    x = torch.ones(2, 3, 16, 24)
    good, bad = (deletion_insertion(model, x, (s*model.w).expand(2, 2, 3), 0) for s in (1, -1))
    for r in (good, bad):
        assert r.fraction.tolist() == pytest.approx([0, 1/6, 2/6, 3/6, 4/6, 5/6, 1]) and r.deletion.shape == r.insertion.shape == (2, 7)
        np.testing.assert_allclose(r.deletion[:, 0], torch.tensor(11.).sigmoid()); np.testing.assert_allclose(r.insertion[:, 0], .5)
        torch.testing.assert_close(r.deletion[:, -1], r.insertion[:, 0]); torch.testing.assert_close(r.insertion[:, -1], r.deletion[:, 0])
    want = torch.tensor([11., 6, 3, 1, 0, 0, 0]).sigmoid()
    torch.testing.assert_close(good.deletion[0], want)
    torch.testing.assert_close(good.insertion[0], torch.tensor([0., 5, 8, 10, 11, 11, 11]).sigmoid())
    assert (good.deletion_area < bad.deletion_area).all() and (good.insertion_area > bad.insertion_area).all()
    assert good.deletion_area[0].item() == pytest.approx(np.trapezoid(want, dx=1/6), abs=1e-6)
    with pytest.raises(ValueError, match='are needed'): deletion_insertion(model, x, torch.rand(2, 5))


def test_weight_randomisation_changes_what_it_says():
    model = shaken()
    for n in range(4):
        twin = weight_randomisation(model, n, seed=1)
        same = [all(torch.equal(a, b) for a, b in zip(x.parameters(), y.parameters())) for x, y in zip(model.encoder.blocks, twin.encoder.blocks)]
        assert same == [True]*(3 - n) + [False]*n and not torch.equal(model.head.weight, twin.head.weight)
        for a, b in zip(model.parameters(), twin.parameters()): torch.testing.assert_close(a.flatten().sort().values, b.flatten().sort().values)


def test_rank_correlation():
    from scipy.stats import spearmanr
    a, b = torch.randn(4, 30), torch.randn(4, 30)
    np.testing.assert_allclose(rank_correlation(a, b), [spearmanr(x, y).statistic for x, y in zip(a, b)], atol=1e-5)
    torch.testing.assert_close(rank_correlation(a, a.exp()), torch.ones(4))


def test_pointing_game():
    maps = torch.zeros(2, 3, 4); maps[0, 1, 2] = 3; maps[0, 0, 0] = 1; maps[1, 2, 3] = 1
    hit, mass = pointing_game(maps, torch.tensor([[1, 1, 2, 2], [0, 0, 2, 2]]))
    assert hit.tolist() == [True, False] and mass.tolist() == [.75, 0]


def test_pixel_norm():
    x = torch.zeros(1, 3, 16, 24); x[0, 1, 9, 17] = -2
    assert pixel_norm(x, 8).tolist() == [[0, 0, 0, 0, 0, 2]]


@pytest.mark.parametrize('method', ['raw', 'rollout', 'relevance'])
def test_examine(method):
    model = shaken(registers=1)
    x = random_images(model, 1)
    w = attention_maps(model, x)
    figures, m, rows = examine(model, x, method, -1, None, (1, 2))
    want = {'raw': w[-1].mean(1), 'rollout': rollout(w), 'relevance': relevance(model, x)}[method]
    torch.testing.assert_close(m, to_grid(want[0, 7], (2, 3), 2)); torch.testing.assert_close(rows[:, :, 0], w[:, 0, :, 7])
    np.testing.assert_allclose(figures['entropy'], entropy(w).mean((1, -1)), rtol=1e-5)
    np.testing.assert_allclose(figures['distance'], attention_distance(w, (2, 3), 2, 8)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(figures['prefix_mass'], prefix_mass(w, 2).mean((1, -1)), rtol=1e-5)
    assert figures['rollout_correlation'] == pytest.approx(mean_correlation(rollout(w), 2).item(), abs=1e-5)
    probabilities = [p['probability'] for p in figures['prediction']]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5) and probabilities == sorted(probabilities, reverse=True)
    assert figures['prediction'][0]['class'] == model(x).argmax().item()
    torch.testing.assert_close(examine(model, x, 'raw', 0, 2, 'mean')[1], to_grid(w[0, 0, 2, 2:].mean(0), (2, 3), 2))
