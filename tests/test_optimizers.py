"Muon beside torch's own, beside AdamW, and through a stopped run."
from dataclasses import replace

import pytest, torch
from vit_course.tools import optimizers
from fastai.callback.core import Callback
from torch.nn import functional as F
from vit_course.finetune import FinetuneConfig, finetune, get_learner
from vit_course.tools.run_folder import Interrupted
from vit_course.tools.optimizers import Muon, make_optimizer, orthogonalise
from vit_course.vit import create_vit


def grown(seed=0, **kw):
    "A small model whose gradients are not zero anywhere."
    torch.manual_seed(seed)
    model = create_vit('testing', **kw)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model


def backward(*models, seed=0):
    torch.manual_seed(seed)
    x, y = torch.randn(8, 3, 16, 16), torch.randint(0, 10, (8,))
    for m in models: m.zero_grad(); F.cross_entropy(m(x), y).backward()


def test_equals_torch(monkeypatch):
    "With torch's own rounds, which are in bfloat16, the steps are torch's, decay and momentum included."
    muon = pytest.importorskip('torch.optim._muon', reason='this torch has no Muon')
    def same(g, bf16): return torch.stack([muon._zeropower_via_newtonschulz(m, optimizers.NEWTON_SCHULZ, 5, 1e-7) for m in g.flatten(0, 1)]).unflatten(0, g.shape[:2])
    monkeypatch.setattr(optimizers, 'orthogonalise', same)
    ours, theirs = grown(), grown()
    one_map = [n for n, p in ours.named_parameters() if p.ndim == 2 and '.blocks.' in n and 'qkv' not in n]
    a = make_optimizer(ours, 'muon', 1e-2, 0.1)
    b = torch.optim.Muon([theirs.get_parameter(n) for n in one_map], lr=1e-2, weight_decay=0.1, adjust_lr_fn='match_rms_adamw')
    for step in range(4):
        backward(ours, theirs, seed=step); a.step(); b.step()
        for n in one_map: torch.testing.assert_close(ours.get_parameter(n), theirs.get_parameter(n), rtol=0, atol=5e-5)      # of steps of about 0.01: a last bit of bfloat16
        theirs.load_state_dict(ours.state_dict())


def test_rounds_in_bfloat16_are_torchs():
    muon = pytest.importorskip('torch.optim._muon', reason='this torch has no Muon')
    for seed, shape in enumerate([(48, 48), (96, 24), (24, 96)]):
        g = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        theirs = muon._zeropower_via_newtonschulz(g, optimizers.NEWTON_SCHULZ, 5, 1e-7).float()
        ours, wide = orthogonalise(g, bf16=True), orthogonalise(g)
        assert ours.dtype == torch.bfloat16 and wide.dtype == torch.float32
        assert (ours - theirs).norm() < 0.08*theirs.norm() and (ours - wide).norm() < 0.08*wide.norm()


def test_a_run_in_bfloat16_has_its_rounds_in_it():
    for bf16 in (False, True):
        learn = get_learner(FinetuneConfig('t', model_type='testing', optimizer='muon', device='cpu', bf16=bf16))
        learn.create_opt()
        assert learn.opt.opt.bf16 is bf16


def test_the_rest_is_adamw():
    ours, theirs = grown(), grown()
    a, b = make_optimizer(ours, 'muon', 1e-2, 0.1), make_optimizer(theirs, 'adamw', 1e-2, 0.1)
    rest = {n for n, p in ours.named_parameters() if not any(p is q for g in a.param_groups if g.get('maps') for q in g['params'])}
    assert {'pos_embed', 'cls_token', 'patch_embed.proj.weight', 'head.weight', 'encoder.blocks.0.attn.qkv.bias', 'encoder.blocks.1.norm2.weight'} <= rest
    backward(ours, theirs); a.step(); b.step()
    for n in rest: torch.testing.assert_close(ours.get_parameter(n), theirs.get_parameter(n), rtol=0, atol=0)
    assert not torch.equal(ours.encoder.blocks[0].mlp.fc1.weight, theirs.encoder.blocks[0].mlp.fc1.weight)


def test_queries_keys_and_values_are_three_maps():
    model = grown()
    opt, w = make_optimizer(model, 'muon', 1e-2), model.encoder.blocks[0].attn.qkv.weight
    before = w.detach().clone(); backward(model); opt.step()
    for moved in ((before - w.detach()) / (1e-2 * 0.2 * w.shape[1]**0.5)).chunk(3):
        s = torch.linalg.svdvals(moved)
        assert 0.6 < s.median() and s.max() < 1.25, s


@pytest.mark.parametrize('shape', [(5, 5), (3, 8), (8, 3), (2, 4, 7, 3)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_orthogonalise(shape, dtype):
    torch.manual_seed(1)
    g = torch.randn(shape, dtype=dtype)
    out = orthogonalise(g)
    assert out.shape == g.shape and out.dtype == dtype
    s = torch.linalg.svdvals(out)
    assert s.max() < 1.25 and s.median() > 0.6
    torch.testing.assert_close(orthogonalise(1e-3*g), out)
    assert orthogonalise(torch.zeros(3, 4)).eq(0).all()                       # nothing to do is no NaN


def test_learns_what_adamw_learns_in_fewer_steps():
    def accuracy(name):
        learn = get_learner(FinetuneConfig('t', optimizer=name, num_steps=100, eval_every=100, device='cpu'))
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return learn.recorder.values[-1][-1]
    assert accuracy('muon') > accuracy('adamw') + 0.05


@pytest.mark.parametrize('kw', [{}, dict(gradient_accumulation_steps=3), dict(fp16=True), dict(bf16=True)], ids=str)
def test_stops_and_goes_on(tmp_path, kw):
    cfg = FinetuneConfig('whole', output_dir=tmp_path, model_type='testing', optimizer='muon', device='cpu', num_steps=12, eval_every=5, set=dict(drop=0.1), **kw)
    class Stop(Callback):
        order = 80
        def after_batch(self): self.learn.run_guard.stop |= self.training and self.dls.train.step == 6
    finetune(cfg, progress=False)
    with pytest.raises(Interrupted): finetune(replace(cfg, name='stopped'), progress=False, learner=lambda c: get_learner(c).add_cb(Stop()))
    finetune(replace(cfg, name='stopped', resume=True), progress=False)
    a, b = (torch.load(tmp_path/n/'last'/'state.pt', weights_only=True)['model'] for n in ('whole', 'stopped'))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_frozen_parameters_stay():
    model = grown()
    for n, p in model.named_parameters(): p.requires_grad_(n.startswith('head.'))
    opt, before = make_optimizer(model, 'muon', 1e-2), {k: v.clone() for k, v in model.state_dict().items()}
    assert isinstance(opt, Muon) and not any(g.get('maps') for g in opt.param_groups)
    backward(model); opt.step()
    assert {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])} == {'head.weight', 'head.bias'}
