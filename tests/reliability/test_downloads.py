"""Servers on this machine that misbehave in every way, against `download` and `load_cifar`: the file is fetched, verified and named, or it is refused with
one line in bounded time; what is partial or wrong is never named. (Resuming, mirrors, wrong ranges and hashes: test_weights_cli.py.)"""
import hashlib, io, os, pickle, socket, subprocess, sys, tarfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np, pytest
from conftest import ROOT
from reference import google_arrays
from test_weights_cli import OFFLINE, TINY

from vit_course.checkpoints import CheckpointError, download, load_checkpoint, verify_checkpoint
from vit_course.data import load_cifar
from vit_course.tools import hub, image_files
from vit_course.tools.image_files import DataError


class Server(ThreadingHTTPServer):
    daemon_threads = True
    def __init__(self, content):
        self.content, self.asked, self.stop = content, [], threading.Event()
        super().__init__(('127.0.0.1', 0), Handler)
    def url(self, path): return f'http://127.0.0.1:{self.server_address[1]}/{path}'
    def times(self, path): return self.asked.count(f'/{path}')


class Handler(BaseHTTPRequestHandler):
    "What the path says is what happens; the second part of some paths is an argument."
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def head(self, status, *headers):
        self.send_response(status)
        for k, v in (*headers, ('Connection', 'close')): self.send_header(k, v)
        self.end_headers()
    def whole(self, *headers, length=None, status=200, body=None):
        body = self.server.content if body is None else body
        self.head(status, ('Content-Length', str(len(body) if length is None else length)), *headers)
        self.wfile.write(body)
    def do_GET(self):
        self.close_connection, server, content = True, self.server, self.server.content
        server.asked.append(self.path)
        how, _, what = self.path.strip('/').partition('/')
        before, wanted = server.times(self.path[1:]), self.headers.get('Range')
        try: getattr(self, how, self.nothing)(content, before, what, wanted)
        except (BrokenPipeError, ConnectionResetError): pass

    def good(self, content, before, what, wanted):
        start = int(wanted[6:-1]) if wanted else 0
        if start: self.head(206, ('Content-Length', len(content) - start), ('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')); self.wfile.write(content[start:])
        else: self.whole()
    # -- breaks off, stalls, trickles
    def half(self, content, *_): self.head(200, ('Content-Length', len(content))); self.wfile.write(content[:len(content)//2])
    def halves(self, content, before, what, wanted):     # a little more each time
        start = int(wanted[6:-1]) if wanted else 0
        self.head(206 if start else 200, ('Content-Length', len(content) - start), *[('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')]*bool(start))
        self.wfile.write(content[start:start + len(content)//2])
    def reset(self, content, *_):
        self.half(content); self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0'); self.connection.close()
    def nothing(self, *_): self.connection.close()
    def stalls(self, content, *_): self.half(content); self.wfile.flush(); self.server.stop.wait(20)
    def silent(self, *_): self.server.stop.wait(20)
    def trickles(self, content, *_):
        self.head(200, ('Content-Length', len(content)))
        for byte in content:
            self.wfile.write(bytes([byte])); self.wfile.flush()
            if self.server.stop.wait(.05): return
    # -- lies
    def longer(self, content, *_): self.whole(length=2*len(content))
    def shorter(self, content, *_): self.whole(length=len(content)//2)
    def nolength(self, content, *_): self.head(200); self.wfile.write(content)
    def nolength_half(self, content, *_): self.head(200); self.wfile.write(content[:len(content)//2])
    def badlength(self, content, before, what, wanted): self.head(200, ('Content-Length', what)); self.wfile.write(content)
    def chunked(self, content, before, what, wanted):
        self.head(200, ('Transfer-Encoding', 'chunked'))
        pieces = dict(good=[b'%x\r\n' % len(content) + content + b'\r\n0\r\n\r\n'], half=[b'%x\r\n' % len(content) + content[:1000]], bad=[b'zz\r\n' + content], huge=[b'f'*20 + b'\r\n' + content], negative=[b'-5\r\n' + content])
        self.wfile.write(pieces[what][0])
    def bytes(self, content, *_): self.whole(body=bytes(len(content)))
    def flipped(self, content, *_): self.whole(body=content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    def page(self, *_): self.whole(('Content-Type', 'text/html'), body=b'<html>sign in first</html>')
    def gzip(self, content, *_): import gzip; self.whole(('Content-Encoding', 'gzip'), body=gzip.compress(content))
    def garbage(self, *_): self.wfile.write(b'\xff\xfe\0 hello\r\n\r\n')
    def headers_without_end(self, *_):
        self.wfile.write(b'HTTP/1.1 200 OK\r\n')
        for i in range(300): self.wfile.write(b'X-%d: %s\r\n' % (i, b'a'*100))
    def long_header(self, *_): self.wfile.write(b'HTTP/1.1 200 OK\r\nX: ' + b'a'*200_000 + b'\r\n\r\n')
    def endless(self, content, *_):
        self.head(200)
        while not self.server.stop.is_set(): self.wfile.write(content)
    def partly(self, content, *_): self.head(206, ('Content-Length', len(content)//2), ('Content-Range', f'bytes {len(content)//2}-{len(content) - 1}/{len(content)}')); self.wfile.write(content[len(content)//2:])
    # -- says no, or elsewhere
    def status(self, content, before, what, wanted):
        code, _, times = what.partition('-')
        if times and before > int(times): return self.good(content, before, what, wanted)
        self.head(int(code), ('Content-Length', '0'), *[('Retry-After', '0')]*(code == '429'))
    def to(self, content, before, what, wanted):
        targets = dict(good=self.server.url('good'), loop=self.server.url('to/loop'), ping=self.server.url('to/pong'), pong=self.server.url('to/ping'), file='file:///etc/passwd', ftp='ftp://127.0.0.1:9/x',
                       data='data:,hello', odd='http://[bad/', nowhere='http://127.0.0.1:9/', empty='', lines='/a\tb', many=self.server.url(f'to/many?{before}'))
        self.head(302, ('Location', targets[what.partition('?')[0]]), ('Content-Length', '0'))


@pytest.fixture(scope='module')
def content():
    f = io.BytesIO(); np.savez(f, **google_arrays(**TINY))
    return f.getvalue()

@pytest.fixture
def server(content):
    with Server(content) as s:
        threading.Thread(target=s.serve_forever, args=(0.01,), daemon=True).start()
        yield s
        s.stop.set(); s.shutdown()

@pytest.fixture
def fetch(server, content, monkeypatch, tmp_path):
    "Fetch 'fake', which is at these paths of the server; quickly, for tests: (its path, what was said)."
    for name, value in dict(WAIT=.01, TIMEOUT=.3).items(): monkeypatch.setattr(hub, name, value)
    monkeypatch.setenv('VIT_COURSE_CACHE', str(tmp_path/'cache'))
    for name in OFFLINE: monkeypatch.delenv(name, raising=False)
    def fetch(*paths, known=True):
        facts = dict(size=len(content), sha256=hashlib.sha256(content).hexdigest()) if known else dict(size=len(content) + 100)
        monkeypatch.setitem(hub.CHECKPOINTS, 'fake', hub.Checkpoint('fake.npz', tuple(map(server.url, paths)), 'npz', 'testing', 16, 10, **facts))
        try: return download('fake'), ''
        except CheckpointError as e: return tmp_path/'cache'/'fake.npz', str(e)
    return fetch


FETCHED = ['good', 'halves', 'nolength', 'badlength/abc', 'badlength/-5', 'chunked/good', 'to/good', 'status/429-1', 'status/429-2', 'status/503-1', 'status/500-2', 'status/408-1']
REFUSED = ['half', 'reset', 'nothing', 'stalls', 'silent', 'trickles', 'longer', 'shorter', f"badlength/{'9'*20}", f"badlength/{'9'*5000}", 'nolength_half', 'chunked/half', 'chunked/bad', 'chunked/huge', 'chunked/negative', 'bytes', 'flipped', 'page', 'gzip',
           'garbage', 'headers_without_end', 'long_header', 'endless', 'partly', *[f'status/{n}' for n in (201, 204, 206, 304, 400, 401, 403, 404, 410, 418, 429, 500, 502, 503, 599)],
           *[f'to/{n}' for n in ('loop', 'ping', 'file', 'ftp', 'data', 'odd', 'nowhere', 'empty', 'lines', 'many')]]


@pytest.mark.parametrize('known', [True, False], ids=['hash known', 'schema alone'])
@pytest.mark.parametrize('how', FETCHED)
def test_fetched(fetch, content, how, known):
    "What a patient person would get, we get: retried, resumed and verified."
    path, said = fetch(how, known=known)
    assert not said and path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir() if p.suffix != '.lock'] == ['fake.npz']


@pytest.mark.parametrize('known', [True, False], ids=['hash known', 'schema alone'])
@pytest.mark.parametrize('how', REFUSED, ids=lambda how: how[:20])
def test_refused(fetch, server, content, how, known):
    "Everything else ends soon, in one line, with the place for the file; and nothing has its name. With a good mirror, the file is fetched."
    start = time.monotonic()
    path, said = fetch(how, known=known)
    assert not path.exists() and said.startswith('fake: cannot be fetched (') and said.isprintable() and str(path) in said, said
    assert time.monotonic() - start < 30 and len(server.asked) <= 40
    if how in ('status/404', 'status/403', 'status/410'): assert server.times(how) == 1        # it will not come by asking again
    path, said = fetch(how, 'good', known=known)
    assert not said and path.read_bytes() == content


def test_it_waits_longer_each_time(fetch, server, monkeypatch):
    "Three rounds, and a pause before the second and the third; longer where a server asks for it, but not for ever."
    slept = []
    monkeypatch.setattr(hub.time, 'sleep', slept.append)
    monkeypatch.setattr(hub, 'WAIT', 1.)
    fetch('status/500')
    assert slept == [1, 2] and server.times('status/500') == 3
    from email.message import Message
    asked = Message(); asked['Retry-After'] = '7'
    monkeypatch.setattr(hub, 'TIMEOUT', 30)
    error = hub.urllib.error.HTTPError('', 429, '', asked, None)
    assert hub._pause(error) == 7 and hub._pause(OSError()) == 0
    for text, seconds in (('86400', 30), ('9'*5000, 30), ('Wed, 21 Oct 2026 07:28:00 GMT', 0), ('-3', 0)):
        asked.replace_header('Retry-After', text)
        assert hub._pause(error) == seconds, text


@pytest.mark.parametrize('cut', [1, 1000, 50_000, -1])
def test_a_partial_file_is_never_a_whole_one(fetch, content, tmp_path, cut):
    "Under its own name it is refused by those who read it; under the name of a part it is continued."
    (tmp_path/'cache').mkdir()
    (tmp_path/'cache'/'fake.npz').write_bytes(content[:cut])
    path, said = fetch('good')
    for read in (verify_checkpoint, lambda p: load_checkpoint(None, p)):
        with pytest.raises(CheckpointError): read(path)
    path.rename(f'{path}.part')
    assert fetch('good') == (path, '') and path.read_bytes() == content


PROCESS = '''
import sys, hashlib
from vit_course.tools import hub
url, size, sha256 = sys.argv[1:]
hub.WAIT = .01
hub.CHECKPOINTS['fake'] = hub.Checkpoint('fake.npz', (url,), 'npz', 'testing', 16, 10, int(size), sha256)
data = hub.download('fake').read_bytes()
assert hashlib.sha256(data).hexdigest() == sha256
'''

def test_several_processes_fetch_at_once(server, content, tmp_path, how='halves', processes=2):
    "All end with the whole file, and it travelled once (in two halves). One of them is killed while it fetches, and another takes over."
    def start(url):
        env = os.environ | dict(PYTHONPATH=str(ROOT), VIT_COURSE_CACHE=str(tmp_path/'cache'), OMP_NUM_THREADS='1')
        for name in OFFLINE: env.pop(name, None)
        return subprocess.Popen([sys.executable, '-c', PROCESS, server.url(url), str(len(content)), hashlib.sha256(content).hexdigest()], env=env, stderr=subprocess.PIPE, text=True)
    victim = start('stalls')
    end = time.monotonic() + 60
    while not server.asked and time.monotonic() < end: time.sleep(.05)
    both = [start(how) for _ in range(processes)]
    time.sleep(1); victim.kill(); victim.communicate()
    said = [p.communicate(timeout=120)[1] for p in both]
    assert [p.returncode for p in both] == [0]*processes, said
    assert (tmp_path/'cache'/'fake.npz').read_bytes() == content and server.times(how) <= 2 and server.times('stalls') == 1
    assert not list((tmp_path/'cache').glob('*.part'))


# --- CIFAR, through torchvision

@pytest.fixture(scope='module')
def archive():
    "An archive in CIFAR's format with four images a file, and a torchvision class that expects it."
    import torchvision
    official, rng, out = torchvision.datasets.CIFAR10, np.random.default_rng(0), io.BytesIO()
    names = [n for n, _ in official.train_list + official.test_list]
    files = {n: pickle.dumps(dict(data=rng.integers(0, 256, (4, 3072), dtype=np.uint8), labels=[0, 1, 2, 3])) for n in names} | {'batches.meta': pickle.dumps(dict(label_names=list('abcdefghij')))}
    with tarfile.open(fileobj=out, mode='w:gz') as tar:
        for n, raw in files.items(): info = tarfile.TarInfo(f'cifar-10-batches-py/{n}'); info.size = len(raw); tar.addfile(info, io.BytesIO(raw))
    def md5(data): return hashlib.md5(data).hexdigest()
    return out.getvalue(), dict(tgz_md5=md5(out.getvalue()), train_list=[[n, md5(files[n])] for n in names[:5]], test_list=[[n, md5(files[n])] for n in names[5:]],
                                meta=dict(filename='batches.meta', key='label_names', md5=md5(files['batches.meta'])))


@pytest.mark.parametrize('how', ['half', 'reset', 'nothing', 'longer', 'shorter', 'nolength_half', 'badlength/abc', 'chunked/half', 'chunked/bad', 'bytes', 'flipped', 'page', 'garbage', 'long_header',
                                 'partly', 'status/204', 'status/404', 'status/429', 'status/500', 'to/loop', 'to/file', 'to/data', 'to/odd', 'to/nowhere'])
def test_cifar(archive, tmp_path, monkeypatch, how):
    "One bad source is one line; a good one behind it gives the images; nothing damaged is taken for whole."
    import torchvision
    for name in OFFLINE: monkeypatch.delenv(name, raising=False)
    body, facts = archive
    with Server(body) as s:
        threading.Thread(target=s.serve_forever, args=(0.01,), daemon=True).start()
        Tiny = type('Tiny', (torchvision.datasets.CIFAR10,), facts | dict(url=s.url(how)))
        if how not in ('badlength/abc', 'longer'):       # their bytes are good, and the hash says so
            with pytest.raises(DataError, match='could not be downloaded') as e: load_cifar(Tiny, tmp_path)
            assert str(e.value).isprintable()
        monkeypatch.setitem(image_files.MIRRORS, 'Tiny', [s.url('good')])
        train, test, names = load_cifar(Tiny, tmp_path)
        s.stop.set(); s.shutdown()
    assert (len(train), len(test), names) == (20, 4, list('abcdefghij'))
