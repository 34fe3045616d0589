"All command lines: help and mistakes at once, completion, and what a terminal shows before and after the work."
import os, subprocess, sys

import pytest
from conftest import ROOT
from vit_course.tools import commands
from vit_course.tools.commands import COMMANDS, main

CHILD = """import sys
from vit_course.tools.commands import COMMANDS
try: status = COMMANDS[sys.argv[1]](sys.argv[2:])
except SystemExit as e: status = e.code
print('loaded:', *sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'fastai', 'numpy', 'pandas', 'matplotlib', 'shtab', 'optuna'}))
sys.exit(status)"""


def run(*args):
    p = subprocess.run([sys.executable, '-c', CHILD, *args], cwd=ROOT, capture_output=True, text=True)
    out, _, loaded = p.stdout.rpartition('loaded:')
    return p.returncode, out, p.stderr, loaded.split()


@pytest.mark.parametrize('name', COMMANDS)
def test_help_and_mistakes_load_nothing(name):
    status, out, err, loaded = run(name, '--help')
    assert status == 0 and loaded == [] and err == ''
    assert f'usage: {name}' in out and len([l for l in out.split('examples:')[1].splitlines() if l.startswith(f'  {name}')]) == 2
    status, out, err, loaded = run(name, '--no_such_flag')
    assert status == 2 and loaded == [] and out == '' and err.startswith(f'{name}: ') and err.count('\n') == 1


@pytest.mark.parametrize('shell', ['bash', 'zsh'])
@pytest.mark.parametrize('name', COMMANDS)
def test_completion(name, shell):
    status, out, err, loaded = run(name, '--print_completion', shell)
    assert status == 0 and err == '' and loaded == ['shtab'] and name in out
    if shell == 'bash': subprocess.run(['bash', '-n'], input=out, text=True, check=True)


def test_all_are_installed():
    text = (ROOT/'settings.ini').read_text(encoding='utf-8')
    assert len(COMMANDS) == 7 and all(f'{name}=vit_course.tools.commands:{name}\n' in text + '\n' for name in COMMANDS)


def test_main_lists_and_starts(capsys):
    for argv in (['--help'], ['-h']):
        assert main(argv) == 0
        listed = capsys.readouterr().out
        assert all(f'  {name} ' in listed for name in COMMANDS)
    assert main(['vit_nothing']) == 2
    err = capsys.readouterr().err
    assert err.startswith("vit_course: 'vit_nothing' is no command: choose vit_doctor") and err.count('\n') == 1
    with pytest.raises(SystemExit) as e: main(['vit_train', '--version'])
    assert e.value.code == 0 and capsys.readouterr().out.startswith('vit_train ')


def test_what_to_type_next_is_for_people(capsys, monkeypatch):
    "On a terminal, after success, in the first process; never in a pipe, whose lines a script reads."
    assert commands._ended(0, 'ls') == 0 and capsys.readouterr().out == ''
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    assert commands._ended(0, 'ls') == 0 and capsys.readouterr().out == 'next: ls\n'
    assert commands._ended(2, 'ls') == 2 and capsys.readouterr().out == ''
    monkeypatch.setenv('RANK', '1')
    assert commands._ended(0, 'ls') == 0 and capsys.readouterr().out == ''


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no pseudo-terminals')
def test_on_a_terminal_of_80_columns(tmp_path):
    "Something is seen at once; the word about loading is gone before the first result; the last line is what to type next."
    import pty
    parent, child = pty.openpty()
    env = os.environ | dict(PYTHONPATH=str(ROOT), COLUMNS='80', TERM='xterm')
    flags = ['--name', 'a', '--model_type', 'testing', '--device', 'cpu', '--num_steps', '20', '--eval_every', '10']
    p = subprocess.Popen([sys.executable, '-m', 'vit_course', 'vit_train', *flags], cwd=tmp_path, env=env, stdout=child, stderr=child)
    os.close(child)
    seen = b''
    while True:
        try: data = os.read(parent, 4096)
        except OSError: break
        if not data: break
        seen += data
    os.close(parent)
    text = seen.decode()
    assert p.wait() == 0, text
    assert text.startswith('loading PyTorch …\r\x1b[K'), text[:200]
    shown = [line.split('\r')[-1].split('\x1b[K')[-1] for line in text.replace('\r\n', '\n').splitlines()]
    assert shown[-1] == 'next: vit_attention output/a IMAGE', shown[-3:]
    assert not any('%|' in line or '█' in line for line in shown[-2:]), shown
