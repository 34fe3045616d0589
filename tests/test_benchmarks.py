"The benchmarks run: small sizes, on whatever there is. Their numbers are made by running them by hand."
import argparse, json, subprocess, sys

import pytest, torch
from conftest import ROOT

pytest.importorskip('timm'); pytest.importorskip('transformers')
sys.path.insert(0, str(ROOT/'benchmarks'))
import gpu, peers, scaling, vit
from vit_course.vit import count_parameters


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    for k, v in dict(DEVICE='cpu', GPU=False).items(): monkeypatch.setattr(gpu, k, v)


def test_peers_are_the_same_model():
    x = torch.randn(2, 3, 16, 16)
    for p in peers.PEERS:
        m = peers.make(p, 'testing')
        assert m(x).shape == (2, 10) and count_parameters(m) == count_parameters(peers.make('this', 'testing')), p


@pytest.mark.parametrize('part', gpu.PARTS)
def test_gpu_parts_run(part):
    args = argparse.Namespace(model='testing', repeat=1, steps=1, batch=4, smoke=True)
    result = gpu.PARTS[part](args)
    assert result['rows'] and all(set(r) == set(result['rows'][0]) for r in result['rows'])
    json.dumps(result)


def test_gpu_needs_a_gpu_or_smoke(tmp_path):
    p = subprocess.run([sys.executable, str(ROOT/'benchmarks'/'gpu.py'), '--part', 'rate', '--smoke', '--out', str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0 and 'smoke test' in p.stdout, p.stderr
    assert json.loads((tmp_path/'gpu_rate.json').read_text())['smoke'] is True


@pytest.mark.parametrize('part', ['forward', 'train'])
def test_vit_parts_run(part):
    rows = vit.PARTS[part][0]('testing', 2, 2)
    assert [r['library'] for r in rows] == list(peers.PEERS) and rows[0]['ratio'] == 1 and all(r['seconds'] > 0 for r in rows)


def test_alternating_order():
    seen = []
    times = vit.alternate({c: lambda c=c: seen.append(c) for c in 'abc'}, 2)
    assert ''.join(seen) == 'abc' + 'bca' + 'cab' and [len(t) for t in times.values()] == [2, 2, 2]


def test_exponents_and_paper():
    assert scaling.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    kept, _ = scaling.kept_bytes(lambda: (torch.ones(256, requires_grad=True) * 2).exp())
    assert kept == 1024                                          # exp keeps its result
    few, many = (list(scaling.on_paper(s, 4, {'slow': 1e8}))[-1] for s in (0.1, 100.))
    assert few['efficiency'] < 0.1 and many['efficiency'] == 1 and few['devices'] == 512


def test_attention_on_a_processor():
    import cpu_attention
    qkv = torch.randn(2, 5, 3*32, requires_grad=True)
    for form in cpu_attention.FORMS.values(): assert cpu_attention.seconds(form, (qkv, 2, True), 0) > 0


def test_a_step_on_a_processor():
    import cpu_step
    times, loop = cpu_step.rounds('ViT-digits', False, 2, 2, {})
    assert set(times) == {'this', 'plain', 'timm'} and all(len(t) == 2 and min(t) > 0 for t in times.values())
    spent = cpu_step.where(loop, 1.5)
    assert spent['matrix products'] > 0 and spent['GELU'] > 0 and spent['Learner, beyond the loop'] == 1.5


# ---- those that wait for a GPU

@pytest.mark.parametrize('part', ['homework', 'course', 'scratch', 'linear', 'precision'])
def test_pretrained_parts_run(part, tmp_path):
    p = subprocess.run([sys.executable, str(ROOT/'benchmarks'/'pretrained.py'), '--part', part, '--smoke', '--out', str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    d = json.loads((tmp_path/f'pretrained_{part}.json').read_text())
    assert d['smoke'] and d['rows'] and all(0 <= r['test_accuracy'] <= 1 for runs in d['runs'].values() for r in runs)


def test_the_shipped_checkpoint_can_be_made(tmp_path):
    from PIL import Image
    for split, n in (('train', 12), ('test', 2)):
        for kind in 'abcdefghij':
            (tmp_path/'data'/split/kind).mkdir(parents=True)
            for i in range(n): Image.new('RGB', (32, 32), (20*i, 25*ord(kind) % 256, 9*i)).save(tmp_path/'data'/split/kind/f'{i}.png')
    args = ['--data_dir', 'data', '--num_steps', '4', '--eval_every', '2', '--train_batch_size', '8', '--half_the_patches', '--mixup', '0.2', '--no_bf16', '--device', 'cpu', '--out', '.']
    for again in (False, True):                                   # the second time it finds its run finished
        p = subprocess.run([sys.executable, str(ROOT/'benchmarks'/'tiny.py'), *args], cwd=tmp_path, capture_output=True, text=True)
        assert p.returncode == 0 and ('is finished' in p.stdout) == again, p.stderr
    card = json.loads((tmp_path/'vit-tiny-4-cifar10.json').read_text())
    assert card['classes'] == list('abcdefghij') and card['run']['steps'] == 4 == len(card['curve'])*2 and len(card['changed']) == 10
    from vit_course.checkpoints import load_checkpoint
    assert load_checkpoint(None, tmp_path/'vit-tiny-4-cifar10.safetensors').classes == card['classes']
    args = [a for a in args if a not in ('--mixup', '0.2')] + ['--cutmix', '1', '--trivial_augment', '3']
    args += ['--weights', 'vit-tiny-4-cifar10', '--output_dir', 'onward']      # begins with the one that ships
    p = subprocess.run([sys.executable, str(ROOT/'benchmarks'/'tiny.py'), *args], cwd=tmp_path, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    shipped, onward = (json.loads((folder/'vit-tiny-4-cifar10.json').read_text()) for folder in (ROOT/'vit_course', tmp_path))
    assert onward['earlier'][-1]['sha256'] == shipped['sha256'] and onward['settings']['pretrained_dir'] == 'vit-tiny-4-cifar10'
    before = onward['earlier'][-1]                                             # what chapter 8b compares
    assert all(before[k] == shipped[k] for k in ('train_accuracy', 'valid_accuracy', 'changed'))
    assert (before['train_loss'], before['valid_loss']) == tuple(shipped['curve'][-1][k] for k in ('train_loss', 'valid_loss'))
    assert onward['images'] == sum(run['images'] for run in onward['earlier']) + 4*8 and not onward['settings']['bf16']


def test_trivial_augment_changes_pixels_of_training_images_alone():
    import tiny, torch
    from vit_course.data import get_dls
    from vit_course.finetune import vit_learner
    learn = vit_learner(get_dls(bs=10, mean=.4, std=.3), 'testing', cbs=tiny.TrivialAugment(4))
    change, groups = learn.trivial_augment, []
    def negative(pixels): groups.append(len(pixels)); return 255 - pixels
    def given(dl, op):
        change.change = op
        learn._split(learn.dls[dl].one_batch())
        learn.training, before = dl == 0, learn.xb[0]
        learn('before_batch')
        return before*.3 + .4, learn.xb[0]*.3 + .4                        # in [0, 1]
    x, same = given(0, lambda pixels: pixels)
    assert 0 < (x - same).abs().max() <= .5/255 + 1e-6                    # rounded to whole numbers, no more
    x, turned = given(0, negative)
    torch.testing.assert_close(turned, 1 - x, rtol=0, atol=.5/255 + 1e-6)
    assert groups == [4, 4, 2]
    x, valid = given(1, negative)
    assert torch.equal(x, valid) and len(groups) == 3


def test_all_of_it_in_three_calls():
    import ast
    lists = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse((ROOT/'benchmarks'/'gpu_all.py').read_text()).body
             if isinstance(n, ast.Assign) and isinstance(n.value, ast.List) and isinstance(n.targets[0], ast.Name)}
    import pretrained
    from vit_course.studies import STUDIES
    assert {s.split()[0] for s in lists['SPEED']} == set(gpu.PARTS) and set(lists['PRETRAINED']) == {*pretrained.PARTS, 'linear'} and set(lists['STUDIES']) <= set(STUDIES)
