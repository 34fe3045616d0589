"Fetching from servers that misbehave, all of them on this machine, and the command `vit_weights`."
import hashlib, re, threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np, pytest, torch
from conftest import ROOT
from reference import google_arrays
from vit_course.checkpoints import (RESIZE, CheckpointError, download, load_checkpoint,
                                    save_checkpoint)
from vit_course.tools.commands import vit_weights
from vit_course.tools import commands, hub
from vit_course.tools.families import POOLS
from vit_course.tools.weight_files import TABLES
from vit_course.vit import create_vit

TINY = dict(D=32, M=64, depth=2, heads=2, patch=8, positions=4, classes=10)
OFFLINE = dict(https_proxy='http://127.0.0.1:9', http_proxy='http://127.0.0.1:9', no_proxy='')   # nobody listens there


class Server(ThreadingHTTPServer):
    "Serves `content` under each path in the way that its name says, and remembers what it was asked."
    daemon_threads = True
    def __init__(self, content):
        self.content, self.asked = content, []
        super().__init__(('127.0.0.1', 0), Handler)
    def url(self, path): return f'http://127.0.0.1:{self.server_address[1]}/{path}'

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        how, body, wanted = self.path.strip('/'), self.server.content, self.headers.get('Range')
        self.server.asked.append((how, wanted))
        start = int(wanted[len('bytes='):-1]) if wanted and how != 'norange' else 0
        if how in ('404', '500'): return self.send_error(int(how))
        if how == 'empty': body = b''
        if how == 'other': body = bytes(len(body))
        if how == 'html': body = b'<html>sign in to the network first</html>'
        if how == 'endless': body = body * 10
        if start >= len(body) and start:
            self.send_response(416)
            self.send_header('Content-Range', f'bytes */{len(body)}')
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start: self.send_header('Content-Range', f'bytes {0 if how == "wrongrange" else start}-{len(body)-1}/{len(body)}')
        if how != 'endless': self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        end = min(len(body), start + 30_000) if how == 'breaks' else len(body)
        self.wfile.write(body[start:end])


@pytest.fixture(scope='module')
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp('served')/'a.npz'
    np.savez(path, **google_arrays(**TINY))
    return path.read_bytes()

@pytest.fixture
def server(content):
    with Server(content) as s:
        threading.Thread(target=s.serve_forever, args=(0.01,), daemon=True).start()
        yield s
        s.shutdown()

@pytest.fixture
def publish(server, monkeypatch, tmp_path):
    "Make 'fake' a published checkpoint at these addresses of the server."
    monkeypatch.setenv('VIT_COURSE_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(hub, 'WAIT', 0.01)
    for name in OFFLINE: monkeypatch.delenv(name, raising=False)
    def publish(*paths, known=True, **kwargs):
        facts = dict(size=len(server.content), sha256=hashlib.sha256(server.content).hexdigest()) if known else {}
        urls = tuple(p if ':' in p else server.url(p) for p in paths)
        monkeypatch.setitem(hub.CHECKPOINTS, 'fake', hub.Checkpoint('fake.npz', urls, 'npz', 'testing', 16, 10, **{**facts, **kwargs}))
        return tmp_path/'cache'/'fake.npz'
    return publish


def test_fetch_and_use(publish, server):
    path = publish('good')
    assert download('fake') == path and path.read_bytes() == server.content
    assert len(load_checkpoint(None, 'fake').loaded) == 32       # by its name
    assert download('fake') == path and len(server.asked) == 1   # it is here already
    assert [p.name for p in path.parent.iterdir() if p.suffix != '.lock'] == ['fake.npz']

def test_another_folder(publish, tmp_path): publish('good'); assert download('fake', tmp_path/'x'/'y') == tmp_path/'x'/'y'/'fake.npz'

def test_resumes(publish, server):
    path = publish('good')
    path.parent.mkdir()
    path.with_name('fake.npz.part').write_bytes(server.content[:50_000])
    assert download('fake').read_bytes() == server.content and server.asked == [('good', 'bytes=50000-')]

def test_a_connection_that_breaks_is_continued_elsewhere(publish, server):
    path = publish('breaks', 'good')
    assert download('fake').read_bytes() == server.content
    assert server.asked == [('breaks', None), ('good', 'bytes=30000-')] and not path.with_name('fake.npz.part').exists()

def test_what_has_come_is_kept_for_the_next_time(publish, server):
    path = publish('breaks')
    with pytest.raises(CheckpointError, match='broke off'): download('fake')
    assert path.with_name('fake.npz.part').read_bytes() == server.content[:90_000] and not path.exists()   # each address gets three chances
    publish('good')
    assert download('fake').read_bytes() == server.content and server.asked[-1] == ('good', 'bytes=90000-')

@pytest.mark.parametrize('how', ['norange', 'wrongrange'])
def test_servers_that_cannot_resume(publish, server, how):
    path = publish(how, 'good')
    path.parent.mkdir()
    path.with_name('fake.npz.part').write_bytes(server.content[:50_000])
    assert download('fake').read_bytes() == server.content

def test_complete_but_not_yet_named(publish, server):
    path = publish('good')
    path.parent.mkdir()
    path.with_name('fake.npz.part').write_bytes(server.content)
    assert download('fake').read_bytes() == server.content

@pytest.mark.parametrize('rest', [bytes(50_000), bytes(10**6)], ids=['other bytes', 'too many'])
def test_a_wrong_rest_is_thrown_away(publish, server, rest):
    path = publish('good')
    path.parent.mkdir()
    path.with_name('fake.npz.part').write_bytes(rest)
    assert download('fake').read_bytes() == server.content

@pytest.mark.parametrize('known', [True, False], ids=['known hash', 'schema alone'])
@pytest.mark.parametrize('bad', ['404', '500', 'empty', 'other', 'html', 'endless'])
def test_mirrors(publish, server, bad, known):
    publish(bad, 'good', known=known, **({} if known else dict(size=len(server.content) + 800)))   # a predicted size may be a little wrong
    assert download('fake').read_bytes() == server.content

@pytest.mark.parametrize('known', [True, False], ids=['known hash', 'schema alone'])
@pytest.mark.parametrize('bad', ['404', '500', 'empty', 'other', 'html', 'endless'])
def test_nothing_wrong_is_ever_named(publish, bad, known):
    path = publish(bad, known=known, **({} if known else dict(size=108_000)))
    with pytest.raises(CheckpointError, match='by other means') as e: download('fake')
    assert not path.exists() and '\n' not in str(e.value) and str(path) in str(e.value)

def test_a_file_of_another_model_is_refused(publish, content):
    publish('good', known=False, size=None)
    hub.CHECKPOINTS['fake'] = replace(hub.CHECKPOINTS['fake'], options=dict(depth=3))
    with pytest.raises(CheckpointError, match='missing'): download('fake')

def test_the_beginning_of_a_hash_is_enough(publish, server):
    publish('good', sha256=hashlib.sha256(server.content).hexdigest()[:8], size=None)
    assert download('fake').read_bytes() == server.content

def test_a_folder_that_cannot_be_made(publish, tmp_path):
    publish('good')
    (tmp_path/'file').touch()
    with pytest.raises(CheckpointError, match='cannot be fetched'): download('fake', tmp_path/'file'/'x')

def test_nobody_there(publish):
    publish('http://127.0.0.1:9/nothing')
    with pytest.raises(CheckpointError, match='refused.*by other means'): download('fake')

def test_a_server_that_falls_silent(publish, monkeypatch):
    monkeypatch.setattr(hub, 'TIMEOUT', 0.2)
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as s:   # accepts, and never answers
        publish(f'http://127.0.0.1:{s.server_address[1]}/x', 'good')
        assert download('fake').exists()

def test_progress_is_for_terminals(publish, monkeypatch, capsys):
    path = publish('good')
    download('fake')
    assert capsys.readouterr().err == ''
    path.unlink()
    monkeypatch.setattr(hub.sys.stderr, 'isatty', lambda: True, raising=False)
    download('fake')
    assert '100 %' in capsys.readouterr().err

def test_unknown_name():
    with pytest.raises(ValueError, match="unknown checkpoint 'ViT-X': choose ViT-B_16-224"): download('ViT-X')


# ---- the command

@pytest.fixture
def process(command, tmp_path):
    "The command in a process of its own: (status, stdout, stderr)."
    return lambda *args: command('vit_weights', *args, env=dict(VIT_COURSE_CACHE=str(tmp_path/'cache'), **OFFLINE))

@pytest.fixture
def weights(tmp_path, monkeypatch, capsys):
    "The same, quicker, in this process."
    monkeypatch.chdir(tmp_path)
    for name, value in dict(VIT_COURSE_CACHE=str(tmp_path/'cache'), **OFFLINE).items(): monkeypatch.setenv(name, value)
    def run(*args):
        try: status = vit_weights(list(args))
        except SystemExit as e: status = e.code
        return status, *capsys.readouterr()
    return run

def one_line(result, *words): # a failed command says so in one line
    status, out, err = result
    assert status == 2 and out == '' and len(err.strip().splitlines()) == 1 and 'Traceback' not in err, (status, out, err)
    for word in words: assert word in err, err

@pytest.mark.parametrize('args', [['--help'], ['list', '--help'], ['fetch', '--help'], ['verify', '--help'], ['convert', '--help']])
def test_help(weights, args):
    status, out, err = weights(*args)
    assert status == 0 and 'usage: vit_weights' in out and err == ''

def test_list(process, tmp_path):
    status, out, err = process('list')
    assert status == 0 and err == '' and str(tmp_path/'cache') in out
    for name in hub.CHECKPOINTS: assert name in out
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:len(hub.CHECKPOINTS) + 1]}
    assert rows['vit-tiny-4-cifar10'] == '5' and rows['ViT-B_16-224'] == '~346' and rows['ViT-B_16-384'] == '348'
    assert abs(int(rows['timm-ViT-B_16-224'][1:]) - 346) <= 1 and all(re.fullmatch(r'~?\d+', mb) for mb in rows.values())     # 4 bytes a parameter

def test_fetch_offline_says_what_to_do(process, tmp_path):
    one_line(process('fetch', 'ViT-B_16-224'), 'https://storage.googleapis.com/vit_models/imagenet21k%2Bimagenet2012/ViT-B_16-224.npz',
             str(tmp_path/'cache'/'ViT-B_16-224.npz'), 'by other means')

def test_help_and_mistakes_of_the_process(process):
    assert process('--help')[0] == 0
    one_line(process('fetch', 'ViT-X'), "unknown checkpoint 'ViT-X'")

@pytest.mark.parametrize('args', [[], ['steal'], ['fetch'], ['fetch', 'ViT-X'], ['fetch', 'ViT-B_16-224', '--fast'], ['convert', 'a'], ['verify', 'none.npz'],
    ['convert', 'none.npz', 'b.safetensors'], ['convert', 'none.npz', 'b.onnx'], ['convert', 'a', 'b', '--img_size', 'x'], ['verify', '.']], ids=str)
def test_mistakes_are_one_line(weights, args): one_line(weights(*args))

def test_convert_and_verify(weights, tmp_path, content):
    (tmp_path/'a.npz').write_bytes(content)
    for source, target in (('a.npz', 'b.safetensors'), ('b.safetensors', 'c.npz')):
        status, out, err = weights('convert', source, target)
        assert (status, err) == (0, '') and 'testing, 16 x 16 pixels, 10 classes' in out
    with np.load(tmp_path/'a.npz') as a, np.load(tmp_path/'c.npz') as c:
        assert set(a) == set(c) and all(a[k].tobytes() == c[k].tobytes() for k in a)
    status, out, err = weights('verify', 'a.npz', 'b.safetensors', 'c.npz')
    assert status == 0 and len(out.splitlines()) == 3 and all('32 tensors, all finite' in line for line in out.splitlines())

def test_convert_for_another_size(weights, tmp_path, content):
    (tmp_path/'a.npz').write_bytes(content)
    assert weights('convert', 'a.npz', 'b.safetensors', '--img_size', '24', '40')[0] == 0
    expected = create_vit('testing', img_size=(24, 40))
    load_checkpoint(expected, tmp_path/'a.npz')
    model = load_checkpoint(None, tmp_path/'b.safetensors').model
    assert model.grid == (3, 5) and all(torch.equal(v, expected.state_dict()[k]) for k, v in model.state_dict().items())
    one_line(weights('convert', 'a.npz', 'c.safetensors', '--img_size', '17'), 'not divisible')

def test_convert_refuses_and_leaves_what_is_there(weights, tmp_path, content):
    (tmp_path/'a.npz').write_bytes(content[:50_000])
    (tmp_path/'b.safetensors').write_bytes(b'precious')
    one_line(weights('convert', 'a.npz', 'b.safetensors'), 'a.npz')
    assert (tmp_path/'b.safetensors').read_bytes() == b'precious'
    save_checkpoint(create_vit('testing', registers=2), tmp_path/'r.safetensors')
    one_line(weights('convert', 'r.safetensors', 'r.npz'), 'no place for reg_token')

def test_verify_finds_a_flipped_bit(weights, tmp_path, content):
    (tmp_path/'a.npz').write_bytes(content[:40_000] + bytes([content[40_000] ^ 1]) + content[40_001:])
    one_line(weights('verify', 'a.npz'), 'a.npz', 'damaged')

def test_known_files_are_known_by_their_names(weights, tmp_path, content):
    "A file that somebody put into the cache by hand is checked against what it should be."
    (tmp_path/'cache').mkdir()
    (tmp_path/'cache'/'ViT-B_16-384.npz').write_bytes(content)
    one_line(weights('verify', 'ViT-B_16-384'), 'should have 347,502,902')
    (tmp_path/'cache'/'ViT-B_16-224.npz').write_bytes(content)
    one_line(weights('verify', 'ViT-B_16-224'), 'depth=2')

def test_the_command_is_installed(): assert 'vit_weights=vit_course.tools.commands:vit_weights' in (ROOT/'settings.ini').read_text()

def test_the_parser_knows_all_formats_without_them():
    assert commands._FORMATS == ('auto', *TABLES) and commands._RESIZES == ('auto', *RESIZE) and commands._POOLS == tuple(POOLS)
