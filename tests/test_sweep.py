"`vit_sweep` as a person uses it: mistakes, killing and going on, several processes on one study."
import csv, functools, io, json, os, subprocess, sys, threading, time
from collections import Counter

import pytest
from conftest import ROOT

pytest.importorskip('optuna')
QUICK = ['--model_type', 'testing', '--img_size', '8', '--set', 'patch_size=2', '--device', 'cpu', '--min_area', '0.8', '--learning_rate', '5e-3']


@pytest.fixture
def sweep(in_process):
    "vit_sweep in this process: (status, stdout, stderr)."
    from vit_course.tools.commands import vit_sweep
    return functools.partial(in_process, vit_sweep)


def trials_of(folder, storage=None):
    "What a study's storage says of itself: [(run, state, value)]."
    from vit_course.tools.sweep import TrialQueue, open_storage
    storage = open_storage(storage or f"sqlite:///{folder/'study.db'}")
    trials = TrialQueue(folder.name, storage).trials()
    return [(t.user_attrs.get('run'), t.state.name, t.value) for t in trials]


def complete(folder, storage=None): return Counter(run for run, state, _ in trials_of(folder, storage) if state == 'COMPLETE')


MISTAKES = [
    (['mine'], 'give --grid'),
    (['mine', '--grid'], '--grid'),
    (['mine', '--grid', 'depth='], 'no values'),
    (['mine', '--grid', 'depth'], 'SETTING=VALUE'),
    (['mine', '--grid', 'depht=2'], "unknown setting 'depht'"),
    (['mine', '--grid', 'seed=1,2'], '--seeds'),
    (['mine', '--grid', 'depth=two'], 'a whole number'),
    (['mine', '--grid', 'learning_rate=0.1,fast'], 'a number'),
    (['mine', '--grid', 'bf16=maybe'], 'true or false'),
    (['mine', '--grid', 'depth=2,2'], 'twice'),
    (['mine', '--grid', 'depth=1', 'depth=2'], 'twice'),
    (['mine', '--grid', 'heads=2,3'], 'heads=3: dim 32 is not divisible by 3 heads'),
    (['mine', '--grid', 'learning_rate=0'], 'must be positive'),
    (['mine', '--grid', 'learning_rate=nan'], 'must be positive'),
    (['mine', '--grid', 'dataset=digits,mnist'], 'unknown --dataset'),
    (['mine', '--grid', 'train_share=0,1'], 'train_share must be above 0'),
    (['mine', '--grid', 'arch=resnet,vgg'], 'arch must be resnet'),
    (['mine', '--grid', 'depth=1..4'], '--search random or tpe'),
    (['mine', '--grid', 'depth=4..1', '--search', 'tpe'], 'to a larger one'),
    (['mine', '--grid', 'depth=1', '--seeds', '0'], '--seeds must be at least 1'),
    (['mine', '--grid', 'depth=1', '--jobs', '0'], '--jobs must be at least 1'),
    (['mine', '--grid', 'depth=1', '--num_step', '3'], 'unrecognized'),
    (['../mine', '--grid', 'depth=1'], 'no name for a study'),
    (['mine', '--grid', 'depth=1', '--storage', 'nonsense'], 'neither journal:PATH nor a URL'),
    (['mine', '--grid', 'depth=1', '--storage', 'journal:no/such/folder'], 'No such file'),
    (['patch_size'], 'tiny, laptop or gpu'),
    (['transfer', '--size', 'tiny'], '--pretrained_dir FILE'),
    ([], 'STUDY'),
]


@pytest.mark.parametrize('args, words', MISTAKES, ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_mistake_is_one_line(sweep, tmp_path, args, words):
    status, out, err = sweep(*args, *QUICK)
    assert status == 2 and words in err and err.startswith('vit_sweep: ') and err.count('\n') == 1, err
    assert not list(tmp_path.rglob('*.json'))                  # nothing half-written


def test_optuna_is_missing(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    status, out, err = sweep('mine', '--grid', 'depth=1', *QUICK)
    assert status == 2 and "pip install 'vit_course[sweep]'" in err and err.count('\n') == 1


@pytest.mark.parametrize('module, package', [('psycopg', "'psycopg[binary]'"), ('psycopg2', 'psycopg2-binary')])
def test_a_driver_is_missing(sweep, monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    status, out, err = sweep('mine', '--grid', 'depth=1', *QUICK, '--storage', f'postgresql+{module}://me:secret@127.0.0.1:1/db')
    assert status == 2 and f'pip install {package}' in err and 'secret' not in err and err.count('\n') == 1, err


def test_data_that_are_not_there(sweep):
    status, out, err = sweep('mine', '--grid', 'depth=1', *QUICK, '--dataset', 'folder', '--data_dir', 'nowhere')
    assert status == 2 and 'nowhere is not a folder' in err and err.count('\n') == 1


def test_study_and_its_table(sweep, tmp_path):
    args = ['mine', '--grid', 'depth=1,2', 'mixup=none,0.2', '--seeds', 2, *QUICK, '--num_steps', 12, '--eval_every', 6]
    status, out, err = sweep(*args)
    assert status == 0, err
    folder = tmp_path/'output'/'mine'
    assert set(complete(folder).values()) == {1} and len(complete(folder)) == 8
    for run in complete(folder):                               # an ordinary run folder
        assert {'config.json', 'metrics.csv', 'best.safetensors', 'last', 'result.json'} <= {p.name for p in (folder/run).iterdir()}
    assert '[8/8]' in out and 'left' in out and '| 1 | none | 2 |' in out.replace('| none | 1 | 2 |', '| 1 | none | 2 |')
    before = {p: p.stat().st_mtime_ns for p in folder.glob('*/result.json')}
    status, out, err = sweep(*args, '--format', 'csv')
    assert status == 0 and '[' not in out and before == {p: p.stat().st_mtime_ns for p in folder.glob('*/result.json')}
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 4 and {r['verdict'] for r in rows} == {'baseline', 'two seeds: no telling'}
    status, out, err = sweep(*args[:-1], 5)
    assert status == 2 and 'eval_every was 6, is 5' in err and err.count('\n') == 1


@pytest.mark.parametrize('name', ['steps', 'batch', 'precision'])          # lesson 08b runs the others
def test_tiny_study(sweep, tmp_path, name):
    status, out, err = sweep(name, '--size', 'tiny', '--seeds', 1, '--device', 'cpu')
    assert status == 0 and len(list((tmp_path/'output'/f'{name}_tiny').glob('*/result.json'))) == 3, err
    assert out.count('one seed: no telling') == 2 and out.count('baseline') == 1


def test_a_loss_that_is_not_a_number_is_an_answer(sweep, tmp_path):
    args = ['mine', '--grid', 'learning_rate=0.001,1e30', '--seeds', 1, *QUICK[:-2], '--max_grad_norm', 0, '--optimizer', 'sgd', '--num_steps', 20, '--eval_every', 10]
    status, out, err = sweep(*args)
    assert status == 0 and 'the loss is' in out, err
    assert sorted(state for _, state, _ in trials_of(tmp_path/'output'/'mine')) == ['COMPLETE', 'FAIL']
    assert '[' not in sweep(*args)[1]                          # and is not tried again


def start(tmp_path, *args):
    env = os.environ | {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen([sys.executable, '-m', 'vit_course', 'vit_sweep', *map(str, args), *QUICK], cwd=tmp_path, env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, seconds=120):
    end = time.time() + seconds
    while time.time() < end and process.poll() is None:
        if condition(): return
        time.sleep(0.02)
    raise AssertionError(f'it did not come to that: {process.poll()}')


def test_killed_and_started_again(tmp_path):
    args = ['mine', '--grid', 'depth=1,2', '--seeds', 2, '--num_steps', 100, '--eval_every', 10]
    folder = tmp_path/'output'/'mine'
    second = folder/'depth=2-seed1'
    p = start(tmp_path, *args)
    wait_for(lambda: (second/'metrics.csv').exists() and len((second/'metrics.csv').read_text().splitlines()) > 3, p)
    p.kill(); p.communicate()
    assert not (second/'result.json').exists() and list((second/'last').glob('*.pt'))    # between two renames it is previous.pt alone
    began = (second/'metrics.csv').read_text().splitlines()
    done = {f: f.stat().st_mtime_ns for f in folder.glob('*/result.json')}
    p = start(tmp_path, *args); out, err = p.communicate(timeout=200)
    assert p.returncode == 0, err
    assert set(complete(folder).values()) == {1} and len(complete(folder)) == 4
    assert done == {f: f.stat().st_mtime_ns for f in done}                            # what was finished was left alone
    with open(second/'metrics.csv') as f: assert [int(r['step']) for r in csv.DictReader(f)] == list(range(10, 101, 10))
    assert len(began) > 3 and (second/'metrics.csv').read_text().splitlines()[:3] == began[:3]      # seconds and all: it went on instead of beginning again
    values = {run: value for run, state, value in trials_of(folder) if state == 'COMPLETE'}
    for f in folder.glob('*/result.json'): assert json.loads(f.read_text())['valid_accuracy'] == pytest.approx(values[f.parent.name])


def test_two_processes_on_one_study(tmp_path):
    args = ['mine', '--grid', 'depth=1,2', 'learning_rate=0.001,0.003', '--seeds', 3, '--num_steps', 6, '--eval_every', 6]
    both = [start(tmp_path, *args) for _ in range(2)]
    said = [p.communicate(timeout=200) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    done = complete(tmp_path/'output'/'mine')
    assert len(done) == 12 and set(done.values()) == {1}
    made = Counter(line.split('] ')[1].split(' · validation')[0] for out, _ in said for line in out.splitlines() if line.startswith('['))
    assert len(made) == 12 and set(made.values()) == {1}                              # nor was any made in vain
    assert len(list((tmp_path/'output'/'mine').glob('*/events*'))) == 12


def test_jobs_and_a_journal(tmp_path):
    journal = f"journal:{tmp_path/'journal.log'}"
    p = start(tmp_path, 'mine', '--grid', 'depth=1,2', '--seeds', 2, '--num_steps', 6, '--eval_every', 6, '--jobs', 2, '--storage', journal)
    out, err = p.communicate(timeout=200)
    assert p.returncode == 0 and not (tmp_path/'output'/'mine'/'study.db').exists(), err
    done = complete(tmp_path/'output'/'mine', journal)
    assert set(done.values()) == {1} and len(done) == 4


CLAIM = """
import sys
from vit_course.tools.sweep import TrialQueue, open_storage
queue = TrialQueue('race', open_storage(sys.argv[1]), **({'space': dict(depth=[1, 2, 3, 4, 5, 6, 7, 8]), 'n': 6, 'seeds': (1, 2, 3)} if sys.argv[2] == 'search' else
              {'grid': [(dict(depth=d), s) for d in range(10) for s in (1, 2, 3)]}))
while claim := queue.claim():
    print(claim.settings['depth'], claim.seed, flush=True)
    queue.finish(claim, 0.5)
"""


def drop_study(storage):
    import optuna
    try: optuna.delete_study(study_name='race', storage=storage)
    except KeyError: pass                                      # there is none


@pytest.mark.parametrize('storage, what', [('sqlite:///race.db', 'grid'), ('journal:race.log', 'search'), ('postgresql', 'grid'), ('postgresql', 'search')])
def test_a_race_without_training(tmp_path, storage, what):
    if storage == 'postgresql':
        storage = os.environ.get('VIT_COURSE_POSTGRES') or pytest.skip('VIT_COURSE_POSTGRES=postgresql://user@host/empty_database is not set')
        drop_study(storage)
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    workers = [subprocess.Popen([sys.executable, '-c', CLAIM, storage, what], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [w.communicate(timeout=200) for w in workers]
    assert [w.returncode for w in workers] == [0, 0], said
    made = Counter(line for out, _ in said for line in out.splitlines())
    assert set(made.values()) == {1}
    if what == 'grid': assert len(made) == 30
    else: assert len(made) % 3 == 0 and 3 <= len(made) <= 18 and Counter(line.split()[1] for line in made) == {s: len(made)//3 for s in '123'}


# --- what Optuna does not do, and the queue does. Where the first half of such a test fails, Optuna
# has learned it, and the queue may shrink.

pytestmark = pytest.mark.filterwarnings('ignore::optuna.exceptions.ExperimentalWarning',
                                        'ignore:Heartbeat of storage:UserWarning')


def optuna_study(storage):
    import optuna
    return optuna.create_study(study_name='alone', storage=storage, load_if_exists=True)


def id_of(storage, number): return storage.get_trial_id_from_study_id_trial_number(1, number)


def states(study): return [t.state.name for t in study.get_trials()]


def queue_on(storage, **kw):
    from vit_course.tools.sweep import TrialQueue, open_storage
    return TrialQueue('ours', open_storage(storage), grid=[(dict(depth=1), 1)], **kw)


@pytest.fixture
def url(tmp_path): return f"sqlite:///{tmp_path/'queue.db'}"


def test_two_who_enqueue_the_same_run(url, monkeypatch):
    "`enqueue_trial(skip_if_exists=True)` looks, then writes. The queue looks again after that."
    one, two = optuna_study(url), optuna_study(url)
    def late(trial, add=one.add_trial):
        two.enqueue_trial({}, skip_if_exists=True)
        add(trial)
    monkeypatch.setattr(one, 'add_trial', late)
    one.enqueue_trial({}, skip_if_exists=True)
    assert states(one) == ['WAITING'] * 2

    slow, fast = queue_on(url), queue_on(url)
    claims = []
    def late(trial, add=slow.study.add_trial):
        claims.append(fast.claim())
        add(trial)
    monkeypatch.setattr(slow.study, 'add_trial', late)
    claims.append(slow.claim())
    assert claims[0].settings == dict(depth=1) and claims[1] is None
    fast.finish(claims[0], 0.5)
    assert slow.claim() is None and slow.counts() == (1, 1, 0)


@pytest.mark.parametrize('ours', [False, True])
def test_two_who_take_the_same_trial(url, monkeypatch, ours):
    "SQLite locks at the first write, when both have read; `open_storage` locks before."
    import optuna
    from vit_course.tools.sweep import open_storage
    storages = [open_storage(url) if ours else optuna.storages.RDBStorage(url) for _ in range(2)]
    one, two = map(optuna_study, storages)
    one.enqueue_trial({})
    taken, check = [], storages[0].check_trial_is_updatable
    other = threading.Thread(target=lambda: taken.append(two.ask().number))
    def late(*args): # between reading and writing
        other.start()
        other.join(2)
        check(*args)
    monkeypatch.setattr(storages[0], 'check_trial_is_updatable', late)
    taken.append(one.ask().number)
    other.join(60)
    assert sorted(taken) == ([0, 1] if ours else [0, 0])       # 1: a new trial, since none waits


@pytest.mark.parametrize('kind', ['sqlite', 'journal'])
def test_heartbeats_in_every_storage(url, tmp_path, kind):
    "Optuna has them for databases alone; and what they say after the end is heard by nobody."
    import optuna
    storage = f"journal:{tmp_path/'queue.log'}" if kind == 'journal' else url
    if kind == 'journal':
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path/'alone.log'))
        assert not hasattr(optuna.storages.JournalStorage(backend), 'record_heartbeat')
    else:
        alone = optuna.storages.RDBStorage(url, heartbeat_interval=1)
        study = optuna_study(alone)
        number = study.ask().number
        study.tell(number, state=optuna.trial.TrialState.FAIL)         # somebody took it for dead
        alone.record_heartbeat(id_of(alone, number))                    # and not a word

    one, two = (queue_on(storage, grace_period=3) for _ in range(2))
    claim = one.claim()
    one.note(claim.trial, worker=['elsewhere', 1])                      # as if on another machine
    with one.heartbeats.beating(claim):
        for _ in range(10):
            assert two.claim() is None
            time.sleep(0.5)
    assert not claim.lost
    assert two.claim() is None                                          # has seen the last beat
    time.sleep(3.2)                                                     # silence
    assert two.claim().settings == claim.settings
    with one.heartbeats.beating(claim): time.sleep(1.5)
    assert claim.lost


def test_reading_while_another_writes(url, monkeypatch):
    "A trial's attributes come one by one: a reader in between, or a death, leaves no damaged study."
    import optuna
    from vit_course.tools.sweep import TrialQueue, open_storage
    one, two = (TrialQueue('ours', open_storage(url), space=dict(depth=[1, 2]), n=2) for _ in range(2))
    seen, write = [], optuna.trial.Trial.set_user_attr
    def watched(*args):
        write(*args)
        seen.append((args[1], two.counts()))
    monkeypatch.setattr(optuna.trial.Trial, 'set_user_attr', watched)
    claim = one.claim()
    assert {'worker', 'settings', 'seed', 'run', 'leader'} == {name for name, _ in seen}
    assert [counts for _, counts in seen][-1] == two.counts() == (0, 2, 1)
    one.finish(claim, 0.5, test_accuracy=0.4)
    assert two.counts() == (1, 2, 0)


DEATH = """
import os, signal, sys
from test_sweep import queue_on
queue_on(sys.argv[1]).claim()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGKILL')
def test_killed_before_the_first_heartbeat(url):
    "Optuna waits for ever for who never showed a sign of life; a process that is gone is dead."
    import optuna
    study = optuna_study(optuna.storages.RDBStorage(url, heartbeat_interval=1, grace_period=1))
    study.ask()
    time.sleep(2.1)
    optuna.storages.fail_stale_trials(study)
    assert states(study) == ['RUNNING']

    env = os.environ | {'PYTHONPATH': f"{ROOT}{os.pathsep}{ROOT/'tests'}"}
    p = subprocess.run([sys.executable, '-c', DEATH, url], env=env, capture_output=True, text=True,
                       timeout=200)
    assert p.returncode == -9, p.stderr
    queue = queue_on(url, grace_period=3600)
    assert states(queue.study) == ['RUNNING']
    assert queue.claim().settings == dict(depth=1) and states(queue.study) == ['FAIL', 'RUNNING']


def test_dying_while_the_dead_are_buried(url, monkeypatch):
    "Optuna fails the stale trial, then enqueues it: who dies in between takes the run with him."
    import optuna
    def dies(*args, **kw): raise KeyboardInterrupt
    storage = optuna.storages.RDBStorage(url, heartbeat_interval=1, grace_period=1,
                                         heartbeat_stale_trial_callback=dies)
    study = optuna_study(storage)
    storage.record_heartbeat(id_of(storage, study.ask().number))
    time.sleep(2.1)
    with pytest.raises(KeyboardInterrupt): optuna.storages.fail_stale_trials(study)
    assert states(study) == ['FAIL']                                    # and nothing waits

    one, two = queue_on(url), queue_on(url)
    claim = one.claim()
    here = claim.trial.user_attrs['worker'][0]
    one.note(claim.trial, worker=[here, 2**22 + 1])                     # a process that is gone
    monkeypatch.setattr(one.study, 'enqueue_trial', dies)
    with pytest.raises(KeyboardInterrupt): one.claim()
    assert states(two.study) == ['FAIL'] and two.claim().settings == dict(depth=1)


@pytest.mark.parametrize('kind', ['sqlite', 'journal'])
def test_a_study_of_the_first_version(url, tmp_path, kind):
    "What it wrote: every state, a dead worker, a search, sizes that are lists in JSON."
    import optuna
    from vit_course.tools.sweep import Range, TrialQueue, open_storage
    where = url if kind == 'sqlite' else f"journal:{tmp_path/'queue.log'}"
    S, kw = optuna.trial.TrialState, dict(direction='maximize')
    study = optuna.create_study(study_name='before', storage=open_storage(where), **kw)
    def trial(state, value=None, size=(2, 4), seed=1, **attrs):
        run = f"patch_size={'x'.join(map(str, size))}-seed{seed}"
        attrs |= dict(run=run, settings=dict(patch_size=size), seed=seed)
        study.add_trial(optuna.create_trial(state=state, value=value, user_attrs=attrs))
    trial(S.COMPLETE, 0.5, worker=['there', 1], beat=3, test_accuracy=0.4, seconds=2.)
    trial(S.FAIL, worker=['there', 1], problem='the loss is nan: no more', seed=2)
    trial(S.RUNNING, worker=['there', 1], beat=7, size=(4, 4))
    trial(S.WAITING, size=(4, 4), seed=2)
    grid = [(dict(patch_size=p), s) for s in (1, 2) for p in ((2, 4), (4, 4))]
    queue = TrialQueue('before', open_storage(where), grid=grid, grace_period=0.2)
    assert queue.counts() == (2, 4, 1)
    claim = queue.claim()
    assert (claim.settings, claim.seed) == (dict(patch_size=(4, 4)), 2)           # what waited
    queue.finish(claim, 0.7)
    assert queue.claim() is None                                        # it may still be alive
    time.sleep(0.3)
    claim = queue.claim()
    assert (claim.settings, claim.seed) == (dict(patch_size=(4, 4)), 1)
    queue.finish(claim, 0.6)
    assert queue.counts() == (4, 4, 0) and queue.claim() is None

    study = optuna.create_study(study_name='searched', storage=open_storage(where), **kw)
    attrs = dict(run='depth=3-seed1', settings=dict(depth=3), seed=1, leader=True, worker=['x', 1])
    depth = optuna.distributions.IntDistribution(1, 4)
    chosen = dict(params=dict(depth=3), distributions=dict(depth=depth))
    study.add_trial(optuna.create_trial(state=S.COMPLETE, value=0.5, user_attrs=attrs, **chosen))
    space = dict(depth=Range(1, 4, whole=True))
    queue = TrialQueue('searched', open_storage(where), space=space, n=1, seeds=(1, 2))
    claim = queue.claim()
    assert (claim.settings, claim.seed) == (dict(depth=3), 2) and queue.counts() == (1, 2, 1)
