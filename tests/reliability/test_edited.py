"""Run folders, studies and databases that somebody has edited or damaged, against all that read them: right, or refused in one line that names the file;
nothing crashes, hangs, runs, or is read from elsewhere."""
import json, math, os, random, shutil, sqlite3

import pytest
from test_pictures import FULL, at_most, is_one_line

pytest.importorskip('optuna')
from vit_course.experiments import format_table, plot_results, results_table
from vit_course.tools.commands import vit_sweep
from vit_course.tools import sweep as S
from vit_course.tools.runs import SweepError, collect, read_runs
from vit_course.tools.commands import vit_train

pytestmark = pytest.mark.skipif(os.name == 'nt', reason='Windows has neither pipes nor such names')
RUN = ['--model_type', 'testing', '--img_size', '8', '--set', 'patch_size=2', '--device', 'cpu', '--num_steps', '4', '--eval_every', '2']
SWEEP = ['mine', '--grid', 'depth=1,2', '--seeds', '2', *RUN]

VALUES = [None, True, -1, 0, 0.5, 3, 10**9, 10**400, 1e308, math.nan, math.inf, 'text', '', '../../../etc/passwd', '/etc/passwd', '<script>alert(1)</script>', '#read("/etc/passwd")', '$\\frac{', '\n\x1b[2J"\'`|',
          '\udce9\0', 'a'*10**5, [], {}, [[]], [1, 'a', None], [10**6]*10**3, {'a': {'b': '../..'}}, {'depth': 10**9}, {'img_size': [10**9, 10**9], 'patch_size': 1}, {'heads': 0}, {'dim': 1e308, 'act': '<b>'}]
FILES = [b'', b'{', b'[]', b'null', b'"text"', b'[' * 10**5, b'{"a":' * 10**5, b'\xff\xfe\0', '{"a": 1}'.encode('utf-16'), b'{"a": 1e999}', b'9' * 5000, b'<html>', b'\0' * 1000, b'{"a": 1}{"b": 2}']
TABLES = [b'', b'\n', b'step\n', b'step,valid_accuracy,seconds\n', b'step,train_loss,valid_loss,valid_accuracy,seconds\na,b,c,d,e\n', b'step,train_loss,valid_loss,valid_accuracy,seconds\n1,nan,inf,-inf,1e308\n',
          b'step,train_loss,valid_loss,valid_accuracy,seconds\n1,2\n1,2,3,4,5,6,7,8\n', b'"' * 1000, b'\xff\xfe\0', b'=cmd()', b'step,train_loss,valid_loss,valid_accuracy,seconds\n' + b'1,1,1,1,1\n' * 10**4, '²,1\n'.encode()]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A run and a study, both finished."
    out = tmp_path_factory.mktemp('made')
    assert vit_train(['--name', 'run', *RUN, '--output_dir', str(out)]) == 0
    assert vit_sweep([*SWEEP, '--output_dir', str(out)]) == 0
    return out


def edits(path, samples=None):
    "Every value of every key of a JSON file, and every file in its place: (what, bytes)."
    d, out = json.loads(path.read_text()), []
    places = [(k,) for k in d] + [(k, o) for k, v in d.items() if isinstance(v, dict) for o in v] + [('new',), ('set', 'depth'), ('set', 'img_size')]
    for place in places:
        for v in [*VALUES, '(gone)']:
            new = json.loads(json.dumps(d)); inner = new
            for k in place[:-1]: inner = inner.setdefault(k, {})
            if v == '(gone)': inner.pop(place[-1], None)
            else: inner[place[-1]] = v
            out.append((f"{'.'.join(place)} = {str(v)[:30] if v != 10**400 else 'huge'!r}", raw(new)))
    if samples and not FULL: out = random.Random(0).sample(out, min(samples, len(out)))
    return out + [(f'all of it: {o[:20]}', o) for o in FILES]


def raw(d):
    "JSON with NaN, infinity and numbers of any length, as an editor would leave it."
    return json.dumps({k: v for k, v in d.items()}, default=str).encode() if 10**400 not in _numbers(d) else json.dumps(_mark(d)).replace('"(huge)"', '1' + '0'*400).encode()
def _numbers(o): return [x for v in (o.values() if isinstance(o, dict) else o) for x in _numbers(v)] if isinstance(o, (dict, list)) else [o]
def _mark(o): return {k: _mark(v) for k, v in o.items()} if isinstance(o, dict) else [_mark(v) for v in o] if isinstance(o, list) else '(huge)' if o == 10**400 else o


def strange_files(path):
    "Other things under the name of a file, one after the other; the file is back at the end."
    kept = path.read_bytes()
    def anew(): path.unlink(); return path
    def folder(): anew().mkdir()
    def sparse(): f = open(anew(), 'wb'); f.truncate(2**33); f.close()
    for make in (lambda: os.symlink('/etc/passwd', anew()), lambda: os.symlink(path.name, anew()), lambda: os.symlink('nowhere', anew()), lambda: os.mkfifo(anew()), sparse, folder):
        make()
        yield 'a strange file'
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(kept)


def each(path, cases):
    "Put one edited content after the other in the file's place; then the file is as it was."
    kept = path.read_bytes()
    for what, content in cases:
        path.write_bytes(content)
        yield what
    path.write_bytes(kept)
    yield from strange_files(path)


# --- run folders, in the report

@pytest.mark.parametrize('name', ['config.json', 'result.json', 'metrics.csv'])
def test_runs_in_the_report(made, tmp_path, name, capsys):
    "Named as damaged, or every table and figure of the report can be made of it, and prints nothing that a file outside says."
    pytest.importorskip('typst'); pytest.importorskip('pypandoc')
    from vit_course import report as R
    shutil.copytree(made/'run', tmp_path/'runs'/'run'); shutil.copytree(made/'mine'/'depth=1-seed1', tmp_path/'runs'/'other')
    path = tmp_path/'runs'/'run'/name
    cases, tried, refused, seen = [(str(o[:20]), o) for o in TABLES] if name == 'metrics.csv' else edits(path, 400), 0, 0, []
    for what in each(path, cases):
        tried += 1
        with at_most(20):
            found, wrong = R.find_runs(tmp_path/'runs')
            assert len(found) + len(wrong) >= 1 and any(r.name == 'depth=1-seed1' for r in found), what
            assert all(w.isprintable() for w in wrong), (what, wrong)
            if wrong or len(found) < 2: refused += 1; continue
            for text in (R.model_table(found), *R.experiment_tables(found), *R.appendix(found)): seen.append(text._repr_markdown_())
            R.missing([], found, None); R.best_run(found)
            if name == 'metrics.csv' or 'name' in what: R.plot_curves(found)
    assert tried > 15 and refused > tried/4
    with capsys.disabled(): print(f"\n{name}: {tried} edits, {refused} named as damaged, {tried - refused} still a run")
    text = '\n\n'.join(dict.fromkeys(seen))
    assert 'root:' not in text
    if name == 'metrics.csv' or not FULL: return
    import nbformat
    some = random.Random(0).sample(sorted(set(seen)), 60)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(t) for t in some])
    source = R.typst_source(R.scrub(R.blocks_of(R.flatten(nb)[0]), {}, tmp_path)[0])
    assert R.typeset(source, {}, 'Ada', found[0].finished)[:4] == b'%PDF'


def test_a_report_on_edited_runs(made, tmp_path, in_process):
    "The whole way: markup in every text, a path that leads out, a depth without end, and weights of another model."
    pytest.importorskip('typst'); pypdf = pytest.importorskip('pypdf'); pytest.importorskip('pypandoc')
    from vit_course.tools.commands import vit_report
    runs = tmp_path/'runs'
    def edit(run, file, **kw): p = runs/run/file; p.write_text(json.dumps(json.loads(p.read_text()) | kw))
    for run in 'abcd': shutil.copytree(made/'run', runs/run)
    evil = '#read("/etc/passwd") <script>alert(1)</script> $\\frac{ ![x](/etc/passwd) {{< include /etc/passwd >}} `#x`{=typst} \x1b[2J'
    edit('a', 'config.json', name=evil, dataset='folder', data_dir=f'../../{evil}', pretrained_dir='/etc/passwd')
    edit('a', 'result.json', device=evil, commit=evil, versions={evil: evil})
    edit('b', 'config.json', set=dict(patch_size=2, depth=10**9)); edit('c', 'config.json', name='../../c', img_size='<b>'); edit('d', 'result.json', test_accuracy=math.nan)
    status, out, err = in_process(vit_report, '--lastname', 'Ada', '--runs', 'runs')
    assert status == 0 and all(line.isprintable() for line in err.splitlines()) and 'run d is damaged' in err, err
    assert sorted(os.listdir(tmp_path)) == ['report', 'runs'] and sorted(os.listdir(tmp_path/'report')) == ['Ada_ViT.pdf', 'report.ipynb']
    text = ''.join(p.extract_text() for p in pypdf.PdfReader(tmp_path/'report'/'Ada_ViT.pdf').pages)
    assert 'root:' not in text and '<script>' in text


def test_weights_of_another_model(made, tmp_path):
    "The size of an image is not taken from a file that does not fit the weights."
    from vit_course.report import ReportError, attention_figures, read_run
    shutil.copytree(made/'run', tmp_path/'run')
    config = tmp_path/'run'/'config.json'
    config.write_text(json.dumps(json.loads(config.read_text()) | dict(img_size=[10**5, 10**5], set=dict(patch_size=2, pos_embed='none'))))
    result = tmp_path/'run'/'result.json'
    result.write_text(json.dumps(json.loads(result.read_text()) | dict(parameters=json.loads(result.read_text())['parameters'] - 17*32)))       # without position embeddings
    with pytest.raises(ReportError, match='of another model'): attention_figures(read_run(tmp_path/'run'))


# --- the same folders, in training and in studies

@pytest.mark.parametrize('name', ['config.json', 'result.json', 'metrics.csv'])
def test_runs_that_go_on(made, tmp_path, name, in_process, monkeypatch):
    "`vit_train --resume` on an edited folder: goes on, is finished, or says in one line what is wrong."
    shutil.copytree(made/'run', tmp_path/'run')
    path, tried, refused = tmp_path/'run'/name, 0, 0
    if name == 'metrics.csv': (tmp_path/'run'/'result.json').unlink()
    cases = [(str(o[:20]), o) for o in TABLES] if name == 'metrics.csv' else edits(path, 25)
    for what in each(path, cases):
        if what == 'a strange file' and (path.is_fifo() or path.exists() and path.stat().st_size > 2**30 or name == 'metrics.csv'): continue     # the output folder is our own
        tried += 1
        with at_most(60): status, out, err = in_process(vit_train, '--name', 'run', *RUN, '--output_dir', tmp_path, '--resume')
        assert status in (0, 2) and 'Traceback' not in err, what
        if status: is_one_line(err, 'vit_train: '); refused += 1
        if name != 'result.json': (tmp_path/'run'/'result.json').unlink(missing_ok=True) if name == 'metrics.csv' else None
    assert tried > 9 and (refused or name == 'metrics.csv')
    assert {p.name for p in tmp_path.iterdir()} == {'run', '.run.lock'}


@pytest.mark.parametrize('name', ['depth=1-seed1/config.json', 'depth=1-seed1/result.json', 'depth=1-seed1/metrics.csv', 'study.json'])
def test_studies_by_hand(made, tmp_path, name, capsys):
    "`results_table`, its formats and its figure: of the edited study, or a SweepError of one line."
    import matplotlib.pyplot as plt
    shutil.copytree(made/'mine', tmp_path/'mine')
    path, tried, refused = tmp_path/'mine'/name, 0, 0
    for what in each(path, [(str(o[:20]), o) for o in TABLES] if name.endswith('csv') else edits(path, 80)):
        tried += 1
        with at_most(20):
            try:
                for format in ('markdown', 'csv', 'latex'): format_table(results_table(tmp_path/'mine'), format)
                if tried % 20 == 0 or 'frac' in what: plot_results(tmp_path/'mine'); plt.gcf().savefig(tmp_path/'x.png', dpi=20); plt.close()
                collect(tmp_path/'mine')
            except SweepError as e: assert '\n' not in str(e), what; refused += 1
    assert tried > 15 and refused
    with capsys.disabled(): print(f"\n{name}: {tried} edits, {refused} refused in one line")


def test_collected_studies_by_hand(made, tmp_path, capsys):
    "The JSON file of a study: the same."
    import matplotlib.pyplot as plt
    d, path, rng, tried, refused = json.loads(json.dumps(collect(made/'mine'))), tmp_path/'study.json', random.Random(0), 0, 0
    def places(o, at=()):
        yield at
        for k, v in (o.items() if isinstance(o, dict) else enumerate(o) if isinstance(o, list) else ()): yield from places(v, (*at, k))
    path.write_text(json.dumps(d))
    cases = []
    for at in list(places(d))[1:]:
        for v in VALUES:
            new = json.loads(json.dumps(d)); inner = new
            for k in at[:-1]: inner = inner[k]
            inner[at[-1]] = v
            cases.append((at, raw(new)))
    for what in each(path, (cases if FULL else rng.sample(cases, 400)) + [(f'{o[:20]}', o) for o in FILES]):
        tried += 1
        with at_most(20):
            try:
                read_runs(path); format_table(results_table(path))
                if tried % 50 == 0: plot_results(path); plt.gcf().savefig(tmp_path/'x.png', dpi=20); plt.close()
            except SweepError as e: assert '\n' not in str(e), what; refused += 1
    assert tried > 400 and refused > 100
    with capsys.disabled(): print(f"\ncollected study: {tried} edits, {refused} refused in one line")


def test_damaged_databases(made, tmp_path, in_process, monkeypatch, capsys):
    "The SQLite file of a study: cut, with bits turned over, with rows edited, or something else. The command goes on with the runs that are there, or says in one line what to do."
    monkeypatch.setattr(S.time, 'sleep', lambda s: None); monkeypatch.setattr(S, '_exists', lambda pid: False)      # the workers in it are gone
    shutil.copytree(made/'mine', tmp_path/'mine')
    path, rng, tried, refused = tmp_path/'mine'/'study.db', random.Random(0), 0, 0
    whole = path.read_bytes()
    cases = [whole[:n] for n in (0, 1, 16, 100, 5000, len(whole)//2, len(whole) - 1)] + [b'text', b'[]', bytes(len(whole)), b'SQLite format 3\0' + bytes(1000), whole[:100] + bytes(len(whole) - 100)]
    for i in range(200 if FULL else 25):
        b = bytearray(whole)
        for _ in range(1 + i % 30): b[rng.randrange(len(b))] ^= 1 << rng.randrange(8)
        cases.append(bytes(b))
    def sql(*statements):
        path.write_bytes(whole)
        with sqlite3.connect(path) as c:
            for s in statements: c.execute(s)
        c.close()
        return path.read_bytes()
    tables = ('studies', 'study_user_attributes', 'study_directions', 'trials', 'trial_user_attributes', 'trial_values', 'trial_params', 'version_info', 'alembic_version')
    cases += [sql(f'delete from {t}') for t in tables] + [sql(f'drop table {t}') for t in tables]
    for t in ('study_user_attributes', 'trial_user_attributes'):
        cases += [sql(f"update {t} set value_json = '{v}'") for v in ('', '{', 'null', '[]', '"../../x"', '1e999', '{"a": 1}', '[' * 5000)]
    cases += [sql("update trials set state = 'NONSENSE'"), sql("update trials set state = 'RUNNING'"), sql("update trials set state = 'WAITING'"), sql("update trials set number = 10000000"), sql('update trial_values set value = 9e999'),
              sql("update study_directions set direction = 'MINIMIZE'"), sql("update version_info set schema_version = 99")]
    for content in cases:
        for f in path.parent.glob('study.db*'): f.unlink()
        path.write_bytes(content)
        tried += 1
        with at_most(60): status, out, err = in_process(vit_sweep, *SWEEP, '--output_dir', tmp_path)
        assert status in (0, 2) and 'Traceback' not in err, (tried, err)
        if status: is_one_line(err, 'vit_sweep: '); refused += 1
        else: assert out.count('| 1 | 2 |') == 1
    assert {p.name for p in tmp_path.iterdir()} == {'mine'} and refused > 10
    for f in path.parent.glob('study.db*'): f.unlink()          # what the line says to do
    results = {p: p.stat().st_mtime_ns for p in path.parent.glob('*/result.json')}
    assert in_process(vit_sweep, *SWEEP, '--output_dir', tmp_path)[0] == 0 and len(results) == 4
    assert results == {p: p.stat().st_mtime_ns for p in path.parent.glob('*/result.json')}
    with capsys.disabled(): print(f"\n{tried} damaged databases: {refused} refused in one line, {tried - refused} went on")
