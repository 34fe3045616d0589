"The command `vit_doctor`: its exit status, its one-line errors, and that it works in a house on fire."
import configparser, re, subprocess, sys
from pathlib import Path
import pytest
from vit_course.tools import doctor

root = Path(__file__).parent.parent

def run(*args):
    "`python -m vit_course vit_doctor`, in a process of its own."
    return subprocess.run([sys.executable, '-m', 'vit_course', 'vit_doctor', *args], cwd=root, capture_output=True, text=True)

def settings():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']

@pytest.fixture
def healthy(monkeypatch):
    "A machine on which everything is well, so that a test can break one thing."
    monkeypatch.setattr(doctor, 'installed', lambda name: '1.0')
    monkeypatch.setattr(doctor, 'requirements', lambda name: {})
    monkeypatch.setattr(doctor, 'problem', lambda f, *args: '')
    monkeypatch.setattr(doctor, 'device_facts', lambda: dict(kind='cpu', name='2 cores'))
    monkeypatch.setattr(doctor, 'free_memory', lambda: 8*2**30)
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda path: type('Usage', (), dict(free=100*2**30)))
    return monkeypatch

def test_help():
    p = run('--help')
    assert p.returncode == 0 and 'usage: vit_doctor' in p.stdout and 'Exit status' in p.stdout

@pytest.mark.parametrize('args', [['--frobnicate'], ['now'], ['-x', '3']])
def test_wrong_arguments_are_one_line_and_status_2(args):
    p = run(*args)
    assert p.returncode == 2 and p.stdout == ''
    assert len(p.stderr.strip().splitlines()) == 1 and args[0] in p.stderr

def test_this_machine():
    p = run()
    lines = p.stdout.splitlines()
    assert p.stderr == '' and p.returncode == int(any(o.startswith('FAIL') for o in lines))
    assert lines[0].split()[1] == 'Python' and all(re.match(r'ok |warning |FAIL ', o) for o in lines[:-2])
    assert p.stdout.isascii()  # any console can print it

def test_import_is_light():
    heavy = {'torch', 'numpy', 'fastcore', 'fastai', 'matplotlib'}
    code = f"import sys, vit_course.tools.doctor; print(*{heavy} & set(sys.modules))"
    p = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True, check=True)
    assert p.stdout.strip() == ''

def test_healthy(healthy, capsys):
    assert doctor.print_checks() == 0
    out = capsys.readouterr().out
    assert 'none failed' in out and 'FAIL ' not in out and 'warning ' not in out

def test_warning_is_no_failure(healthy, capsys):
    healthy.setattr(doctor, 'free_memory', lambda: 2**29)
    assert doctor.print_checks() == 0
    assert 'none failed, warnings: 1' in capsys.readouterr().out

REINSTALL = 'pip install --force-reinstall'
NO_NMS = 'RuntimeError: operator torchvision::nms does not exist'

@pytest.mark.parametrize('name, broken, command', [
    ('installed', lambda name: None if name == 'anywidget' else '1.0', 'pip install -U vit_course'),
    ('installed', lambda name: None if name == 'torch' else '1.0', 'pip install -U vit_course'),
    ('installed', lambda name: None if name == 'torchvision' else '1.0', 'pip install -U vit_course'),
    ('requirements', lambda o: dict(torch='torch>=2.4') if o == 'vit_course' else {}, 'pip install -U vit_course'),
    ('requirements', lambda o: dict(torch='torch==2.9.0') if o == 'torchvision' else {}, f'{REINSTALL} torch torchvision'),
    ('problem', lambda f, *args: NO_NMS if f is doctor.try_nms else '', f'{REINSTALL} torch torchvision'),
    ('problem', lambda f, *args: 'ImportError: x' if args == ('fastai.learner',) else '', f'{REINSTALL} fastai'),
    ('problem', lambda f, *a: 'ImportError: x' if a in [('torch',), ('fastai.learner',)] else '', f'{REINSTALL} torch'),
    ('problem', lambda f, *args: 'OSError: read-only' if f is doctor.write_something else '', 'cd ~'),
    ('device_facts', lambda: dict(kind='cuda', name='card', error='RuntimeError: x'), f'{REINSTALL} torch torchvision'),
    ('check_python', lambda: doctor.Check('Python', 'FAIL', 'old', 'conda create'), 'conda create'),
])
def test_one_broken_thing_is_one_failure_with_one_command(healthy, capsys, name, broken, command):
    healthy.setattr(doctor, name, broken)
    assert doctor.print_checks() == 1
    failures = [o for o in capsys.readouterr().out.splitlines() if o.startswith('FAIL')]
    assert len(failures) == 1 and failures[0].endswith(f'--> {command}')

def test_an_operator_that_lies(monkeypatch):
    torch, ops = pytest.importorskip('torch'), pytest.importorskip('torchvision.ops')
    assert doctor.problem(doctor.try_nms) == ''
    monkeypatch.setattr(ops, 'nms', lambda boxes, scores, threshold: torch.tensor([0, 1]))
    assert 'kept the boxes [0, 1]' in doctor.problem(doctor.try_nms)

def test_full_disk(healthy, capsys):
    healthy.setattr(doctor.shutil, 'disk_usage', lambda path: type('Usage', (), dict(free=1000)))
    assert doctor.print_checks() == 1
    assert '--> pip cache purge' in capsys.readouterr().out

def test_unwritable_folder(tmp_path):
    gone = tmp_path/'gone'
    check = doctor.check_folder(gone, doctor.problem(doctor.write_something, gone))
    assert check.status == 'FAIL' and check.fix == 'cd ~'

def test_a_card_that_does_not_answer(monkeypatch):
    torch = pytest.importorskip('torch')
    card = type('Card', (), dict(name='Fake 9000', total_memory=8*2**30, major=9, minor=0))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'init', lambda: None)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda i: card)
    def busy(*args, **kwargs): raise RuntimeError('CUDA error: all CUDA-capable devices are busy')
    monkeypatch.setattr(torch, 'ones', busy)
    check = doctor.check_device(**doctor.device_facts())
    assert check.status == 'FAIL' and 'Fake 9000, 8 GiB' in check.message and 'busy' in check.message
    monkeypatch.setattr(torch.cuda, 'init', busy)
    assert doctor.check_device(**doctor.device_facts()).status == 'FAIL'

def test_agrees_with_settings():
    cfg = settings()
    assert {re.match(r'[\w-]+', o)[0] for o in cfg['requirements'].split()} == set(doctor.PACKAGES)
    assert '.'.join(map(str, doctor.MIN_PYTHON)) == cfg['min_python']
    dev = {re.match(r'[\w-]+', o)[0] for o in cfg['dev_requirements'].split()}
    assert set(doctor.LESSONS) <= dev
