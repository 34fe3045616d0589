"The checkpoint that comes with the course: it is whole, it is what its card says, and it works by its name, without a cache and without a network."
import hashlib, json, tarfile

import numpy as np, pytest, torch
from conftest import SHARED
from PIL import Image
from skimage import data
from vit_course.checkpoints import CHECKPOINTS, CheckpointError, download, load_checkpoint, save_checkpoint, verify_checkpoint
from vit_course.tools.hub import place_of
from vit_course.finetune import FinetuneConfig, finetune, get_learner
from vit_course.tools import hub
from vit_course.tools.commands import vit_attention, vit_train, vit_weights
from vit_course.tools.weight_files import SafetensorsFile
from vit_course.vit import count_parameters, create_vit

NAME = 'vit-tiny-4-cifar10'
KNOWN = CHECKPOINTS[NAME]
CARD = json.loads(place_of(KNOWN).with_suffix('.json').read_text(encoding='utf-8'))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch): monkeypatch.setenv('VIT_COURSE_CACHE', str(tmp_path/'cache'))


def test_file_card_and_list_agree():
    file = place_of(KNOWN)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == CARD['sha256'] == KNOWN.sha256
    assert file.stat().st_size == CARD['bytes'] == KNOWN.size < 8_000_000
    assert CARD['parameters'] == count_parameters(KNOWN.create()) and CARD['model'] == NAME
    assert {d for _, d in SafetensorsFile(file, open(file, 'rb')).arrays.values()} == {torch.float16}


def test_card_adds_up():
    confusion = np.array(CARD['test']['confusion'])
    assert confusion.sum() == CARD['test_images'] and (confusion.sum(1) == 1000).all()
    assert confusion.trace() / confusion.sum() == pytest.approx(CARD['test']['accuracy'], abs=1e-6)
    assert [c/1000 for c in confusion.diagonal()] == pytest.approx(list(CARD['test']['accuracy_by_class'].values()), abs=1e-6)
    assert CARD['run']['steps'] == CARD['settings']['num_steps'] == CARD['curve'][-1]['step']
    assert max(p['valid_accuracy'] for p in CARD['curve']) == pytest.approx(CARD['valid_accuracy'], abs=0.005)   # float16 weights instead of float32
    assert {'command', 'commit', 'device', 'date', 'data'} <= set(CARD)


def test_is_here_without_cache_and_network(empty_cache, capsys):
    assert download(NAME) == place_of(KNOWN) and verify_checkpoint(NAME).path == place_of(KNOWN)
    assert vit_weights(['list']) == 0 and [l for l in capsys.readouterr().out.splitlines() if l.startswith(NAME)][0].endswith('yes')
    assert vit_weights(['fetch', NAME]) == 0 and capsys.readouterr().out.strip() == str(place_of(KNOWN))
    assert vit_weights(['verify', NAME]) == 0


def test_gone(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(hub, 'files', lambda name: tmp_path)
    for use in (lambda: download(NAME), lambda: load_checkpoint(None, NAME)):
        with pytest.raises(CheckpointError): use()
    assert vit_weights(['fetch', NAME]) == 2 and 'install vit_course again' in capsys.readouterr().err


def test_knows_its_classes():
    report = load_checkpoint(None, NAME)
    assert report.classes == CARD['classes'] and report.model.cfg.num_classes == 10
    assert load_checkpoint(create_vit('ViT-tiny_4', num_classes=3), NAME).classes is None      # a new head has no names


@pytest.mark.parametrize('text', ['', '3', '{}', '[', '["a"]', '[1,2,3,4,5,6,7,8,9,0]', '['*5000, 'null'])
def test_names_that_cannot_be(tmp_path, text):
    save_checkpoint(create_vit('testing'), tmp_path/'a.safetensors', dict(classes=text))
    assert load_checkpoint(None, tmp_path/'a.safetensors').classes is None


def test_names_are_plain_text(tmp_path):
    save_checkpoint(create_vit('testing', num_classes=2), tmp_path/'a.safetensors', dict(classes=json.dumps(['a\x1b[31m\n', 'b'*500])))
    assert load_checkpoint(None, tmp_path/'a.safetensors').classes == ['a[31m', 'b'*80]


def test_trained_runs_name_their_classes(tmp_path):
    finetune(FinetuneConfig('a', model_type='testing', num_steps=2, device='cpu', output_dir=tmp_path), progress=False)
    assert load_checkpoint(None, tmp_path/'a').classes == [str(i) for i in range(10)]


def test_sees_a_cat(in_process):
    Image.fromarray(data.cat()[:, 125:425]).save('cat.png')
    status, out, err = in_process(vit_attention, NAME, 'cat.png', '--html')
    assert status == 0 and out.startswith('cat: cat ('), out + err
    found = json.loads(open('attention/attention.json').read())['images'][0]['prediction']
    assert found[0]['name'] == 'cat' == CARD['classes'][found[0]['class']] and len({p['name'] for p in found}) == 5
    assert '"name": "cat"' in open('attention/explorer.html').read()


def test_classes_by_name(in_process):
    Image.fromarray(data.cat()[:, 125:425]).save('cat.png')
    maps = []
    for target in ('cat', '3', 'ship'):
        assert in_process(vit_attention, NAME, 'cat.png', '--method', 'relevance', '--target', target, '--out', target)[0] == 0
        maps.append(json.loads(open(f'{target}/attention.json').read()))
    assert maps[0]['images'][0]['map'] == maps[1]['images'][0]['map'] != maps[2]['images'][0]['map'] and maps[0]['target'] == maps[1]['target'] == 3
    status, out, err = in_process(vit_attention, NAME, 'cat.png', '--method', 'relevance', '--target', 'lion')
    assert status == 2 and err.count('\n') == 1 and '--target lion' in err and 'cat' in err


def test_fine_tunes_by_name_with_a_new_head_for_other_classes(tmp_path):
    few = dict(dataset='digits', model_type='ViT-tiny_4', num_steps=1, device='cpu', output_dir=tmp_path, pretrained_dir=NAME)
    model = get_learner(FinetuneConfig('a', **few)).model
    theirs = load_checkpoint(None, NAME).model
    assert not model.head.weight.any() and torch.equal(model.patch_embed.proj.weight, theirs.patch_embed.proj.weight)
    for kind in CARD['classes']:
        (tmp_path/'images'/kind).mkdir(parents=True)
        for i in range(4): Image.fromarray(np.full((32, 32, 3), 60*i, np.uint8)).save(tmp_path/'images'/kind/f'{i}.png')
    same = get_learner(FinetuneConfig('b', **few | dict(dataset='folder', data_dir=tmp_path/'images'))).model
    assert torch.equal(same.head.weight, theirs.head.weight)


def test_a_name_that_is_not_here(in_process, empty_cache):
    status, out, err = in_process(vit_train, '--name', 'x', '--pretrained_dir', 'dinov2-ViT-S_14')
    assert status == 2 and 'vit_weights fetch dinov2-ViT-S_14' in err and err.count('\n') == 1


def test_does_what_its_card_says():
    "On a tenth of the test images, which are not in this repository."
    archive = SHARED/'data'/'cifar10_jpeg.tar.xz'
    if not archive.exists(): pytest.skip('the images of CIFAR-10 are not here')
    wanted = [f'test/{kind}/{i:04}.jpg' for kind in CARD['classes'] for i in range(100)]
    with tarfile.open(archive) as t:
        found = {m.name: np.asarray(Image.open(t.extractfile(m)).convert('RGB')) for m in t if m.name in set(wanted)}
    x = torch.from_numpy(np.stack([found[n] for n in wanted])).permute(0, 3, 1, 2).float()/127.5 - 1
    model = load_checkpoint(None, NAME).model.eval()
    with torch.no_grad(): answers = torch.cat([model(b).argmax(1) for b in x.split(250)])
    right = (answers == torch.arange(10).repeat_interleave(100)).float().mean().item()
    assert right == pytest.approx(CARD['test']['accuracy'], abs=4*(0.25/1000)**0.5)      # four standard deviations of a thousand draws, at most
