"Several processes train as one would with the large batch; they stop, die and go on together."
import csv, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import pytest, together, torch
from conftest import ROOT, wait_for

linux = pytest.mark.skipif(sys.platform != 'linux', reason='signals and /proc as Linux has them')
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_addr=127.0.0.1', '--standalone']
ENV = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')} | {
    'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT/'tests')]), 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}


def state(path): return torch.load(path/'last'/'state.pt', weights_only=True)


def table(path):
    with open(path/'metrics.csv') as f: return [{k: float(v) for k, v in r.items() if k not in ('seconds', 'images_per_second')} for r in csv.DictReader(f)]


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "The same runs by one process and by two."
    if sys.platform == 'win32': pytest.skip('torchrun needs libuv, which PyTorch for Windows lacks')
    out = tmp_path_factory.mktemp('together')
    for name in ('one', 'two'): (out/name).mkdir()
    together.main(out/'one')
    for attempt in range(2):
        p = subprocess.run([*TORCHRUN, str(ROOT/'tests'/'together.py'), str(out/'two')], env=ENV, capture_output=True, text=True, timeout=300)
        if 'terminate called without an active exception' not in p.stderr: break      # a thread of torch's own, about once in thirty starts
        shutil.rmtree(out/'two'); (out/'two').mkdir()
    assert p.returncode == 0, p.stderr[-3000:]
    assert p.stdout.count('validation loss') == 12, 'one process prints'
    return out


@pytest.mark.parametrize('name', ['sgd', 'unequal', 'parts', 'adamw'])
def test_two_processes_end_where_one_does(both, name):
    one, two = (state(both/n/name) for n in ('one', 'two'))
    for k in one['model']: torch.testing.assert_close(two['model'][k], one['model'][k], rtol=0, atol=1e-10, msg=lambda m: f'{k}: {m}')     # float64
    a, b = table(both/'one'/name), table(both/'two'/name)
    assert len(a) == 2 and all(x == pytest.approx(y, rel=1e-5) for x, y in zip(a, b))
    a, b = (json.loads((both/n/name/'result.json').read_text()) for n in ('one', 'two'))
    assert a['test_loss'] == pytest.approx(b['test_loss'], rel=1e-9) and a['test_accuracy'] == pytest.approx(b['test_accuracy'], rel=1e-12)
    assert (a['processes'], b['processes']) == (1, 2)
    assert len(list((both/'two'/name).glob('events*'))) == 1, 'one process writes'


def test_weights_moved(both):
    from vit_course.vit import create_vit
    torch.manual_seed(42); fresh = create_vit('testing').state_dict()
    for name in ('sgd', 'adamw'): assert (state(both/'two'/name)['model']['encoder.blocks.0.mlp.fc1.weight'] - fresh['encoder.blocks.0.mlp.fc1.weight']).abs().max() > 1e-3


def test_sharded_model_computes_the_same(both):
    one, two = (json.loads((both/n/'losses.json').read_text()) for n in ('one', 'two'))
    assert two == pytest.approx(one, abs=1e-4) and one[0] > one[2]


def start(cwd, name, *more):
    return subprocess.Popen([*TORCHRUN, '-m', 'vit_course.finetune', '--name', name, '--model_type', 'testing', '--device', 'cpu', '--num_steps', '80', '--eval_every', '20',
                             '--set', 'drop=0.1', *more], cwd=cwd, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers(p): return [int(c) for c in Path(f'/proc/{p.pid}/task/{p.pid}/children').read_text().split() if b'vit_course.finetune' in Path(f'/proc/{c}/cmdline').read_bytes()]


@linux
def test_stopped_and_killed_together(both, tmp_path):
    run, whole = tmp_path/'output'/'stopped', table(both/'two'/'whole')
    p = start(tmp_path, 'stopped'); wait_for(run/'metrics.csv', 2, p)
    p.send_signal(signal.SIGINT); _, err = p.communicate(timeout=60)
    assert err.count('and saved: go on with the same command and --resume') == 1, err
    at = state(run)['step']
    assert 20 <= at < 80
    p = start(tmp_path, 'stopped', '--resume'); wait_for(run/'metrics.csv', at//20 + 2, p)
    victim, others = workers(p)[1], workers(p)
    os.kill(victim, signal.SIGKILL); began = time.time(); _, err = p.communicate(timeout=60)
    assert p.returncode == 1 and time.time() - began < 40 and '--resume' in err or 'SIGKILL' in err, err
    assert not [c for c in others if Path(f'/proc/{c}').exists()], 'all processes end'
    rows = table(run)
    assert len(rows) > at//20 and rows == whole[:len(rows)]                  # dropout included: both went on as if nothing had happened
    assert len(state(run)['rngs']) == 2 and state(run)['step'] in (at, *(r['step'] for r in rows))


def test_goes_on_with_another_number_of_processes(tmp_path, monkeypatch, capsys):
    "A state that two processes have left."
    from vit_course.finetune import FinetuneConfig, finetune
    monkeypatch.chdir(tmp_path)
    cfg = dict(model_type='testing', device='cpu', num_steps=8, eval_every=4)
    finetune(FinetuneConfig('a', **cfg), progress=False)
    run = tmp_path/'output'/'a'
    (run/'result.json').unlink(); os.replace(run/'last'/'previous.pt', run/'last'/'state.pt')
    before = state(run); before['rngs'] = before['rngs'] * 2; torch.save(before, run/'last'/'state.pt')
    finetune(FinetuneConfig('a', resume=True, **cfg), progress=False)
    assert 'note: 2 processes before, 1 now' in capsys.readouterr().err and state(run)['step'] == 8 and len(state(run)['rngs']) == 1


@pytest.mark.parametrize('env, args, words', [
    (dict(WORLD_SIZE='2'), [], 'do not fit together'),
    (dict(WORLD_SIZE='2', RANK='0', LOCAL_RANK='2', LOCAL_WORLD_SIZE='2'), [], 'do not fit together'),
    (dict(WORLD_SIZE='two', RANK='0', LOCAL_RANK='0', LOCAL_WORLD_SIZE='2'), [], 'do not fit together'),
    (dict(WORLD_SIZE='4', RANK='0', LOCAL_RANK='0', LOCAL_WORLD_SIZE='4'), ['--device', 'cuda'], '4 processes and 2 CUDA devices'),
    (dict(WORLD_SIZE='2', RANK='0', LOCAL_RANK='0', LOCAL_WORLD_SIZE='2'), ['--device', 'cuda:1'], 'each takes its own'),
    (dict(WORLD_SIZE='2', RANK='0', LOCAL_RANK='0', LOCAL_WORLD_SIZE='2'), ['--train_batch_size', '7', '--gradient_accumulation_steps', '4'], 'at least one image'),
], ids=lambda v: ' '.join(v) if isinstance(v, list) else None)
def test_mistake_is_one_line(tmp_path, monkeypatch, capsys, env, args, words):
    from vit_course.tools.commands import vit_train
    monkeypatch.chdir(tmp_path); monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for k in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'): monkeypatch.delenv(k, raising=False)
    for k, v in env.items(): monkeypatch.setenv(k, v)
    assert vit_train(['--name', 'x', '--model_type', 'testing', *args]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1 and not list(tmp_path.iterdir())


def test_only_the_first_says_what_all_find(tmp_path, monkeypatch, capsys):
    from vit_course.tools.commands import vit_train
    monkeypatch.chdir(tmp_path)
    for k, v in dict(WORLD_SIZE='2', RANK='1', LOCAL_RANK='1', LOCAL_WORLD_SIZE='2').items(): monkeypatch.setenv(k, v)
    assert vit_train(['--name', 'x', '--model_type', 'nothing']) == 2 and capsys.readouterr().err == ''
