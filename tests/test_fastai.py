"""Each verb that a fastai user knows, on our loaders and on fastai's own: what it gives, and not only that it runs.

`benchmarks/fastai_verbs.py` makes the table of the reference out of these tests: one test, one verb."""
import csv, re, sys, tarfile, warnings

import matplotlib
import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.data.transforms import Normalize, get_image_files, parent_label
from fastai.vision.all import (
    AvgMetric, Callback, CategoryBlock, ClassificationInterpretation, CrossEntropyLossFlat, CSVLogger, CutMix,
    DataBlock, EarlyStoppingCallback, GradientAccumulation, GradientClip, GrandparentSplitter, ImageBlock, ImageDataLoaders,
    LabelSmoothingCrossEntropyFlat, MixedPrecision, MixUp, OptimWrapper, PILImage, ReduceLROnPlateau, SaveModelCallback, accuracy,
    load_learner)
from matplotlib import pyplot as plt
from PIL import Image
from torch.nn import functional as F
from vit_course.callbacks import AutocastMixedPrecision
from vit_course.checkpoints import save_checkpoint
from vit_course.data import get_dls, load_digits, make_dls, load_splits
from vit_course.finetune import FinetuneConfig, get_learner, vit_learner, vit_splitter
from vit_course.vit import create_vit

matplotlib.use('Agg')
pytestmark = pytest.mark.filterwarnings('ignore')
CIFAR = SHARED/'data'/'cifar10_jpeg.tar.xz'
SMALL = dict(depth=2, dim=16, heads=2, mlp_dim=32)


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    "Digits as PNG files: train/<class>/ and valid/<class>/, 24 and 8 a class."
    root, (digits, classes) = tmp_path_factory.mktemp('digits'), load_digits()
    for c in range(10):
        for k, i in enumerate((digits.labels == c).nonzero()[:32, 0].tolist()):
            path = root/('train' if k < 24 else 'valid')/f'digit {c}'/f'{i:04}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.images[i].permute(1, 2, 0).numpy()).save(path)
    return root


@pytest.fixture(params=['ours', 'fastai'])
def dls(request, tree, tmp_path):
    if request.param == 'ours': dls = get_dls('folder', tree, img_size=8, bs=32, eval_bs=32, flip=False, min_area=1, device='cpu')
    else:
        dls = ImageDataLoaders.from_folder(tree, valid='valid', bs=32, num_workers=0, device=torch.device('cpu'),
                                           batch_tfms=Normalize.from_stats([.5]*3, [.5]*3, cuda=False))
    dls.path = tmp_path
    yield dls
    plt.close('all')


def make(dls, seed=0, **kw):
    torch.manual_seed(seed)
    learn = vit_learner(dls, 'ViT-digits', overrides=SMALL, metrics=accuracy, **kw)
    torch.nn.init.normal_(learn.model.head.weight, std=.5)       # a fresh head is zero: all answers alike
    learn.no_bar().__enter__(); learn.no_logging().__enter__()
    return learn


@pytest.fixture
def learn(dls): return make(dls)


@torch.no_grad()
def by_hand(learn, dl):
    "Logits and classes, batch by batch, from the model itself."
    learn.model.eval()
    out = [(learn.model(b[0].as_subclass(torch.Tensor)), *(t.as_subclass(torch.Tensor) for t in b[1:])) for b in dl]
    return [torch.cat(t) for t in zip(*out)]


def weights(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}
def same(a, b): return all(torch.equal(a[k], b[k]) for k in a)
def titles(): return [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]
def valid_files(dls, tree):
    "The validation images' files, in the order of the loader."
    return list(dls.valid.items) if len(dls.loaders) == 2 else sorted((tree/'valid').rglob('*.png'))


# Looking at data

def test_show_batch(dls, tree):
    dls.valid.show_batch(max_n=4)
    assert titles() == [f.parent.name for f in valid_files(dls, tree)[:4]]
    x, y, samples = dls.valid.show_batch(max_n=4, show=False)
    file = valid_files(dls, tree)[0]
    shown = x[0].as_subclass(torch.Tensor)                       # as it was before Normalize
    shown = shown if shown.is_floating_point() else shown/255
    torch.testing.assert_close(shown, torch.tensor(np.array(Image.open(file))).permute(2, 0, 1)/255, rtol=0, atol=1.01/255)
    plt.close('all'); dls.show_batch(max_n=6)
    assert len(titles()) == 6


def test_vocab_c_n_inp_n(dls):
    assert list(dls.vocab) == [f'digit {c}' for c in range(10)] and dls.vocab.o2i['digit 3'] == 3
    held_out = 10*round(24/5) if len(dls.loaders) == 3 else 0        # ours make a test set where there is none
    assert dls.c == 10 and dls.n_inp == 1 and (dls.train.n, dls.valid.n) == (240 - held_out, 80)


def test_one_batch_to_device(dls):
    x, y = dls.one_batch()
    assert x.shape == (32, 3, 8, 8) and y.shape == (32,) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert -1.01 <= x.min() < 0 < x.max() <= 1.01
    assert torch.device(dls.to('cpu').device) == torch.device('cpu') and dls.cpu().one_batch()[0].device.type == 'cpu'


def test_new(dls):
    a = dls.valid.new(bs=7)
    assert [len(b[1]) for b in a][-1] == 80 % 7 and torch.equal(torch.cat([b[1] for b in a]), torch.cat([b[1] for b in dls.valid]))
    assert len(dls.valid.new(bs=7, drop_last=True)) == 80//7
    y = torch.cat([b[1] for b in dls.valid.new(shuffle=True)])
    assert not torch.equal(y, y.sort().values) and y.bincount().tolist() == [8]*10


def test_test_dl(dls, learn, tree):
    files = valid_files(dls, tree)
    want, _ = by_hand(learn, dls.valid)
    one_by_one = dls.test_dl(files)
    assert len(one_by_one.one_batch()) == 1
    got, = by_hand(learn, one_by_one)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


# Training

def test_lr_find(learn, dls):
    learn.fit(1, 1e-3)
    before, moments = weights(learn), str(learn.opt.state_dict())
    step = getattr(dls.train, 'step', None)
    found = learn.lr_find(num_it=60)
    lrs = np.array(learn.recorder.lrs)
    np.testing.assert_allclose(lrs, 1e-7 * (10/1e-7)**(np.arange(len(lrs))/60), rtol=1e-4)
    assert len(lrs) > 30 and 1e-7 < found.valley < 10
    assert same(before, weights(learn)) and moments == str(learn.opt.state_dict()) and step == getattr(dls.train, 'step', None)


def test_fit(learn):
    before = weights(learn)
    learn.fit(3, 5e-3)
    losses = learn.recorder.losses
    assert len(learn.recorder.values) == 3 and not same(before, weights(learn)) and set(learn.recorder.lrs) == {5e-3}
    assert losses[-1] < losses[0] and learn.recorder.values[-1][1] < learn.recorder.values[0][1]


def test_fit_one_cycle(learn):
    learn.fit_one_cycle(2, 1e-2)
    lrs = np.array(learn.recorder.lrs)
    assert lrs[0] == pytest.approx(1e-2/25) and lrs.max() == pytest.approx(1e-2, rel=.1) and lrs[-1] < 1e-3
    assert lrs.argmax()/len(lrs) == pytest.approx(.25, abs=.1)


def test_fit_flat_cos(learn):
    learn.fit_flat_cos(2, 3e-3)
    lrs = np.array(learn.recorder.lrs)
    flat = int(.75*len(lrs))
    assert lrs[:flat] == pytest.approx(3e-3) and lrs[-1] < 1.5e-3 and (np.diff(lrs[flat:]) <= 0).all()


def test_fine_tune(learn):
    class Watch(Callback):
        def before_epoch(self): self.before = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        def after_epoch(self): moved.append({n for n, p in self.model.named_parameters() if not torch.equal(p, self.before[n])})
    moved = []
    learn.fine_tune(1, base_lr=1e-2, freeze_epochs=1, cbs=Watch())
    frozen, free = moved
    matrices = {n for n in free if n.startswith('encoder.') and n.endswith('weight') and 'norm' not in n}
    assert {'head.weight', 'head.bias'} <= frozen and matrices and not matrices & frozen
    rates = [h['lr'] for h in learn.opt.hypers]
    assert len(rates) == 3 and rates[0] < rates[1] < rates[2]      # discriminative: later layers learn faster


def test_validate(learn, dls):
    logits, y = by_hand(learn, dls.valid)
    loss, acc = learn.validate()
    assert loss == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5) and acc == pytest.approx((logits.argmax(1) == y).float().mean().item())


def test_freeze_unfreeze(learn):
    learn.freeze()
    free = {n for n, p in learn.model.named_parameters() if p.requires_grad and 'norm' not in n}
    assert free == {'head.weight', 'head.bias'}
    learn.freeze_to(-2)
    assert learn.model.encoder.blocks[1].mlp.fc1.weight.requires_grad and not learn.model.encoder.blocks[0].mlp.fc1.weight.requires_grad
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())


# Predicting

def test_get_preds(learn, dls):
    logits, y = by_hand(learn, dls.valid)
    p, t, decoded, loss = learn.get_preds(with_decoded=True, with_loss=True)
    torch.testing.assert_close(p, logits.softmax(1), rtol=0, atol=1e-5)
    assert torch.equal(t.as_subclass(torch.Tensor), y) and torch.equal(decoded.as_subclass(torch.Tensor), logits.argmax(1))
    torch.testing.assert_close(loss.as_subclass(torch.Tensor), F.cross_entropy(logits, y, reduction='none'), rtol=0, atol=1e-4)


def test_get_preds_of_train(learn, dls):
    "In the order of the training images."
    p, t = learn.get_preds(ds_idx=0)
    in_order = dls.train.new(shuffle=False, drop_last=False)
    logits, y = by_hand(learn, in_order)
    assert len(p) == dls.train.n and torch.equal(t.as_subclass(torch.Tensor), y)
    torch.testing.assert_close(p, logits.softmax(1), rtol=0, atol=1e-5)
    p, t = learn.get_preds(dl=dls.valid.new(shuffle=True))
    logits, y = by_hand(learn, dls.valid)
    torch.testing.assert_close(p, logits.softmax(1), rtol=0, atol=1e-5)       # put back in order


def test_get_preds_of_test_dl(learn, dls, tree):
    files = valid_files(dls, tree)[::3]
    p, t = learn.get_preds(dl=dls.test_dl(files))
    logits, _ = by_hand(learn, dls.valid)
    assert t is None
    torch.testing.assert_close(p, logits.softmax(1)[::3], rtol=0, atol=1e-5)


@pytest.mark.parametrize('kind', ['path', 'PIL', 'array'])
def test_predict(learn, dls, tree, kind):
    file = valid_files(dls, tree)[37]
    item = dict(path=file, PIL=PILImage.create(file), array=np.array(Image.open(file)))[kind]
    name, index, p = learn.predict(item)
    logits, _ = by_hand(learn, dls.valid)
    torch.testing.assert_close(p.as_subclass(torch.Tensor), logits.softmax(1)[37], rtol=0, atol=1e-5)
    assert name == dls.vocab[p.argmax()] and index == p.argmax()


def test_tta(learn, dls):
    "Without augmentation, all looks are the same look; with it, the mean of four is not."
    p, _ = learn.get_preds()
    looked, t = learn.tta(n=2)
    torch.testing.assert_close(looked, p, rtol=0, atol=1e-5)
    if len(dls.loaders) < 3: return
    dls.valid.flip = True
    torch.manual_seed(0); several, _ = learn.tta(n=4, beta=0)
    mirrored = torch.cat([learn.model(x.flip(-1)).softmax(1).detach() for x, _ in dls.valid])
    part = (several - p) / (mirrored - p)                # how often each image was mirrored, in quarters
    assert torch.allclose(part.mean(1)*4, (part.mean(1)*4).round(), atol=.05) and len(part.mean(1).mul(4).round().unique()) >= 4


def test_show_results(learn, dls):
    torch.manual_seed(0); learn.show_results(max_n=6, shuffle=False)
    logits, y = by_hand(learn, dls.valid)
    assert titles() == [f'{dls.vocab[t]}\n{dls.vocab[a]}' for t, a in zip(y[:6], logits.argmax(1))]


def test_ClassificationInterpretation(learn, dls):
    logits, y = by_hand(learn, dls.valid)
    want = torch.zeros(10, 10, dtype=torch.long)
    for t, a in zip(y, logits.argmax(1)): want[t, a] += 1
    i = ClassificationInterpretation.from_learner(learn)
    assert (i.confusion_matrix() == want.numpy()).all()
    a, b, n = i.most_confused()[0]
    assert want.fill_diagonal_(0).max() == n == want[list(dls.vocab).index(a), list(dls.vocab).index(b)]
    losses, where = i.top_losses(5)
    torch.testing.assert_close(losses.as_subclass(torch.Tensor), F.cross_entropy(logits, y, reduction='none').topk(5).values, rtol=0, atol=1e-4)
    i.plot_top_losses(4)
    assert titles()[0].startswith(f'{dls.vocab[logits[where[0]].argmax()]}/{dls.vocab[y[where[0]]]}')
    i.plot_confusion_matrix()
    assert [t.get_text() for t in plt.gca().get_xticklabels()] == list(dls.vocab)


# Keeping

def test_export_load_learner(learn, dls, tree, tmp_path):
    learn.fit(1, 1e-3)
    learn.export('whole.pkl')
    other = load_learner(tmp_path/'whole.pkl')
    other.no_bar().__enter__()
    file = valid_files(dls, tree)[5]
    name, index, p = other.predict(file)
    assert (name, index) == learn.predict(file)[:2] and list(other.dls.vocab) == list(dls.vocab)
    torch.testing.assert_close(p, learn.predict(file)[2])
    assert len(dls.valid_ds) == 80                                    # the learner has its data still


def test_save_load(learn, dls, tmp_path):
    learn.fit(1, 1e-3)
    learn.save('here')
    assert (tmp_path/'models'/'here.pth').exists()
    before, moments = weights(learn), str(learn.opt.state_dict())
    learn.fit(1, 1e-3)
    assert not same(before, weights(learn))
    learn.load('here')
    assert same(before, weights(learn)) and str(learn.opt.state_dict()) == moments
    another = make(dls, seed=9).load('here')
    assert same(before, weights(another))


def test_summary(learn):
    text = str(learn.summary())
    assert 'Input shape: 32 x 3 x 8 x 8' in text and 'Total trainable params: ' in text
    counted = int(text.split('Total params: ')[1].split()[0].replace(',', ''))
    alone = sum(p.numel() for p in (learn.model.cls_token, learn.model.pos_embed))      # parameters of no layer
    assert counted == sum(p.numel() for p in learn.model.parameters()) - alone


# Callbacks

def test_to_fp16_to_bf16(learn, dls):
    "On a GPU the products are in 16 bits; without one fastai's callback changes nothing, and ours works."
    seen, gpu = [], torch.cuda.is_available()
    learn.model.register_forward_hook(lambda m, x, out: seen.append(out.dtype))
    for to, dtype in ((learn.to_fp16, torch.float16), (learn.to_bf16, torch.bfloat16)):
        to(); assert len(learn._grab_cbs(MixedPrecision)) == 1
        seen.clear(); learn.fit(1, 1e-3)
        assert set(seen) == {dtype if gpu else torch.float32}
        learn.to_fp32(); assert not learn._grab_cbs(MixedPrecision)
    seen.clear(); learn.fit(1, 1e-3, cbs=AutocastMixedPrecision(torch.bfloat16, device='cuda' if gpu else 'cpu'))
    assert set(seen) == {torch.bfloat16}


def sgd(params, **kw): return OptimWrapper(params, torch.optim.SGD, **kw)


class Fixed:
    "Batches that are always the same, in place of a loader's."
    def __init__(self, dl, batches): self.dl, self.batches = dl, batches
    def __iter__(self): return iter(self.batches)
    def __len__(self): return len(self.batches)
    def __getattr__(self, k): return getattr(self.dl, k)


def trained_on(dls, batches, cbs=(), **kw):
    learn = make(dls, opt_func=sgd, **kw)
    before, dls.train = dls.train, Fixed(dls.train, batches)
    try: learn.fit(1, .1, cbs=list(cbs))
    finally: dls.train = before
    return learn


def test_GradientAccumulation(dls):
    x, y = dls.valid.one_batch()
    whole, parts = [(x, y)], [(x[:16], y[:16]), (x[16:], y[16:])]
    a, b, c = trained_on(dls, whole), trained_on(dls, parts, [GradientAccumulation(32)]), trained_on(dls, parts)
    for k, v in weights(a).items(): torch.testing.assert_close(v, weights(b)[k], rtol=0, atol=1e-6)
    assert (a.model.head.weight - c.model.head.weight).abs().max() > 1e-4


def test_GradientClip(dls):
    class Norm(Callback):
        order = 50
        def before_step(self): norms.append(torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters()]).item())
    norms, batch = [], [dls.valid.one_batch()]
    trained_on(dls, batch, [Norm()]); trained_on(dls, batch, [GradientClip(.01), Norm()])
    assert norms[0] > .1 and norms[1] == pytest.approx(.01, rel=1e-3)


def test_MixUp(dls):
    class Look(Callback):
        order, run_valid = 90, False
        def after_loss(self): seen.append((self.x, self.y, self.mix_up.lam, self.mix_up.yb1[0], self.pred.detach(), self.loss))
    seen, (x, y) = [], dls.valid.one_batch()
    trained_on(dls, [(x, y)], [MixUp(.4), Look()])
    (mixed, kept, lam, other, pred, loss), = seen
    assert ((.5 <= lam) & (lam <= 1)).all() and torch.equal(torch.as_tensor(kept), torch.as_tensor(y))
    want = torch.lerp(F.cross_entropy(pred, other, reduction='none'), F.cross_entropy(pred, y, reduction='none'), lam).mean()
    torch.testing.assert_close(torch.as_tensor(loss), torch.as_tensor(want))
    rest = mixed - lam[:, None, None, None]*x                # what is left is a share of another image
    assert all(any(torch.allclose(r, (1 - l)*o, atol=1e-4) for o in x) for r, l in zip(rest, lam))


def test_CutMix(dls):
    class Look(Callback):
        order, run_valid = 90, False
        def after_loss(self): seen.append((self.x, self.cut_mix.lam))
    seen, (x, y) = [], dls.valid.one_batch()
    trained_on(dls, [(x, y)], [CutMix(1.), Look()])
    (mixed, lam), = seen
    own = (mixed == x).all(1).float().mean((1, 2))
    assert (own >= lam.item() - 1e-6).all()                  # at least this share of each image is its own


def test_LabelSmoothingCrossEntropy(dls):
    learn = make(dls, loss_func=LabelSmoothingCrossEntropyFlat(eps=.2))
    logits, y = by_hand(learn, dls.valid)
    assert learn.validate()[0] == pytest.approx(F.cross_entropy(logits, y, label_smoothing=.2).item(), rel=1e-5)
    torch.testing.assert_close(learn.get_preds()[0], logits.softmax(1), rtol=0, atol=1e-5)


class Score(AvgMetric):
    "A metric that is as the test wants it, epoch by epoch."
    def __init__(self, *values): self.values, self.i = values, -1
    def reset(self): self.i += 1
    def accumulate(self, learn): pass
    name = 'score'
    @property
    def value(self): return self.values[self.i]


def scored(dls, cb, *values, epochs=None):
    learn = make(dls)
    learn.metrics = Score(*values)
    kept = []
    class Keep(Callback):
        order = 99
        def after_epoch(self): kept.append((weights(self.learn), self.opt.hypers[0]['lr']))
    learn.fit(epochs or len(values), 1e-3, cbs=[cb, Keep()])
    return learn, kept


def test_SaveModelCallback(dls):
    learn, kept = scored(dls, SaveModelCallback(monitor='score'), .1, .9, .5)
    assert same(weights(learn), kept[1][0])


def test_EarlyStoppingCallback(dls):
    learn, kept = scored(dls, EarlyStoppingCallback(monitor='score', patience=2), .5, .4, .3, .9, .9)
    assert len(learn.recorder.values) == 3


def test_ReduceLROnPlateau(dls):
    _, kept = scored(dls, ReduceLROnPlateau(monitor='score', patience=1, factor=10), .5, .4, .3)
    assert [lr for _, lr in kept] == pytest.approx([1e-3, 1e-4, 1e-5])


def test_CSVLogger(learn, tmp_path):
    learn.fit(2, 1e-3, cbs=CSVLogger())
    rows = list(csv.DictReader(open(tmp_path/'history.csv')))
    assert [float(r['accuracy']) for r in rows] == pytest.approx([v[2] for v in learn.recorder.values]) and len(rows) == 2


def test_TensorBoardCallback(learn, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    learn.fit(1, 1e-3, cbs=TensorBoardCallback(tmp_path/'board', trace_model=False, log_preds=False))
    events = EventAccumulator(str(tmp_path/'board')).Reload()
    assert [e.value for e in events.Scalars('accuracy')] == pytest.approx([learn.recorder.values[0][2]])


def test_Recorder(learn):
    learn.fit_one_cycle(2, 1e-3)
    line = learn.recorder.plot_loss(skip_start=0).lines[0]
    np.testing.assert_allclose(line.get_ydata(), [float(v) for v in learn.recorder.losses])
    plt.close('all'); learn.recorder.plot_sched()
    np.testing.assert_allclose(plt.gcf().axes[0].lines[0].get_ydata(), learn.recorder.lrs)


# vit_learner itself

def test_DataBlock(tree, tmp_path):
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, splitter=GrandparentSplitter('train', 'valid'))
    dls = block.dataloaders(tree, bs=32, num_workers=0, path=tmp_path, device=torch.device('cpu'))
    learn = make(dls)
    assert learn.model.cfg.img_size == (8, 8) and learn.model.cfg.num_classes == 10
    learn.fit(1, 1e-3)
    assert learn.recorder.values[0][2] == pytest.approx(learn.validate()[1])


def test_layer_groups():
    model = create_vit('ViT-digits', pre_logits=8)
    early, late, head = vit_splitter(model)
    names = {id(p): n for n, p in model.named_parameters()}
    assert len({id(p) for p in early + late + head}) == len(names) == len(early + late + head)
    assert {names[id(p)] for p in head} == {'head.weight', 'head.bias', 'pre_logits.0.weight', 'pre_logits.0.bias'}
    depth = model.cfg.depth
    assert {int(names[id(p)].split('.')[2]) for p in late if '.blocks.' in names[id(p)]} == set(range(depth//2, depth))


@pytest.fixture
def pretrained(tmp_path):
    "A checkpoint for the ten digits, with their names."
    torch.manual_seed(4)
    model = create_vit('ViT-digits', **SMALL)
    for p in model.parameters(): torch.nn.init.normal_(p, std=.1)
    save_checkpoint(model, tmp_path/'digits.safetensors', dict(classes='["a", "b"]', scale='imagenet'))
    return model, tmp_path/'digits.safetensors'


def test_pretrained(dls, pretrained):
    model, path = pretrained
    if len(dls.loaders) == 2:
        dls.after_batch.fs.clear(); dls.valid.after_batch.fs.clear()         # no Normalize of its own
    learn = vit_learner(dls, 'ViT-digits', path, overrides=SMALL)
    assert torch.equal(learn.model.encoder.blocks[1].mlp.fc1.weight, model.encoder.blocks[1].mlp.fc1.weight)
    assert learn.model.head.weight.requires_grad
    assert not learn.model.encoder.blocks[0].mlp.fc1.weight.requires_grad                        # frozen, as vision_learner's
    x, _ = dls.valid.one_batch()
    black = (0 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x.amin((0, 2, 3)).as_subclass(torch.Tensor), black, rtol=1e-3, atol=1e-3)   # its own scaling


def test_pretrained_beside_another_normalisation(dls, pretrained):
    if len(dls.loaders) == 3: pytest.skip('ours are scaled by the checkpoint')
    with pytest.warns(UserWarning, match='leave Normalize out'): vit_learner(dls, 'ViT-digits', pretrained[1], overrides=SMALL)


def test_wrong_size(dls):
    with pytest.raises(ValueError, match='8'): vit_learner(dls, 'ViT-B_16')


@pytest.mark.parametrize('kw', [{}, dict(fp16=True), dict(gradient_accumulation_steps=3)], ids=str)
def test_lr_find_of_a_run(kw):
    "`get_learner`'s own schedule waits, and nothing of the run has moved."
    cfg = FinetuneConfig('t', model_type='testing', num_steps=20, eval_every=10, device='cpu', **kw)
    a, b = get_learner(cfg), get_learner(cfg)
    for learn in (a, b): learn.no_bar().__enter__(); learn.no_logging().__enter__()
    b.lr_find(show_plot=False)
    np.testing.assert_allclose(b.recorder.lrs[0], 1e-7)
    assert (b.step_param_scheduler.made, b.dls.train.step, b.throughput_monitor.steps) == (0, 0, 0)
    for learn in (a, b): learn.fit(2)
    assert same(weights(a), weights(b)) and a.recorder.lrs == b.recorder.lrs


def test_one_layer_group_of_a_run():
    learn = get_learner(FinetuneConfig('t', model_type='testing', num_steps=20, eval_every=10, device='cpu'))
    learn.no_bar().__enter__(); learn.no_logging().__enter__()
    learn.fit_one_cycle(1, slice(1e-3), wd=.3)
    assert max(learn.recorder.lrs) == pytest.approx(1e-3, rel=.2) and learn.step_param_scheduler.made == 0
    assert [g['weight_decay'] for g in learn.opt.opt.param_groups] == [.3, 0.]


def test_splits_that_are_made_by_hand():
    dls = make_dls(load_splits('digits', size=8), 8, 64, device='cpu', min_area=1, flip=False)
    assert len(dls.train) == 1295//64 and dls.test.n == 359      # one pass is one look at each image
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        learn = vit_learner(dls, 'ViT-digits', overrides=SMALL)
    assert learn.model.cfg.num_classes == 10 and type(learn.loss_func) is CrossEntropyLossFlat


def test_checkpoint_of_learn_save(dls, tmp_path):
    "`load_checkpoint` reads what `learn.save` wrote, optimizer and all."
    from vit_course.checkpoints import load_checkpoint
    learn = make(dls)
    learn.fit(1, 1e-3)
    model = create_vit('ViT-digits', num_classes=10, **SMALL)
    load_checkpoint(model, learn.save('m'))
    assert same(model.state_dict(), weights(learn))


def test_example_of_the_readme(tree, tmp_path, monkeypatch):
    "Its lines as they are printed, on a folder with train/<class>/ and test/<class>/; for CIFAR-10 that folder is far larger."
    example, = re.findall(r'```python\n(from fastai.*?)```', (ROOT/'README.md').read_text(encoding='utf-8'), re.S)
    assert len(example.strip().splitlines()) == 6
    monkeypatch.chdir(tmp_path)
    for split, source in (('train', 'train'), ('test', 'valid')):
        for file in sorted((tree/source).rglob('*.png')):
            path = tmp_path/'cifar10'/split/file.parent.name/file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(file).resize((32, 32)).save(path)
    names = {}
    exec(example, names)
    learn = names['learn']
    assert learn.model.cfg.img_size == (32, 32) and learn.model.cfg.num_classes == 10 and len(learn.recorder.values) >= 1
    learn.no_bar().__enter__()
    assert learn.validate()[1] > .3


@pytest.mark.skipif(not CIFAR.exists(), reason='needs CIFAR-10 as JPEG files')
def test_shipped_checkpoint_on_cifar(tmp_path):
    "With its own classes it keeps its head: fastai's loaders see what our own see."
    kept = {}
    with tarfile.open(CIFAR) as tar:
        for member in tar:
            split, *rest = member.name.removeprefix('./').split('/')
            if len(rest) == 2 and kept.setdefault((split, rest[0]), 0) < 20:
                kept[split, rest[0]] += 1
                file = tmp_path/split/rest[0]/rest[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(tar.extractfile(member).read())
    dls = ImageDataLoaders.from_folder(tmp_path, valid='test', num_workers=0, device=torch.device('cpu'))
    learn = vit_learner(dls, 'ViT-tiny_4', 'vit-tiny-4-cifar10', metrics=accuracy)
    learn.no_bar().__enter__()
    ours = vit_learner(get_dls('folder', tmp_path, device='cpu'), 'ViT-tiny_4', 'vit-tiny-4-cifar10', metrics=accuracy)
    ours.no_bar().__enter__()
    (loss, acc), (our_loss, our_acc) = learn.validate(), ours.validate(dl=ours.dls.test)
    assert len(dls.valid_ds) == 200 and acc > .6
    assert loss == pytest.approx(our_loss, abs=1e-4) and acc == pytest.approx(our_acc)


def test_the_loss_of_a_step_is_a_plain_tensor(tmp_path):
    "fastai's losses make a `TensorBase`, and each operation on one takes a detour."
    class Types(Callback):
        seen = set()
        def before_backward(self): self.seen.update(map(type, (self.loss, self.loss_grad)))
    cfg = FinetuneConfig('x', dataset='digits', model_type='ViT-digits', num_steps=2, device='cpu', output_dir=str(tmp_path), set=SMALL)
    learn, types = get_learner(cfg), Types()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=types)
    assert types.seen == {torch.Tensor}


def test_verbs_are_counted():
    sys.path.insert(0, str(ROOT/'benchmarks'))
    from fastai_verbs import verbs
    rows = verbs([('test_a[ours]', 'passed'), ('test_a[fastai]', 'failed'), ('test_b[ours-path]', 'passed'), ('test_b[ours-PIL]', 'skipped'), ('test_c', 'passed')])
    assert rows == [{'verb': 'a', 'get_dls': 'works', 'ImageDataLoaders.from_folder': 'fails'}, {'verb': 'b', 'get_dls': 'skipped'}]
