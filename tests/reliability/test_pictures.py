"Image files from strangers, against everything that opens them: each is used, and rightly, or refused in one line; nothing hangs, crashes or runs."
import contextlib, functools, json, os, shutil, signal, sys
from collections import Counter

import numpy as np, pytest
from pictures import SIZE, corpus, grey, right, scene

from test_explorer import Scripts
from vit_course.tools.commands import vit_attention
from vit_course.checkpoints import save_checkpoint
from vit_course.tools.image_files import SUFFIXES, DataError, open_image
from vit_course.vit import create_vit

pytestmark = [pytest.mark.skipif(os.name == 'nt', reason='Windows has neither pipes nor such names in folders'), pytest.mark.filterwarnings('ignore:::PIL')]
FULL = os.environ.get('VIT_COURSE_RELIABILITY') == 'full'


@contextlib.contextmanager
def at_most(seconds):
    "What takes longer hangs."
    def ring(*_): raise AssertionError(f'nothing for {seconds} seconds')
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try: yield
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope='module')
def strangers(tmp_path_factory):
    "A folder with all of them: (folder, {path: what must become of it})."
    folder = tmp_path_factory.mktemp('strangers')
    return folder, {os.path.join(os.fspath(folder), os.fsdecode(n)): kind for n, kind in corpus(folder).items()}


def is_one_line(err, prefix): assert err.startswith(prefix) and err.count('\n') == 1 and err.rstrip('\n').isprintable(), err


@functools.cache
def outcomes(folder):
    "What `open_image` makes of each file: an array, or its complaint."
    out = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        with at_most(20):
            try: out[path] = np.asarray(open_image(path))
            except DataError as e: out[path] = str(e)
    return out


def test_each_is_used_or_refused(strangers, capsys):
    folder, kinds = strangers
    found = outcomes(os.fspath(folder))
    assert len(kinds) >= 300 and set(found) == set(kinds)
    for path, kind in kinds.items():
        used = not isinstance(found[path], str)
        assert kind == 'either' or used == (kind == 'used'), (path, found[path])
        if not used: assert found[path].isprintable(), found[path]
        else: assert found[path].dtype == np.uint8 and found[path].shape[2] == 3
    n = Counter('refused' if isinstance(v, str) else 'used' for v in found.values())
    with capsys.disabled(): print(f"\n{len(kinds)} image files: {n['used']} used, {n['refused']} refused in one line, none crashed or hung")


def test_what_is_used_shows_the_right_thing(strangers):
    folder, _ = strangers
    found = outcomes(os.fspath(folder))
    for name, _ in right():
        deep = any(word in name for word in ('grey', '16bit', 'integer', 'float', 'unit'))
        want, got = np.asarray(grey().convert('RGB') if deep else scene()).astype(int), found[os.path.join(os.fspath(folder), name)]
        assert got.shape == (*SIZE[::-1], 3) and np.abs(got - want).max() <= 12, name     # palettes and JPEG are a little off
    def value(name): return set(found[os.path.join(os.fspath(folder), name)].ravel().tolist())
    assert value('dark.tif') == {1} and value('nan.tif') == value('infinite.tif') == {0} and value('huge_numbers.tif') == {255}
    assert value('1bit.png') == value('fax.tif') == {0, 255}


def test_postscript_reaches_no_ghostscript(strangers, tmp_path, monkeypatch):
    "Whatever its ending: a drawing in PostScript is a program, and Pillow would hand it to `gs`."
    (tmp_path/'gs').write_text(f'#!/bin/sh\necho run >> {tmp_path}/owned\n')
    (tmp_path/'gs').chmod(0o755)
    monkeypatch.setenv('PATH', f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys.modules.get('PIL.EpsImagePlugin') or __import__('PIL.EpsImagePlugin').EpsImagePlugin, 'gs_binary', None)
    for name in ('postscript.png', 'postscript.jpg'):
        with pytest.raises(DataError): open_image(strangers[0]/name)
    assert not (tmp_path/'owned').exists()


def test_training_on_them(strangers, command, tmp_path):
    "`vit_train --data_dir`: what cannot be read is counted and named in one line; the rest is trained on."
    folder, kinds = strangers
    data = tmp_path/'data'
    shutil.copytree(folder, data/'one', symlinks=True, copy_function=lambda a, b, **_: os.link(a, b, follow_symlinks=False), ignore=lambda d, names: ['pipe.png', 'socket.png'])
    os.mkfifo(data/'one'/'pipe.png')
    for name in ('<b>class\x1b[2J', 'caf\udce9 $(x)'):      # classes have names as well
        (data/name).mkdir()
        for i in range(6): shutil.copy(folder/'rgb.png', data/name/f'{i}.png')
    os.symlink(data/'one', data/'one'/'again'); os.symlink('round', data/'round')      # links that lead back
    status, out, err = command('finetune', '--name', 'x', '--dataset', 'folder', '--data_dir', data, '--model_type', 'testing', '--img_size', 16, '--num_steps', 2, '--eval_every', 2,
                               '--train_batch_size', 8, '--device', 'cpu', timeout=120)
    assert status == 0 and 'Traceback' not in err, err
    lines = [line for line in err.splitlines() if not line.startswith('TIFF') and 'Decod' not in line and 'decoded' not in line]     # libtiff's own
    seen = [p for p in kinds if os.path.splitext(p)[1].lower() in SUFFIXES and not os.path.basename(p).startswith('.') and not p.endswith(('socket.png', 'folder.png'))]
    refused = [p for p in seen if isinstance(outcomes(os.fspath(folder))[p], str)]
    assert all(line.startswith('note: ') and line.isprintable() for line in lines) and lines[-1].startswith(f'note: skipped {len(refused)} files that cannot be read'), err
    counts = [int(n.replace(',', '')) for n in __import__('re').findall(r'([\d,]+) (?:train|validation|test)', out)]
    assert sum(counts) == len(seen) + 12 - len(refused)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    save_checkpoint(create_vit('testing', num_classes=3), path := tmp_path_factory.mktemp('model')/'tiny.safetensors')
    return path


def test_attention_refuses(strangers, in_process, checkpoint, tmp_path):
    "`vit_attention`: an image that cannot be read is one line, and nothing is written, not for the good one beside it either."
    folder, kinds = strangers
    refused = [p for p, v in outcomes(os.fspath(folder)).items() if isinstance(v, str)]
    for path in refused:
        with at_most(20): status, out, err = in_process(vit_attention, checkpoint, folder/'rgb.png', path)
        assert status == 2 and not out, path
        is_one_line(err, 'vit_attention: ')
    assert list(tmp_path.iterdir()) == [] and len(refused) >= 150


def test_attention_and_the_explorer_use(strangers, in_process, checkpoint, tmp_path):
    "`vit_attention --html`: all others at once, in figures and in the explorer's page; no name gets a file out of the folder, or a tag into the page."
    folder, kinds = strangers
    before = set(os.listdir(folder))
    good = [p for p, v in outcomes(os.fspath(folder)).items() if not isinstance(v, str)]
    if not FULL: good = [p for p in good if kinds[p] == 'used'][::4] + [p for p in good if os.path.basename(p)[0] in '<"-\x1b\udcff$`![|=@']
    status, out, err = in_process(vit_attention, checkpoint, *good, '--html', '--out', 'out')
    assert status == 0 and not err, err
    told = json.loads((tmp_path/'out'/'attention.json').read_text(encoding='utf-8'))['images']
    assert [o['image'] for o in told] == good
    files = {f for o in told for f in o['files']}
    assert len(files) == 2*len(good) and {p.name for p in (tmp_path/'out').iterdir()} == files | {'attention.json', 'explorer.html'}
    assert all(line.isprintable() for line in out.splitlines()) and set(os.listdir(folder)) == before and os.listdir(tmp_path) == ['out']
    page = Scripts((tmp_path/'out'/'explorer.html').read_text(encoding='utf-8'))
    assert page.tags == ['html', 'meta', 'meta', 'meta', 'title', 'style', 'main', 'noscript', 'script', 'script']
    assert len(json.loads(page.texts[0])['images']) == len(good)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run, for reports."
    from vit_course.tools.commands import vit_train
    out = tmp_path_factory.mktemp('runs')
    assert vit_train(['--name', 'x', '--model_type', 'testing', '--num_steps', '4', '--eval_every', '4', '--device', 'cpu', '--output_dir', str(out)]) == 0
    return out


def test_the_report_refuses(strangers, in_process, run, tmp_path):
    "`vit_report --images`: a folder with such a file is one line, before anything is executed."
    pytest.importorskip('typst'); pytest.importorskip('pypandoc')
    from vit_course.tools.commands import vit_report
    folder, kinds = strangers
    refused = [p for p, v in outcomes(os.fspath(folder)).items() if isinstance(v, str) and not os.path.basename(p).startswith('.')]
    if not FULL: refused = [p for p in refused if kinds[p] == 'refused']
    for i, path in enumerate(refused):
        (tmp_path/str(i)).mkdir()
        if os.path.isdir(path): (tmp_path/str(i)/'folder.png').mkdir()
        else: os.link(path, tmp_path/str(i)/os.path.basename(path), follow_symlinks=False)
        with at_most(20): status, out, err = in_process(vit_report, '--lastname', 'Ada', '--runs', run, '--images', str(i))
        assert status == 2 and not out, (path, out)
        is_one_line(err, 'vit_report: ')
    assert not (tmp_path/'report').exists() and len(refused) >= 60


def test_the_report_uses(strangers, in_process, run, tmp_path, monkeypatch):
    "The worst names go through the whole report, from the folder to the PDF, as text; the others through the figures' own reader."
    pytest.importorskip('typst'); pytest.importorskip('pypandoc'); pypdf = pytest.importorskip('pypdf')
    from vit_course.report import find_runs, images_for
    from vit_course.tools.commands import vit_report
    folder, kinds = strangers
    found, worst = find_runs(run)[0][0], ('<script>alert(1)<.png', '#read("x").png', '![x](y).png', '\udcff\udcfe.png', '\x1b[2J\x1b[31mred.png', '$x^2$ \\input{x}.png', 'two\nlines.png', 'a|b.png')
    (tmp_path/'worst').mkdir()
    for name in worst: os.link(folder/name, tmp_path/'worst'/name)
    status, out, err = in_process(vit_report, '--lastname', 'Ada', '--runs', run, '--images', 'worst')
    assert status == 0 and all(line.isprintable() for line in err.splitlines()), err
    text = ''.join(p.extract_text() for p in pypdf.PdfReader(tmp_path/'report'/'Ada_ViT.pdf').pages)
    assert '<script>alert(1)<.png' in text and '![x](y).png' in text and sorted(os.listdir(tmp_path)) == ['report', 'worst']
    good = [p for p, v in outcomes(os.fspath(folder)).items() if not isinstance(v, str) and os.path.splitext(p)[1].lower() in SUFFIXES and not os.path.basename(p).startswith('.')]
    for i in range(0, len(good), 8):
        (tmp_path/f'g{i}').mkdir()
        for p in good[i:i + 8]: os.link(os.path.realpath(p), tmp_path/f'g{i}'/os.path.basename(p))
        assert [shown.shape for _, shown in images_for(found, tmp_path/f'g{i}')] == [(16, 16, 3)]*len(good[i:i + 8])
