"`vit_attention` as a person uses it: their own images, of every kind, and their mistakes."
import json, re

import numpy as np, pytest, torch
from PIL import Image
from vit_course.checkpoints import save_checkpoint
from vit_course.tools.commands import vit_attention
from vit_course.vit import create_vit

OPTIONS = {'cls': [], 'rollout': ['--method', 'rollout', '--query', '1,0'], 'relevance': ['--method', 'relevance', '--target', '3', '--interpolation', 'bilinear'],
           'one head': ['--layer', '0', '--head', '1', '--query', 'mean', '--colours', 'shared'], 'other size': ['--img_size', '16x32', '--query', '1,3']}


def colourful(size=(40, 24)):
    y, x = np.mgrid[:size[1], :size[0]]
    return Image.fromarray(np.stack([x*255//size[0], y*255//size[1], (x + y) % 256], -1).astype(np.uint8))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model, path = create_vit('testing'), tmp_path_factory.mktemp('model')/'tiny.safetensors'
    torch.nn.init.normal_(model.head.weight)
    save_checkpoint(model, path)
    return path


@pytest.fixture
def attention(tmp_path, checkpoint, capsys, monkeypatch):
    "Run the command in an empty folder with that checkpoint; gives (status, stdout, stderr)."
    monkeypatch.chdir(tmp_path)
    def run(*args, source=checkpoint):
        try: status = vit_attention([str(a) for a in (source, *args)])
        except SystemExit as e: status = e.code
        return status, *capsys.readouterr()
    return run


def results(path='attention/attention.json'):
    def no(constant): raise AssertionError(f'{constant} is no JSON')
    with open(path, encoding='utf-8') as f: return json.load(f, parse_constant=no)


def is_one_line(err): assert err.startswith('vit_attention: ') and err.count('\n') == 1 and 'Traceback' not in err, err


def test_help(command):
    status, out, err = command('vit_attention', '--help')
    assert status == 0 and not err
    for word in '--method --layer --head --query --target --out --img_size --scale --interpolation --colours RUN_OR_CHECKPOINT IMAGE'.split(): assert word in out, word


def test_a_run_of_vit_train_and_a_jpeg(command, tmp_path):
    status, out, err = command('finetune', '--name', 'demo', '--model_type', 'testing', '--device', 'cpu', '--num_steps', 4)
    assert status == 0, err
    colourful().save(tmp_path/'holiday.jpg')
    status, out, err = command('vit_attention', 'output/demo', 'holiday.jpg', '--method', 'relevance')
    assert status == 0 and not err and 'holiday: class' in out, err
    assert sorted(p.name for p in (tmp_path/'attention').iterdir()) == ['attention.json', 'holiday_heads.png', 'holiday_relevance.png']
    r = results(tmp_path/'attention'/'attention.json')
    assert r['source'] == 'output/demo' and r['scale'] == 'half' and len(r['images'][0]['prediction']) == 5


@pytest.mark.parametrize('name', OPTIONS)
def test_what_it_writes(attention, name):
    colourful().save('a.png'); Image.new('RGB', (30, 30), 'red').save('b.png')
    status, out, err = attention('a.png', 'b.png', *OPTIONS[name], '--out', 'deep/er')
    assert status == 0 and not err, err
    r = results('deep/er/attention.json')
    h, w = r['grid']
    assert [i['image'] for i in r['images']] == ['a.png', 'b.png'] and (r['images'][0]['width'], r['images'][0]['height']) == (40, 24)
    for i in r['images']:
        assert np.shape(i['map']) == (h, w) and np.min(i['map']) >= 0
        for k in ('entropy', 'prefix_mass', 'distance'): assert np.shape(i[k]) == (2, 2)
        assert set(i['files']) < {p.name for p in __import__('pathlib').Path('deep/er').iterdir()}
        for f in i['files']: Image.open(f'deep/er/{f}').verify()
    heads, overlay = (Image.open(f"deep/er/{f}") for f in r['images'][0]['files'])
    assert overlay.size == (2*256, 153) and heads.width > 200
    frames = (np.asarray(overlay.convert('RGB')) == (0, 255, 0)).all(-1).sum()
    assert (frames > 100) == (name in ('rollout', 'other size'))       # a query in the image is framed


def prepared(tmp_path):
    "One image in ways that must all mean the same, with the largest mean difference in its map."
    im = colourful()
    yield 'plain.png', im, 0
    exif = Image.Exif(); exif[0x112] = 6                                # the camera was turned
    yield 'turned.png', (im.transpose(Image.Transpose.ROTATE_90), dict(exif=exif)), 0
    rgba = im.convert('RGBA')
    yield 'opaque.png', rgba, 0
    yield 'photo.jpg', (im, dict(quality=97)), .01
    yield 'print.jpg', im.convert('CMYK'), .02
    yield 'moving.png', (im, dict(save_all=True, append_images=[Image.new('RGB', im.size, 'blue')])), 0
    yield 'scan.tiff', im, 0


def test_every_way_to_keep_an_image(attention, tmp_path):
    cases = list(prepared(tmp_path))
    for name, im, _ in cases:
        im, kw = im if isinstance(im, tuple) else (im, {})
        im.save(name, **kw)
    status, out, err = attention(*[c[0] for c in cases])
    assert status == 0, err
    images = {i['image']: i for i in results()['images']}
    want = images['plain.png']
    for name, _, tolerance in cases:
        assert (images[name]['width'], images[name]['height']) == (40, 24), name
        np.testing.assert_allclose(images[name]['map'], want['map'], atol=tolerance + 1e-6, err_msg=name)


def test_grey_sixteen_bits_and_transparency(attention):
    grey = colourful().convert('L')
    grey.save('grey.png'); grey.convert('RGB').save('rgb.png')
    Image.fromarray((np.asarray(grey).astype(np.uint16)*257)).save('deep.png')
    clear = colourful().convert('RGBA'); clear.putalpha(0); clear.save('clear.png'); Image.new('RGB', (40, 24), 'white').save('white.png')
    status, out, err = attention('grey.png', 'rgb.png', 'deep.png', 'clear.png', 'white.png')
    assert status == 0, err
    maps = {i['image']: np.array(i['map']) for i in results()['images']}
    for a, b in (('grey.png', 'rgb.png'), ('deep.png', 'rgb.png'), ('clear.png', 'white.png')): np.testing.assert_allclose(maps[a], maps[b], atol=1e-6)
    assert np.abs(maps['white.png'] - maps['rgb.png']).max() > 1e-4


def png_of_size(w, h):
    "The header of a PNG that claims to be enormous."
    import struct, zlib
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(b'\0'*100)) + chunk(b'IEND', b'')


BROKEN = {'bomb.png': lambda p: p.write_bytes(png_of_size(60_000, 60_000)), 'large.png': lambda p: p.write_bytes(png_of_size(12_000, 9_000)),
          'cut.jpg': lambda p: (colourful().save(p), p.write_bytes(p.read_bytes()[:200])), 'text.jpg': lambda p: p.write_text('no image'), 'empty.png': lambda p: p.touch(),
          'folder': lambda p: p.mkdir(), 'missing.png': lambda p: None, 'two\nlines.png': lambda p: p.write_text('x'), '<b>bold</b>.png': None}


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('name', [n for n in BROKEN if BROKEN[n]])
def test_an_image_that_cannot_be_read(attention, tmp_path, name):
    colourful().save('good.png')
    BROKEN[name](tmp_path/name)
    before = sorted(p.name for p in tmp_path.iterdir())
    status, out, err = attention('good.png', name)
    assert status == 2 and not out
    is_one_line(err); assert name.split('\n')[0] in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before        # nothing of the good one, either


@pytest.mark.parametrize('name', ['two\nlines.png', 'a b $x$ <b>&.png', '..hidden.png', 'ü.png', '%s{0}.png', '-.png'])
def test_strange_names(attention, tmp_path, name):
    colourful().save(tmp_path/name)
    (tmp_path/'sub').mkdir(); colourful().save(tmp_path/'sub'/name)
    status, out, err = attention(tmp_path/name, tmp_path/'sub'/name)
    assert status == 0 and not err and out.count('\n') == 3, err
    files = [f for i in results()['images'] for f in i['files']]
    assert len(set(files)) == 4 and all(re.fullmatch(r'[\w.-]+', f) and (tmp_path/'attention'/f).exists() for f in files)
    assert results()['images'][0]['image'] == str(tmp_path/name)


@pytest.mark.parametrize('given', [['pics'], ['pics/*.png'], ['pics/a.png', 'pics/?.png'], ['*cs/[ab].png']])
def test_folders_and_patterns(attention, tmp_path, given):
    (tmp_path/'pics').mkdir()
    for name in 'ab': colourful().save(f'pics/{name}.png')
    (tmp_path/'pics'/'notes.txt').touch()
    status, out, err = attention(*given)
    assert status == 0 and not err and ('1 .txt' in out) == (given == ['pics'])
    assert {i['image'] for i in results()['images']} == {'pics/a.png', 'pics/b.png'} and f'{2*len(results()["images"])} images' in out


ODD = sorted(map(str, [*range(1, 9), 10, 11]))      # folders, sorted as text: 1 10 11 2 3 …


@pytest.mark.parametrize('names,target,want', [
    (sorted(map(str, range(10))), '2', 'class 2'), (ODD, '2', '2 (index 3)'), (ODD, '10', '10 (index 1)'),
    ([f'{i:02}' for i in range(10)], '07', '07 (index 7)'), ([*'abcdefghi', '0'], '0', '0 (index 9)'), ([*'abcdefghi', '0'], '1', 'b (index 1)'), (list('abcdefghij'), 'b', 'b (index 1)')])
def test_classes_whose_names_are_numbers(attention, names, target, want):
    "Folders 1 to 12, as in many data sets of digits, characters and grades."
    colourful().save('a.png')
    save_checkpoint(create_vit('testing'), 'm.safetensors', dict(classes=json.dumps(names)))
    status, out, err = attention('a.png', '--method', 'relevance', '--target', target, source='m.safetensors')
    assert status == 0 and f'relevance map of {want}' in out and results()['target'] == names.index(target if target in names else 'b'), err


@pytest.mark.parametrize('target', ['0', '12', '-1', '2.'])
def test_a_number_that_is_no_name(attention, target):
    colourful().save('a.png')
    save_checkpoint(create_vit('testing'), 'm.safetensors', dict(classes=json.dumps(ODD)))
    status, out, err = attention('a.png', '--method', 'relevance', f'--target={target}', source='m.safetensors')
    assert status == 2 and f'--target {target}: one of 1, 10, 11, 2' in err
    is_one_line(err)


MISTAKES = [(['--layer', '2'], 'from 0 to 1'), (['--layer', '-3'], 'from 0 to 1'), (['--head', '2'], 'from 0 to 1'), (['--head', '-1'], 'from 0 to 1'), (['--layer', 'x'], '--layer'),
            (['--method', 'flow'], '--method'), (['--method', 'rollout', '--layer', '0'], 'goes with --method raw'), (['--method', 'relevance', '--head', '0'], 'goes with --method raw'),
            (['--target', '1'], 'goes with --method relevance'), (['--method', 'relevance', '--target', '10'], '0 to 9'), (['--query', '2,0'], '2 rows and 2 columns'),
            (['--query', '0,-1'], '2 rows'), (['--query', 'x'], '--query'), (['--img_size', '17'], 'not divisible'), (['--scale', 'none'], '--scale'), (['--met', 'raw'], 'unrecognized'),
            (['--out', 'a.png'], 'a.png'), (['--out', 'a.png/deeper'], 'a.png'), (['--out', '/proc/nowhere'], '/proc/nowhere')]


@pytest.mark.parametrize('args,words', MISTAKES, ids=lambda a: ' '.join(a) if isinstance(a, list) else '')
def test_mistakes(attention, tmp_path, args, words):
    colourful().save('a.png')
    status, out, err = attention('a.png', *args)
    assert status == 2 and not out and words in err
    is_one_line(err)
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']


@pytest.mark.parametrize('source', ['nowhere.safetensors', '.', 'a.png', 'ViT-B_16-224'])
def test_no_checkpoint(attention, tmp_path, source, monkeypatch):
    monkeypatch.setenv('VIT_COURSE_CACHE', str(tmp_path/'cache'))
    colourful().save('a.png')
    status, out, err = attention('a.png', source=source)
    assert status == 2 and not out and [p.name for p in tmp_path.iterdir()] == ['a.png']
    is_one_line(err)


def test_a_checkpoint_without_a_head_or_without_colours(attention, tmp_path):
    colourful().save('a.png')
    save_checkpoint(create_vit('testing', num_classes=0), 'headless.safetensors'); save_checkpoint(create_vit('testing', in_chans=1), 'grey.safetensors')
    status, out, err = attention('a.png', source='headless.safetensors')
    assert status == 0 and 'prediction' not in results()['images'][0] and 'class' not in out
    status, out, err = attention('a.png', '--method', 'relevance', '--out', 'b', source='headless.safetensors')
    assert status == 2 and 'no head' in err and not (tmp_path/'b').exists()
    status, out, err = attention('a.png', '--out', 'b', source='grey.safetensors')
    assert status == 2 and 'channels' in err and not (tmp_path/'b').exists()


def test_one_patch_has_figures_without_a_value(attention):
    colourful().save('a.png')
    save_checkpoint(create_vit('testing', img_size=8), 'one.safetensors')
    assert attention('a.png', source='one.safetensors')[0] == 0
    assert results()['images'][0]['rollout_correlation'] is None        # and no NaN, which is no JSON


def test_a_full_disk_leaves_the_old_results(attention, tmp_path, monkeypatch):
    colourful().save('a.png')
    assert attention('a.png')[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path/'attention').iterdir()}
    import vit_course.tools.attention_files as A
    def full(*args, **kw): raise OSError(28, 'No space left on device', 'a_raw.png')
    monkeypatch.setattr(A, '_save_overlay', full)
    status, out, err = attention('a.png', '--layer', '0')
    assert status == 2 and 'No space left' in err
    assert {p.name: p.read_bytes() for p in (tmp_path/'attention').iterdir()} == before


@pytest.mark.parametrize('flag,scale', [('auto', 'half'), ('imagenet', 'imagenet')])
def test_scale(attention, flag, scale):
    colourful().save('a.png')
    assert attention('a.png', '--scale', flag)[0] == 0 and results()['scale'] == scale


def test_scale_that_nobody_says():
    from types import SimpleNamespace as N
    from vit_course.checkpoints import CheckpointError
    from vit_course.tools.hub import scale_of
    assert scale_of('x.pth', N(scale='imagenet')) == 'imagenet'
    with pytest.raises(CheckpointError, match='--scale half'): scale_of('x.pth', N(scale=None))
    with pytest.warns(UserWarning, match='assumed scale half'): assert scale_of('x.pth', N(scale=None), usual='half') == 'half'
