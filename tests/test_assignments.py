"Chapter 13: the homework that is made of the lessons, its tests, and the code of strangers."
import ast, builtins, csv, json, os, re, shutil, socket, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from vit_course.teach import editions, sandbox
from vit_course.teach.assignments import build_assignment
from vit_course.tools.commands import vit_assign
from vit_course.teach.editions import (AssignmentError, PARTS, bound_and_used, directive,
    find_exercises, graded_names, nbgrader_source, otter_source, package_without, pieces, plain_edition,
    student_package)
from vit_course.teach.grading import (add_up, cells_of, grade_notebook, grade_submission,
    read_course, read_submission, run_test, write_grades)
from vit_course.teach.sandbox import Limits, Student, sandbox_problem

LESSONS, HIDDEN = ROOT/'nbs', ROOT/'hidden_tests'
COURSE = read_course(LESSONS, HIDDEN)
NO_SANDBOX = sandbox_problem()
in_sandbox = pytest.mark.skipif(bool(NO_SANDBOX),
                                reason=f"students' code cannot be locked in here: {NO_SANDBOX}")
SHORT = Limits(run=5, call=2, answers=6, cpu=6, memory=2**29)


def answers(name):
    "The bank of answers in tests/answers: [(right or wrong, exercise, what, code)]."
    parts = re.split(r'^# %% (.*)\n', (ROOT/'tests'/'answers'/name).read_text(encoding='utf-8'), flags=re.M)[1:]
    return [(*head.split(', ', 2), code) for head, code in zip(parts[::2], parts[1::2])]

def made(lesson, solution=False):
    parts = pieces(COURSE.lessons[lesson], COURSE.exercises[lesson])
    return plain_edition(lesson, parts, solution)

def sources(nb): return [''.join(c['source']) for c in json.loads(nb)['cells'] if c['cell_type'] == 'code']

def namespace(codes):
    space = {'__name__': 'student'}
    for code in codes: exec(code, space)
    return space

BANKS = [o for o in COURSE.exercises if (ROOT/'tests'/'answers'/f'{o}.py').exists()]


@pytest.fixture(scope='module')
def helpers():
    "What answers of a lesson may use, made once."
    import matplotlib
    matplotlib.use('Agg')
    return {lesson: namespace(sources(made(lesson, True))) for lesson in BANKS}


@pytest.fixture(scope='module')
def matrix(helpers):
    "Every answer of the bank against every hidden test of its exercise: {(lesson, kind, exercise, what): {test: error}}."
    out = {}
    for lesson in BANKS:
        for kind, exercise, what, code in answers(f'{lesson}.py'):
            space = dict(helpers[lesson])
            exec(code, space)
            out[lesson, kind, exercise, what] = {t.name: run_test(t, SimpleNamespace(**space), seed=1) for t in COURSE.tests[lesson] if t.exercise == exercise}
    return out


def test_points_are_the_homework():
    assert sum(points for _, points in PARTS.values()) == pytest.approx(5.3)
    for part, (_, points) in PARTS.items():
        mine = [e.points for o in COURSE.exercises.values() for e in o if e.part == part]
        if mine: assert sum(mine) == pytest.approx(points)


def test_every_auto_graded_exercise_of_a_tested_lesson_has_a_bank():
    assert {o for o in COURSE.exercises if any(not e.manual for e in COURSE.exercises[o])} == set(BANKS)


def test_wrong_answers_lose_points(matrix):
    wrong = {k: v for k, v in matrix.items() if k[1] == 'wrong'}
    assert len(wrong) >= 30
    for k, v in wrong.items(): assert any(v.values()), f'no test notices {k}'


def test_right_but_unusual_answers_keep_all_points(matrix):
    right = {k: v for k, v in matrix.items() if k[1] == 'right'}
    assert len(right) >= 8
    for k, v in right.items(): assert not any(v.values()), (k, v)


def test_every_hidden_test_notices_something(matrix):
    for lesson in BANKS:
        for t in COURSE.tests[lesson]:
            mine = [v for (o, kind, exercise, _), v in matrix.items() if (o, kind, exercise) == (lesson, 'wrong', t.exercise)]
            assert any(v[t.name] for v in mine), f'no wrong answer fails {t.exercise}__{t.name}'


def test_small_mistakes_keep_some_points(matrix):
    partly = [k for k, v in matrix.items() if k[1] == 'wrong' and any(v.values()) and not all(v.values())]
    assert len(partly) >= 15


def test_hidden_tests_draw_anew(helpers):
    seen = []
    student = SimpleNamespace(patchify=lambda x, p: seen.append(tuple(x.shape)) or x)
    t = next(t for t in COURSE.tests['01_patches'] if t.name == 'rectangles')
    for seed in (1, 1, 2, 3, 4): run_test(t, student, seed)
    assert seen[0] == seen[1] and len(set(seen)) > 1


@pytest.mark.parametrize('lesson', sorted(COURSE.exercises))
def test_students_edition_has_no_solution(lesson):
    text = '\n'.join(''.join(c['source']) for c in json.loads(made(lesson))['cells'])
    assert 'SOLUTION' not in text and '#|' not in text and '<!-- exercise' not in text
    taken = {i for e in COURSE.exercises[lesson] for i in e.answer}
    others = '\n'.join(s for i, (_, s) in enumerate(COURSE.lessons[lesson]) if i not in taken)
    for e in COURSE.exercises[lesson]:
        for i in e.answer:
            kind, source = COURSE.lessons[lesson][i]
            if kind == 'raw': continue
            body = source.split('# BEGIN SOLUTION')[1].split('# END SOLUTION')[0] if '# BEGIN SOLUTION' in source else \
                   source.split('"""')[-1] if source.count('"""') else source
            for line in body.splitlines():
                line = line.strip()
                if len(line) > 40 and line not in others and not line.startswith(('#', 'def ', '<!--')): assert line not in text, f'{e.id}: {line}'
    assert 'def patchify__' not in text and 'hidden' not in text


@pytest.mark.parametrize('lesson', sorted(COURSE.exercises))
def test_students_see_all_code(lesson):
    "Lessons fold their set-up cells in JupyterLab; an edition folds nothing, since its few cells are there to be read and changed."
    nb = json.loads((LESSONS/f'{lesson}.ipynb').read_text(encoding='utf-8'))
    folded = [c for c in nb['cells'] if 'jupyter' in c['metadata']]
    parts = pieces(COURSE.lessons[lesson], COURSE.exercises[lesson])
    assert folded
    for nb in (plain_edition(lesson, parts), otter_source(lesson, parts, []), nbgrader_source(lesson, parts, [])):
        assert not [c for c in json.loads(nb)['cells'] if 'jupyter' in c['metadata']]


@pytest.mark.parametrize('name', [f'{e.id}' for o in COURSE.exercises.values() for e in o if not e.manual])
def test_package_of_the_sandbox_has_no_solution(name):
    lesson, e = next((lesson, e) for lesson, o in COURSE.exercises.items() for e in o if e.id == name)
    names = graded_names(COURSE.lessons[lesson], [e])
    files = package_without(names)
    assert 'vit_course/tools/doctor.py' in files and not any('/teach/' in f for f in files)
    for f, data in files.items():
        if not f.endswith('.py'): continue
        for node in ast.parse(data).body:
            if getattr(node, 'name', None) in names: assert 'left to you' in ast.get_source_segment(data.decode(), node)


def test_what_an_exercise_hides_is_in_the_package():
    "A function of the package that got another name would be an answer that nobody hides."
    sources = [data for name, data in package_without(()).items() if name.endswith('.py')]
    nodes = [n for data in sources for n in ast.parse(data).body]
    defined = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    hidden = {(e.id, o) for found in COURSE.exercises.values() for e in found for o in e.hides}
    assert len(hidden) >= 4 and not [(id, o) for id, o in hidden if o not in defined]


def test_nbdev_takes_the_line_out():
    from nbdev.process import NBProcessor
    source = (LESSONS/'01_patches.ipynb').read_text(encoding='utf-8')
    assert source.count('#| exercise id=') == 3
    cells = NBProcessor(LESSONS/'01_patches.ipynb').nb.cells # as the documentation sees them
    assert not [c for c in cells if 'exercise id=' in c.source and c.cell_type == 'code']
    for p in (ROOT/'vit_course').rglob('*.py'):
        assert 'exercise id=' not in p.read_text(encoding='utf-8')


@pytest.mark.parametrize('line, complaint', [
    ('id=a', 'needs id'), ('id=a part=9 points=1 minutes=1 difficulty=1', 'unknown part'), ('id=A part=2 points=1 minutes=1 difficulty=1', 'no name'),
    ('id=a part=2 points=-1 minutes=1 difficulty=1', 'no points'), ('id=a part=2 points=1 minutes=x difficulty=1', 'invalid literal')])
def test_bad_line(line, complaint):
    with pytest.raises(AssignmentError, match=complaint): directive(f'#| exercise {line}', 'cell 1')


def test_heading_and_line_must_agree():
    line = '#| exercise id=a part=2 points=1 minutes=10 difficulty=2\ndef f(): pass'
    for heading in ('### Exercise 1.1 · f  (★☆☆ · 10 min)', '### Exercise 1.1 · f  (★★☆ · 20 min)'):
        with pytest.raises(AssignmentError, match='other stars or minutes'): find_exercises([('markdown', heading), ('code', line)])
    with pytest.raises(AssignmentError, match='no heading'): find_exercises([('markdown', '## f'), ('code', line)])


def test_what_is_sent_to_the_sandbox_is_complete():
    """It is run as a program: whatever its functions use is in it, or built in. No part of the
    package can be imported there."""
    bound, used = bound_and_used(sandbox._PROGRAM)
    assert {'serve', '_host', 'receive', 'unpack', '_enter_sandbox'} <= bound
    assert used - bound <= set(vars(builtins)), used - bound - set(vars(builtins))
    assert 'vit_course' not in sandbox._PROGRAM
    for name in ('_memory_held', '_obey'):   # the test can fail: one function less is noticed
        less = sandbox._PROGRAM.replace(f'def {name}(', 'def other(')
        bound, used = bound_and_used(less)
        assert name in used - bound


# --- the code of strangers -------------------------------------------------------------------------------------------

@in_sandbox
@pytest.mark.parametrize('lesson', sorted(BANKS))
def test_perfect_and_empty(lesson):
    taken = package_without(graded_names(COURSE.lessons[lesson], COURSE.exercises[lesson]))
    results, errors = grade_notebook(sources(made(lesson, True)), COURSE.tests[lesson], taken, seed=3)
    assert not errors and not any(error for _, error in results), (errors, results)
    results, errors = grade_notebook(sources(made(lesson)), COURSE.tests[lesson], taken, seed=3)
    assert all(error for _, error in results) and errors


HOSTILE = re.split(r'^# %% (.*)\n', (ROOT/'tests'/'answers'/'hostile.py').read_text(encoding='utf-8'), flags=re.M)[1:]

@in_sandbox
@pytest.mark.parametrize('what, code', list(zip(HOSTILE[::2], HOSTILE[1::2])), ids=HOSTILE[::2])
def test_hostile(what, code, tmp_path, monkeypatch):
    hidden = tmp_path/'hidden_tests'/'01_patches.py'
    hidden.parent.mkdir(); shutil.copy(HIDDEN/'01_patches.py', hidden)
    before, test = hidden.read_text(), COURSE.tests['01_patches'][0]
    with socket.create_server(('127.0.0.1', 0)) as server:
        server.settimeout(.01)
        for name, value in (('FOLDER', tmp_path), ('PORT', server.getsockname()[1]), ('HIDDEN', hidden)):
            code = code.replace(name, str(value))
        printed, end = [], Student.close
        monkeypatch.setattr(Student, 'close', lambda s: (printed.append(s._tail), end(s))) # what it printed last
        start = time.monotonic()
        (_, error), = grade_notebook([code], [test], package_without({'patchify'}), seed=5, limits=SHORT, hide=[tmp_path])[0]
        assert time.monotonic() - start < 30
        with pytest.raises(TimeoutError): server.accept()
    assert error
    assert hidden.read_text() == before and not (tmp_path/'harm').exists()
    assert not any(word in b''.join(printed) for word in (b'FOUND', b'ESCAPED'))
    assert strangers() == []
    assert not list(Path('/tmp').glob('vit_assign_*/work'))

def strangers():
    """Processes of students that outlived their sandbox: below our host, or below nobody.
    (Other tests may run beside this one.)"""
    for _ in range(50):
        out, parent, host = [], {}, Student._host[0].pid
        for p in Path('/proc').glob('[0-9]*'):
            try: parent[int(p.name)] = int((p/'stat').read_text().rpartition(')')[2].split()[1]), p.stat().st_uid
            except OSError: pass
        out = [p for p, (above, uid) in parent.items() if above == host or (above == 1 and 400_000 <= uid < 500_000)]
        if not out: return out
        time.sleep(.1)
    return out


@in_sandbox
def test_a_crash_costs_one_exercise_only():
    code = sources(made('01_patches', True)) + ['import os\ndef unpatchify(*a, **k): os._exit(1)']
    tests = [t for t in COURSE.tests['01_patches'] if t.name in ('square', 'one_image', 'flat_patches')]
    results, _ = grade_notebook(code, tests)
    assert {f'{t.exercise} {t.name}': bool(error) for t, error in results} == {
        'patchify one_image': False, 'patchify flat_patches': False, 'unpatchify square': True, 'patch_embed square': False}


@in_sandbox
def test_nothing_is_left_open(tmp_path):
    code = """import os, stat
def kinds(): return sorted(os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{n}'))
def rights(): return [l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapPrm', 'NoNewPrivs'))]
def writable(): return [p for p in ('/', '/usr', '/etc', '/proc/sys/kernel', '/dev', os.path.dirname(os.__file__)) if os.access(p, os.W_OK)]
def environment(): return dict(os.environ)
"""
    os.environ['SECRET_OF_THE_GRADER'] = 'x'
    with Student() as s:
        s._ask('run', [code])
        kinds, rights, writable, environment = s.kinds(), s.rights(), s.writable(), s.environment()
    del os.environ['SECRET_OF_THE_GRADER']
    assert set(kinds) <= {'pipe', '/dev/null', '/proc/1/fd', '/proc/self/fd', '/dev/urandom'}, kinds
    assert rights == ['0000000000000000', '0000000000000000', '1'] and set(writable) <= {'/'}
    assert 'SECRET_OF_THE_GRADER' not in environment and str(ROOT) not in str(environment)


@in_sandbox
def test_magic_display_and_plots_are_no_error():
    code = ['%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()', '%%time\na = 1', '!ls', 'a', 'f"{a}"\nimport torch']
    tests = [t for t in COURSE.tests['01_patches'] if t.name == 'one_image']
    _, errors = grade_notebook(code, tests)
    assert errors == []


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='macOS and Windows do not limit memory')
def test_without_a_sandbox_the_limits_hold():
    tests = [t for t in COURSE.tests['01_patches'] if t.name in ('one_image', 'rectangles')]
    for code in ('def patchify(x, p):\n    while True: pass', 'import torch\ndef patchify(x, p): return torch.ones(2**33)',
                 'def patchify(x, p):\n    while True: print("a"*1000)'):
        start = time.monotonic()
        limits = Limits(run=60, call=3, memory=2**30)
        results, _ = grade_notebook([code], tests[:1], sandbox=False, limits=limits)
        assert results[0][1] and time.monotonic() - start < 40, results


# --- files of strangers ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('data', [b'', b'{', b'[]', b'{"cells": 3}', b'{"cells": [3]}', b'{"cells": [{"cell_type": "code"}]}', b'\xff\xfe', b'[' * 10**6,
                                  b'{"cells": [{"cell_type": "code", "source": [1, 2]}]}', b'{"cells": [{"cell_type": "code", "source": null}]}',
                                  json.dumps(dict(cells=[dict(cell_type='code', source='')]*1001)).encode()])
def test_odd_notebooks_are_one_line(data):
    with pytest.raises(AssignmentError) as e: cells_of(data, 'x.ipynb')
    assert '\n' not in str(e.value)


@pytest.mark.skipif(sys.platform == 'win32', reason='links need rights on Windows')
def test_links_are_not_followed(tmp_path):
    (tmp_path/'secret').mkdir(); (tmp_path/'secret'/'a.txt').write_text('solution')
    mine = tmp_path/'mine'; mine.mkdir()
    (mine/'own.txt').write_text('mine'); (mine/'link.txt').symlink_to(tmp_path/'secret'/'a.txt'); (mine/'folder').symlink_to(tmp_path/'secret')
    (mine/'01_patches.ipynb').symlink_to(HIDDEN/'01_patches.py'); os.mkfifo(mine/'pipe')
    assert read_submission(mine) == {'own.txt': b'mine'}
    with open(mine/'large', 'wb') as f: f.truncate(2**27)
    with pytest.raises(AssignmentError, match='too large'): read_submission(mine)


@in_sandbox
def test_grade_from_the_command_line(capsys, tmp_path):
    def command(*args):
        status = vit_assign([str(o) for o in args])
        return status, *capsys.readouterr()
    folder = tmp_path/'in'
    def hand_in(who, **files):
        for name, data in files.items(): (folder/who).mkdir(parents=True, exist_ok=True); (folder/who/f'{name}.ipynb').write_text(data, encoding='utf-8')
    one = {'01_patches': made('01_patches', True)}
    half = json.loads(one['01_patches'])
    for c in half['cells']:
        if 'def unpatchify' in ''.join(c['source']): c['source'] = answer('unpatchify', 'square grid guessed from the number')
    hand_in('ada', **one); hand_in('ben', **{'01_patches': json.dumps(half)}); hand_in('=cy()', **{'01_patches': '{'})
    (folder/'dan').mkdir()
    status, out, err = command('grade', folder, '--out', tmp_path/'out', '--lessons', LESSONS, '--tests', HIDDEN, '--seed', 1)
    assert status == 0, err
    rows = {r['student']: r for r in csv.DictReader(open(tmp_path/'out'/'grades.csv', encoding='utf-8'))}
    assert list(rows) == ["'=cy()", 'ada', 'ben', 'dan']
    assert [float(rows['ada'][k]) for k in ('patchify', 'unpatchify', 'patch_embed')] == [.5, .25, .25]
    assert 0 < float(rows['ben']['unpatchify']) < .25 and float(rows['ben']['patchify']) == .5
    assert float(rows['dan']['points']) == float(rows["'=cy()"]['points']) == 0
    text = (tmp_path/'out'/'ben'/'feedback.md').read_text(encoding='utf-8')
    assert 'not yet: A grid (h, w) that is not square' in text and 'Mismatched' not in text and 'assert_close' not in text
    assert 'divides the number of tokens' in (tmp_path/'out'/'ada'/'answers.md').read_text(encoding='utf-8')
    # a person reads, fills in and grades again
    rows = list(csv.DictReader(open(tmp_path/'out'/'to_read.csv', encoding='utf-8')))
    for r in rows:
        if r['student'] == 'ada': r['points'] = r['of']
    with open(tmp_path/'read.csv', 'w', newline='', encoding='utf-8') as f:
        w = csv.DictWriter(f, rows[0]); w.writeheader(); w.writerows(rows)
    args = ('grade', folder, '--lessons', LESSONS, '--tests', HIDDEN, '--manual', tmp_path/'read.csv')
    status, out, err = command(*args, '--out', tmp_path/'out2', '--seed', 1)
    again = {r['student']: r for r in csv.DictReader(open(tmp_path/'out2'/'grades.csv', encoding='utf-8'))}
    assert float(again['ada']['points']) > 1 and float(again['ada']['open']) == 0 and float(again['ben']['open']) > 0
    (tmp_path/'read.csv').write_text('student,exercise,points\nada,why_patches,7\n')
    status, out, err = command(*args, '--out', tmp_path/'out3')
    assert status == 2 and 'cannot have 7 points' in err and not (tmp_path/'out3').exists()

def answer(exercise, what): return next(code for _, e, w, code in answers('01_patches.py') if (e, w) == (exercise, what))


GRADE = 'grade', 'empty', '--out', 'x', '--lessons', LESSONS, '--tests', HIDDEN

@pytest.mark.parametrize('args, complaint', [
    ((), 'required'), (('build',), '--out'), (('build', '--out', 'x', '--lessons', 'nowhere'), 'no exercises'), (('grade', '--out', 'x'), 'submissions'),
    (('build', '--out', '.'), 'exists'), ((*GRADE, '--no_sandbox', '--jobs', '0'), 'at least 1'),
    (('build', '--out', 'a/b/c', '--lessons', LESSONS), 'is no folder'),
    (('build', '--out', 'x', '--edition', 'word'), 'invalid choice'), (('grade', 'empty', '--out', 'x', '--limit', 'time=3'), 'is no limit'),
    (('grade', 'empty', '--out', 'x', '--lessons', LESSONS, '--tests', 'nowhere'), 'has no hidden test'),
    (('build', '--out', 'x', '--lessons', LESSONS, '--tests', 'nowhere', '--edition', 'otter'), 'has no hidden test'),
    ((*GRADE, '--no_sandbox'), 'no folders'),
    ((*GRADE, '--no_jail'), 'no folders')])   # its name in 0.1.0
def test_bad_arguments_are_one_line(command, tmp_path, args, complaint):
    (tmp_path/'empty').mkdir()
    status, out, err = command('vit_assign', *args)
    lines = [l for l in err.splitlines() if 'no sandbox:' not in l]
    assert status == 2 and len(lines) == 1 and complaint in lines[0], err
    assert sorted(o.name for o in tmp_path.iterdir()) == ['empty']


# --- round trips: lesson, edition, solved and empty, points ----------------------------------------------------------

def small(tmp_path):
    "A course of one lesson without torch, so that the other graders take seconds: a function, a class, and a question."
    def heading(kind, name): return ('markdown', f'### {kind} 1.1 · {name}  (★☆☆ · 5 min)\n\nDo it.')
    line = 'part=heads points=0.1 minutes=5 difficulty=1'
    begin, end = ('raw', '# BEGIN SOLUTION'), ('raw', '# END SOLUTION')
    cells = [('markdown', '# A lesson'), ('code', 'factor = 2\nunused = 3'), ('code', 'print(unused)'), heading('Exercise', 'double'), begin,
             ('code', f'#| exports\n#| exercise id=double {line}\ndef double(x):\n    "Twice."\n    return factor*x # the secret'), end,
             ('code', 'assert double(2) == 4'), heading('Exercise', 'Counter'),
             ('code', f'#| exercise id=counter {line}\nclass Counter:\n    # BEGIN SOLUTION\n    def __init__(self): self.n = 0\n'
                      '    def up(self): self.n += 1; return self.n # the secret\n    # END SOLUTION'), heading('Question', 'Why?'), begin,
             ('markdown', '<!-- exercise id=why part=own points=0.1 minutes=5 difficulty=1 -->\nBecause of the secret.'), end]
    nb = dict(nbformat=4, nbformat_minor=5, metadata={}, cells=[
        dict(cell_type=kind, id=f'c{i}', metadata={}, source=source) | (dict(outputs=[], execution_count=None) if kind == 'code' else {})
        for i, (kind, source) in enumerate(cells)])
    (tmp_path/'nbs').mkdir(); (tmp_path/'tests').mkdir()
    (tmp_path/'nbs'/'lesson.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    (tmp_path/'tests'/'lesson.py').write_text("""import random
def same(a, b): assert a == b, 'not hidden_reference'

def double__number(student):
    'Any "number": twice it.'
    x = random.random()
    same(student.double(x), x + x)

def double__text(student):
    "A text twice."
    same(student.double('ab'), 'abab')

def counter__counts(student):
    "One, two, three."
    c = student.Counter()
    same([c.up() for _ in range(3)], [1, 2, 3])
""", encoding='utf-8')
    return tmp_path/'nbs', tmp_path/'tests'

def clean(text):
    for word in ('permute(0, 2, 4, 1, 3, 5)', 'the secret', 'BEGIN SOLUTION', 'HIDDEN TESTS', 'hidden_reference', 'def cut(', 'hidden_test('):
        assert word not in text, word


def test_plain_round_trip(tmp_path):
    build_assignment(LESSONS, tmp_path/'out')
    files = {p.name for p in (tmp_path/'out').iterdir()}
    assert files == {f'{o}.ipynb' for o in COURSE.exercises} | {'vit_course'}
    for p in (tmp_path/'out').rglob('*.*'): clean(p.read_text(encoding='utf-8', errors='replace'))       # weights are no text
    if NO_SANDBOX: return
    (tmp_path/'in'/'ada').mkdir(parents=True)
    shutil.copy(tmp_path/'out'/'01_patches.ipynb', tmp_path/'in'/'ada')
    r = grade_submission(tmp_path/'in'/'ada', COURSE, seed=0)
    assert r['points'] == 0 and r['answers']['why_patches'] == ''
    (tmp_path/'in'/'ada'/'01_patches.ipynb').write_text(made('01_patches', True), encoding='utf-8')
    one = SimpleNamespace(**{k: {'01_patches': v['01_patches']} for k, v in vars(COURSE).items() if k != 'folders'})
    r = grade_submission(tmp_path/'in'/'ada', one, seed=0)
    assert r['points'] == pytest.approx(1.) and r['open'] == pytest.approx(.25) and not r['notes']


def test_the_package_beside_the_plain_edition(tmp_path):
    "It trains nobody's answers but the student's: with stubs it names the exercise, solved it works, damaged it says so."
    build_assignment(LESSONS, tmp_path/'out')
    questions = """import torch
from vit_course.attention_maps import rollout
from vit_course.experiments import paired_interval
from vit_course.vit import create_vit
for f in (lambda: create_vit('testing')(torch.zeros(1, 3, 16, 16)).shape[0], lambda: round(paired_interval([3., 5., 7.], [1., 2., 3.])[1], 3),
          lambda: rollout(torch.ones(1, 1, 1, 2, 2))):
    try: print(f())
    except NotImplementedError as e: print(e)"""
    def ask():
        env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | dict(OMP_NUM_THREADS='1')
        done = subprocess.run([sys.executable, '-c', questions], cwd=tmp_path/'out', env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
    vit, interval, rollout = ask()
    assert vit.startswith('1.1 PatchEmbed') and interval.startswith('1.2 ') and rollout == 'left to you'
    for lesson in COURSE.exercises: (tmp_path/'out'/f'{lesson}.ipynb').write_text(made(lesson, True), encoding='utf-8')
    assert ask() == ['1', '0.516', 'left to you']
    (tmp_path/'out'/'01_patches.ipynb').unlink()
    assert ask()[0].startswith('PatchEmbed is an exercise: 01_patches.ipynb')


def in_folder(folder, code):
    "Run code as a student does, who has started Python in a folder."
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    return subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True,
                          env=env | dict(OMP_NUM_THREADS='1', MPLBACKEND='Agg'))

def test_the_whole_package_of_students_can_be_imported(tmp_path):
    """With all stubs in place: each module, in folders too, and what lesson 0 takes from a tool.
    The instructor's modules are not there."""
    build_assignment(LESSONS, tmp_path/'out')
    folder = tmp_path/'out'/'vit_course'
    files = [p.relative_to(tmp_path/'out') for p in sorted(folder.rglob('[a-z]*.py'))]
    modules = ['.'.join(p.with_suffix('').parts) for p in files]
    assert 'vit_course.tools.doctor' in modules and not (folder/'teach').exists()
    code = f"""import importlib
for m in {modules}: print(importlib.import_module(m).__file__)
from vit_course.tools.doctor import Check
print(Check('pictures', 'FAIL', 'cat is empty', 'ls -R pictures'))"""
    done = in_folder(tmp_path/'out', code)
    assert done.returncode == 0, done.stderr
    *files, check = done.stdout.splitlines()
    assert all(f.startswith(str(folder)) for f in files)
    assert check.split() == 'FAIL pictures cat is empty --> ls -R pictures'.split()


def test_answers_in_folders_of_the_package(tmp_path, monkeypatch):
    "An exercise's function, and one that would answer it, may lie in any module, however deep."
    root = tmp_path/'original'/'vit_course'
    (root/'tools'/'deep').mkdir(parents=True); (root/'teach').mkdir()
    for name in ('__init__.py', 'tools/__init__.py', 'tools/deep/__init__.py'): (root/name).touch()
    twice = 'def double(x):\n    "Twice."\n    return 2*x # the secret\n'
    for name in ('flat.py', 'tools/one.py', 'tools/deep/two.py', 'teach/three.py'):
        (root/name).write_text(twice)
    twofold = twice.replace('double', 'twofold')
    (root/'tools'/'other.py').write_text(f'from .one import double\n{twofold}')
    monkeypatch.setattr(editions, 'package_folder', lambda: root)
    line = '#| exercise id=double part=heads points=0.1 minutes=5 difficulty=1 hides=twofold'
    heading = '### Exercise 1.1 · double  (★☆☆ · 5 min)'
    cells = [('markdown', heading), ('code', f'{line}\n{twice}')]
    lessons = {'lesson': (cells, find_exercises(cells, 'lesson'))}
    files = student_package(lessons)
    assert not any('teach' in name or b'the secret' in data for name, data in files.items())
    emptied = package_without(graded_names(*lessons['lesson']))
    assert not any(b'the secret' in data for data in emptied.values())
    nb = dict(cells=[dict(cell_type='code', source=['def double(x): return [x, x]'])])
    for name, data in (files | {'lesson.ipynb': json.dumps(nb).encode()}).items():
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True); (tmp_path/name).write_bytes(data)
    code = """from vit_course import flat
from vit_course.tools import one, other
from vit_course.tools.deep import two
print(*[m.double(3) for m in (flat, one, two, other)])
try: other.twofold(3)
except NotImplementedError as e: print(e)"""
    done = in_folder(tmp_path, code)
    assert done.stdout.splitlines() == ['[3, 3] [3, 3] [3, 3] [3, 3]', 'left to you'], done.stderr


def test_everything_right_is_five_points_and_the_bonus(tmp_path):
    if NO_SANDBOX: pytest.skip(NO_SANDBOX)
    (tmp_path/'ada').mkdir()
    for lesson in COURSE.exercises: (tmp_path/'ada'/f'{lesson}.ipynb').write_text(made(lesson, True), encoding='utf-8')
    r = grade_submission(tmp_path/'ada', COURSE, seed=0)
    read = {e.id: e.points for o in COURSE.exercises.values() for e in o if e.manual}
    assert not r['notes'] and r['open'] == pytest.approx(sum(read.values())) and r['points'] == pytest.approx(5.3 - r['open'])
    assert all(r['answers'].values())
    assert add_up(r, read)['points'] == pytest.approx(5.3) and r['open'] == 0


def test_grading_goes_on(tmp_path):
    "Stopped in the middle, started again, handed in again, and in parallel: everybody is graded once, and nothing is lost."
    lessons, tests = small(tmp_path)
    course, folder, out = read_course(lessons, tests), tmp_path/'in', tmp_path/'out'
    def hand_in(who, body): (folder/who).mkdir(parents=True, exist_ok=True); (folder/who/'lesson.ipynb').write_text(json.dumps(dict(cells=[dict(cell_type='code', source=body)])))
    for who in ('ada', 'ben', 'cyd'): hand_in(who, 'def double(x): return 2*x')
    grading = write_grades(folder, out, course, sandbox=not NO_SANDBOX)
    assert next(grading)['student'] == 'ada'; grading.close()                                  # stopped
    assert not (out/'ben'/'report.json').exists() and len((out/'grades.csv').read_text().splitlines()) == 2
    seed = json.loads((out/'grading.json').read_text())['seed']
    rest = write_grades(folder, out, course, sandbox=not NO_SANDBOX)
    assert [r['student'] for r in rest] == ['ben', 'cyd']
    (out/'cyd'/'report.json').write_text('{')                                                  # as if the disk had been full
    hand_in('ben', 'def double(x): return 3*x')
    (out/'to_read.csv').write_text('student,exercise,of,points\nada,why,0.1,0.05\n')
    again = write_grades(folder, out, course, jobs=2, sandbox=not NO_SANDBOX)
    graded = {r['student']: r for r in again}
    assert sorted(graded) == ['ben', 'cyd'] and {r['seed'] for r in graded.values()} == {seed}
    rows = {r['student']: r for r in csv.DictReader(open(out/'grades.csv', encoding='utf-8'))}
    assert [float(rows[o]['double']) for o in ('ada', 'ben', 'cyd')] == [.1, 0, .1] and float(rows['ada']['why']) == .05
    assert 'ada,why,0.1,0.05' in (out/'to_read.csv').read_text()
    for wrong, complaint in [(lambda: list(write_grades(folder, out, course, seed + 1)), 'was graded with --seed'),
                             (lambda: list(write_grades(folder, folder, course)), 'no grading to go on with')]:
        with pytest.raises(AssignmentError, match=complaint): wrong()
    with open(tests/'lesson.py', 'a') as f: f.write('\n\ndef double__zero(student):\n    "Zero."\n    assert student.double(0) == 0\n')
    with pytest.raises(AssignmentError, match='other tests'): list(write_grades(folder, out, read_course(lessons, tests)))


def test_otter_round_trip(tmp_path):
    pytest.importorskip('otter', reason='otter-grader is not installed')
    lessons, tests = small(tmp_path)
    build_assignment(lessons, tmp_path/'out', 'otter', tests)
    student, = (tmp_path/'out'/'student').rglob('*.ipynb')
    clean(student.read_text(encoding='utf-8'))
    solved, = (tmp_path/'out'/'autograder').rglob('*.ipynb')
    grader, = (tmp_path/'out'/'autograder').rglob('*.zip')
    code = """import json, sys
from otter.api import grade_submission
results = [grade_submission(notebook, sys.argv[1], quiet=True) for notebook in sys.argv[2:]]
print(json.dumps([{k: r.get_score(k) for k in ('double', 'counter')} for r in results]))"""
    p = subprocess.run([sys.executable, '-c', code, grader, solved, student], cwd=tmp_path, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    got = json.loads(p.stdout.splitlines()[-1])
    assert got[0] == pytest.approx(dict(double=.1, counter=.1)) and got[1] == dict(double=0, counter=0), got


def test_nbgrader_round_trip(tmp_path):
    pytest.importorskip('nbgrader', reason='nbgrader is not installed')
    lessons, tests = small(tmp_path)
    course = tmp_path/'out'
    build_assignment(lessons, course, 'nbgrader', tests)
    release = course/'release'/'lesson'/'lesson.ipynb'
    clean(release.read_text(encoding='utf-8'))
    for who, notebook in (('solved', course/'source'/'lesson'/'lesson.ipynb'), ('empty', release)):
        (course/'submitted'/who/'lesson').mkdir(parents=True)
        shutil.copy(notebook, course/'submitted'/who/'lesson')
    for args in (('autograde', 'lesson'), ('export',)):
        p = subprocess.run([sys.executable, '-m', 'nbgrader', *args], cwd=course, capture_output=True, text=True)
        assert p.returncode == 0, p.stderr
    rows = {r['student_id']: r for r in csv.DictReader(open(course/'grades.csv'))}
    assert float(rows['solved']['score']) == pytest.approx(.2) and float(rows['empty']['score']) == 0
    assert float(rows['solved']['max_score']) == pytest.approx(.3)
