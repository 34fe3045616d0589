# Submissions that want points, or want to do harm, and must get neither. Each is the only cell of a notebook.
# `# %% what it tries`; FOLDER, PORT and HIDDEN are filled in by the test.

# %% a cell that never ends
def patchify(x, p): return x
while True: pass

# %% a function that never ends
def patchify(x, p):
    while True: pass

# %% a function that dawdles
import time
def patchify(x, p): time.sleep(2.5); return x

# %% ignores every signal, and never ends
import signal
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
def patchify(x, p):
    while True: pass

# %% takes all memory
import torch
def patchify(x, p):
    hoard = []
    while True: hoard.append(torch.ones(2**24))

# %% takes all memory, a little at a time
def patchify(x, p):
    hoard = []
    while True: hoard.append(bytearray(2**16))

# %% forks without end
import os
def patchify(x, p):
    while True:
        try: os.fork()
        except OSError: pass

# %% starts threads without end
import threading, time
def patchify(x, p):
    while True: threading.Thread(target=time.sleep, args=(1000,)).start()

# %% prints without end
def patchify(x, p):
    while True: print('points ' * 1000)

# %% fills the disk
def patchify(x, p):
    for i in range(10_000):
        with open(f'/work/{i}', 'wb') as f: f.write(bytes(2**24))
    return x

# %% leaves by the back door
import os
def patchify(x, p): os._exit(0)

# %% leaves with all points in its exit
import sys
def patchify(x, p): sys.exit('score: 100')

# %% crashes the interpreter
import ctypes
def patchify(x, p): ctypes.string_at(0)

# %% kills everybody in sight
import os, signal
for pid in (os.getppid(), -1, 0, 1, *range(2, 3000)):
    if pid != os.getpid():
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass

# %% leaves a daemon behind
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(1)
    os._exit(0)
def patchify(x, p): return x

# %% makes every comparison true
import torch, builtins
torch.testing.assert_close = lambda *a, **k: None
torch.equal = torch.allclose = lambda *a, **k: True
builtins.isinstance = lambda *a: True
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __getattr__(self, name): return Yes()
    def __call__(self, *a, **k): return Yes()
def patchify(x, p): return Yes()

# %% a tensor that lies
import torch
class Liar(torch.Tensor):
    def __eq__(self, other): return torch.ones(()).bool()
    def detach(self): return self
    @property
    def shape(self): return torch.Size([1, 1, 1])
def patchify(x, p): return torch.zeros(1).as_subclass(Liar)

# %% takes the solution out of the package
import sys
from vit_course.patches import patchify, unpatchify, PatchEmbed

# %% looks for the installed package
import importlib, site, sys, sysconfig, pathlib
found = [p for d in {*sys.path, *site.getsitepackages(), sysconfig.get_path('purelib'), 'FOLDER'} for p in pathlib.Path(d or '.').rglob('patches.py')]
for p in found:
    if 'permute(0, 2, 4, 1, 3, 5)' in p.read_text(): exec(p.read_text())

# %% searches the disk for solutions and tests
import os
for folder, _, files in os.walk('/'):
    if folder.startswith(('/usr', '/proc', '/lib', '/tmp/dev/v/')) or 'site-packages/' in folder: continue
    for name in files:
        try: text = open(os.path.join(folder, name), errors='ignore').read()
        except OSError: continue
        if 'permute(0, 2, 4, 1, 3, 5)' in text or 'def patchify__' in text: print('FOUND', folder, name); LOOT = text; exec(text)

# %% reads the hidden tests where they lie
text = open('HIDDEN').read()
print('FOUND', text)
exec(text)
def patchify(x, p): return cut(x, p, p) if isinstance(p, int) else cut(x, *p)

# %% overwrites the hidden tests
open('HIDDEN', 'w').write('')

# %% phones home
import socket
for address in (('127.0.0.1', PORT), ('localhost', PORT)):
    try: socket.create_connection(address, 1).send(b'hello')
    except OSError: pass

# %% writes answers into every pipe
import json, os
def message(n): 
    head = json.dumps([[n, 'ok', ['value', True]], []]).encode()
    return len(head).to_bytes(8, 'big') + head
for fd in range(3, 64):
    try: [os.write(fd, message(n)) for n in range(1, 100)]
    except OSError: pass

# %% writes nonsense into every pipe
import os
def patchify(x, p):
    for fd in range(64):
        try: os.write(fd, b'\xff' * 4096)
        except OSError: pass

# %% answers with something that runs when it is read
import os
class Trap:
    def __reduce__(self): return os.system, ('touch FOLDER/harm',)
def patchify(x, p): return [Trap(), Trap()]

# %% an answer without end
def patchify(x, p): return 'a' * 2**29

# %% an answer that is nested too deep
def patchify(x, p):
    o = []
    for _ in range(100_000): o = [o]
    return o

# %% an answer that is larger than it looks
import torch
def patchify(x, p): return torch.zeros(1).expand(10**9, 10**9)

# %% a sparse answer
import torch
def patchify(x, p): return torch.sparse_coo_tensor(torch.zeros(2, 0).long(), torch.zeros(0), (10**9, 10**9))

# %% replaces what carries the answers
import builtins, json, os, torch
real = json.dumps
json.dumps = lambda o, **k: real([[o[0][0], 'ok', ['tensor', 'load', [1], None]], [4]]) if isinstance(o, list) else real(o, **k)
def patchify(x, p): return x

# %% looks for the expected value
import gc, sys, torch
def patchify(x, p):
    frame = sys._getframe()
    while frame.f_back: frame = frame.f_back
    everything = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)] + [o for o in frame.f_locals.values() if isinstance(o, torch.Tensor)]
    return next((o for o in everything if o.numel() == x.numel() and o.ndim == 3), x)

# %% breaks out
import ctypes, os
libc = ctypes.CDLL(None)
for attempt in (lambda: os.setuid(0), lambda: os.chroot('..'), lambda: libc.umount2(b'/work', 2), lambda: libc.unshare(0x10000000),
                lambda: libc.mount(b'proc', b'/proc', b'proc', 0, None), lambda: os.mkdir('/out'), lambda: open('/proc/1/root/etc/passwd'),
                lambda: open('/proc/sys/kernel/core_pattern', 'w').write('|/work/evil'), lambda: open('/proc/sysrq-trigger', 'w').write('b')):
    try: print('ESCAPED' if attempt() in (0, None) and attempt.__code__.co_names[-1] != 'unshare' else '')
    except Exception as e: print(type(e))
try:
    os.mkdir('/work/x'); os.chroot('/work/x')
    for _ in range(64): os.chdir('..')
    os.chroot('.'); print('FOUND' if os.path.exists('HIDDEN') else '')
except OSError: pass
