"Submissions as students and course platforms hand them over, and the same points from every grader."
import csv, json, os, re, shutil, subprocess, sys, zipfile
from types import SimpleNamespace

import pytest
from conftest import ROOT
from test_assignments import (BANKS, COURSE, HIDDEN, LESSONS, NO_SANDBOX, SHORT, answers, helpers, in_sandbox, made,
    matrix, small)    # `helpers` and `matrix` are fixtures
from vit_course.teach.assignments import build_assignment
from vit_course.teach.editions import solved
from vit_course.teach.grading import Course, feedback, find_submissions, grade_submission, read_course, score
from vit_course.tools.commands import vit_assign

ONE = Course(*({'01_patches': o['01_patches']} for o in (COURSE.lessons, COURSE.exercises, COURSE.tests)))
FULL = os.environ.get('VIT_COURSE_RELIABILITY') == 'full'
AUTO = ('patchify', 'unpatchify', 'patch_embed')


@pytest.fixture
def course(tmp_path):
    "A course of one lesson, whose notebooks run in no time; and what a perfect student hands in."
    from vit_course.teach.editions import pieces, plain_edition
    course = read_course(*small(tmp_path))
    parts = pieces(course.lessons['lesson'], course.exercises['lesson'])
    course.good, course.empty = (plain_edition('lesson', parts, solution) for solution in (True, False))
    return course


def graded(folder, course, **kw): return grade_submission(folder, course, 1, sandbox=not NO_SANDBOX, **kw)
def hand_in(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items(): (folder/name).write_text(data, encoding='utf-8')
    return folder
def with_cell(nb, code, place=10**6):
    nb = json.loads(nb)
    nb['cells'].insert(place, dict(cell_type='code', id='mine', metadata={}, source=code, outputs=[], execution_count=None))
    return json.dumps(nb)


# --------------------------------------------------------------- cells that do not end well

BAD_CELLS = {'endless': 'while True: pass', 'sleeps': 'import time; time.sleep(1000)', 'prints': 'print("x"*1300000)', 'prints without end': 'while True: print("x"*1000)',
             'catches everything': 'while True:\n    try:\n        while True: pass\n    except BaseException: pass', 'ends the process': 'import os; os._exit(0)',
             'takes all memory': 'x = bytearray(2**40)'}


@pytest.mark.parametrize('what', BAD_CELLS)
@pytest.mark.parametrize('place', [2, 10**6])
@in_sandbox
def test_a_cell_that_has_to_be_stopped(tmp_path, course, what, place):
    "A training loop, a progress bar or a print left at the end of the notebook, or in its middle."
    report = graded(hand_in(tmp_path/'ada', **{'lesson.ipynb': with_cell(course.good, BAD_CELLS[what], place)}), course, limits=SHORT)
    assert report['points'] == pytest.approx(.2)
    said, = report['notes']
    assert ('was stopped' in said or what == 'takes all memory') and 'code cell' in said and f'> {said}' in feedback(report)


@in_sandbox
def test_many_such_cells(tmp_path, course):
    "After three of them, what is defined above the first counts."
    nb = course.good
    for _ in range(5): nb = with_cell(nb, 'import os; os._exit(0)')
    report = graded(hand_in(tmp_path/'ada', **{'lesson.ipynb': nb}), course, limits=SHORT)
    assert report['points'] == pytest.approx(.2) and len(report['notes']) == 3
    report = graded(hand_in(tmp_path/'ben', **{'lesson.ipynb': with_cell(nb, 'while True: pass', 0)}), course, limits=SHORT)
    assert report['points'] == 0


@in_sandbox
def test_the_console_says_it(tmp_path, course, capsys):
    hand_in(tmp_path/'in'/'ada', **{'lesson.ipynb': with_cell(course.good, 'while True: pass')})
    assert vit_assign(['grade', str(tmp_path/'in'), '--out', str(tmp_path/'out'), '--lessons', str(tmp_path/'nbs'), '--tests', str(tmp_path/'tests'), '--limit', 'run=3']) == 0
    assert 'was stopped, and is left out: it took too long' in capsys.readouterr().out
    assert 'was stopped' in (tmp_path/'out'/'ada'/'feedback.md').read_text(encoding='utf-8')


# ---------------------------------------------------------------- notebooks by other names

@pytest.mark.parametrize('name', ['lesson (1).ipynb', 'lesson-Copy1.ipynb', 'Lesson.ipynb', 'ada_lesson_final.ipynb', 'Untitled.ipynb', 'homework/lesson.ipynb', 'a/b/c d.ipynb'])
def test_a_notebook_by_another_name(tmp_path, course, name):
    "Browsers number downloads, Jupyter copies, platforms put the student's name in front."
    hand_in((tmp_path/'ada'/name).parent, **{os.path.basename(name): course.good})
    hand_in(tmp_path/'ada'/'.ipynb_checkpoints', **{'lesson-checkpoint.ipynb': course.empty})
    hand_in(tmp_path/'ada'/'__MACOSX', **{'._lesson.ipynb': 'x'})
    report = graded(tmp_path/'ada', course)
    assert report['points'] == pytest.approx(.2) and report['answers']['why'] and report['notes'] == [f'lesson: {name} is graded, by what is in it']


@pytest.mark.parametrize('newer', ['lesson.ipynb', 'lesson (1).ipynb'])
def test_of_two_notebooks_the_newer(tmp_path, course, newer):
    folder = hand_in(tmp_path/'ada', **{n: course.good if n == newer else course.empty for n in ('lesson.ipynb', 'lesson (1).ipynb')})
    for p in folder.iterdir(): os.utime(p, (1e9, 1e9 + (p.name == newer)))
    report = graded(folder, course)
    assert report['points'] == pytest.approx(.2) and report['notes'][0].startswith(f'lesson: {newer} is graded, the newest of ')


def test_nothing_that_fits(tmp_path, course):
    "What lies there instead is named: an archive, a PDF, a notebook of something else."
    other = json.dumps(dict(cells=[dict(cell_type='code', source='def triple(x): return 3*x')]))
    report = graded(hand_in(tmp_path/'ada', **{'work.zip': 'PK', 'mine.ipynb': other}), course)
    assert report['points'] == 0 and report['notes'] == ['lesson.ipynb was not handed in; there is mine.ipynb, work.zip']
    assert graded(hand_in(tmp_path/'ben', **{'lesson.ipynb': '{'}), course)['notes'] == ['lesson.ipynb is not a notebook']
    hand_in(tmp_path/'cyd', **{'lesson.ipynb': '{', 'lesson (1).ipynb': course.good})
    assert graded(tmp_path/'cyd', course)['points'] == pytest.approx(.2)


def test_lessons_are_told_apart():
    from vit_course.teach.grading import _lesson_of
    for lesson in COURSE.lessons:
        for solution in (True, False): assert _lesson_of(made(lesson, solution).encode(), COURSE) == lesson
    assert _lesson_of(b'{', COURSE) is None


# -------------------------------------------------------- as editors and students leave them

@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-8'])
def test_notebooks_as_editors_save_them(tmp_path, course, encoding):
    "Windows' editors put a mark in front, or write UTF-16."
    (tmp_path/'ada').mkdir()
    (tmp_path/'ada'/'lesson.ipynb').write_bytes(course.good.replace('\n', '\r\n').encode(encoding))
    assert graded(tmp_path/'ada', course)['points'] == pytest.approx(.2)


PLACE = '<!-- answer why -->\n*Your answer here.*'
WRITTEN = [(['<!-- answer why -->\nIt is so.'], 'It is so.'), ([PLACE, 'It is so.'], 'It is so.'), ([PLACE, 'It', ('code', '1 + 1'), 'is so.'], 'It\n\nis so.'), ([PLACE], ''),
           (['It is so.'], 'It is so.'), (['\n<!-- answer why -->\nIt is so.'], 'It is so.'), ([PLACE + '\n\nIt is so.'], 'It is so.'), (['<!-- answer why -->\nIt', '## is', 'so.'], 'It\n\n## is\n\nso.')]


@pytest.mark.parametrize('given, want', WRITTEN)
def test_answers_in_words(tmp_path, course, given, want):
    "Below the place for it, in cells of their own, with the mark gone: none is lost."
    nb = json.loads(course.empty)
    k = next(i for i, c in enumerate(nb['cells']) if ''.join(c['source']) == PLACE)
    nb['cells'][k:k + 1] = [dict(zip(('cell_type', 'source'), o if isinstance(o, tuple) else ('markdown', o)), metadata={}) for o in given]
    report = graded(hand_in(tmp_path/'ada', **{'lesson.ipynb': json.dumps(nb)}), course)
    assert report['answers'] == dict(why=want)


@pytest.mark.parametrize('lesson', sorted(COURSE.exercises))
def test_empty_editions_have_no_answers_in_words(lesson):
    from vit_course.teach.grading import _written, cells_of
    for solution in (False, True):
        cells = cells_of(made(lesson, solution).encode(), lesson)
        got = [_written(cells, e, COURSE.lessons[lesson]) for e in COURSE.exercises[lesson] if e.manual]
        assert all(map(bool, got)) if solution else not any(got), got
        assert not any(PLACE[:11] in text for text in got)


# ------------------------------------------------------------- what lies beside submissions

def test_loose_files(tmp_path, course, capsys):
    "What platforms and macOS put beside submissions; notebooks that come without folders."
    folder = tmp_path/'in'
    hand_in(folder/'ada', **{'lesson.ipynb': course.good}); hand_in(folder/'__MACOSX'/'ada', **{'._lesson.ipynb': 'x'}); hand_in(folder/'.git', config='')
    hand_in(folder, **{'Ben Li_123_assignsubmission_file_lesson.ipynb': course.good, 'cyd_lesson-Copy1.ipynb': course.good, 'dan_lesson (2).ipynb': course.empty, 'eve.ipynb': course.good,
                       'lesson.ipynb': course.good, 'ada_lesson.ipynb': course.empty, 'grades.csv': '', 'fay.zip': 'PK', 'notes.ipynb': '{"cells": []}', '.DS_Store': ''})
    folders, loose, left = find_submissions(folder, course)
    assert [f.name for f in folders] == ['ada'] and sorted(loose) == ['Ben Li_123_assignsubmission_file', 'cyd', 'dan', 'eve']
    assert sorted(left) == ['.DS_Store', '.git', '__MACOSX', 'ada_lesson.ipynb', 'fay.zip', 'grades.csv', 'lesson.ipynb', 'notes.ipynb']
    args = ['grade', str(folder), '--out', str(folder/'grades'), '--lessons', str(tmp_path/'nbs'), '--tests', str(tmp_path/'tests'), *['--no_sandbox']*bool(NO_SANDBOX)]
    for n in (5, 0):                                # the second time nothing is new, and the grades are no student
        assert vit_assign(args) == 0
        out, err = capsys.readouterr()
        assert out.count(' points,') == n and 'left out of' in err and 'fay.zip' in err and '__MACOSX' in err
    rows = {r['student']: float(r['double']) for r in csv.DictReader(open(folder/'grades'/'grades.csv', encoding='utf-8'))}
    assert rows == {'ada': .1, 'Ben Li_123_assignsubmission_file': .1, 'cyd': .1, 'dan': 0, 'eve': .1}


# ------------------------------------------------------------------ one answer, three graders

def filled(notebook, right, wrong=()):
    "A student's notebook of an edition with answers: {exercise: [code of its cells]}."
    for c in notebook['cells']:
        meta = c.get('metadata', {})
        id = (meta.get('otter', {}).get('tests') or [re.sub(r'-\d+$', '', meta.get('nbgrader', {}).get('grade_id', ''))])[0]
        if c['cell_type'] == 'code' and id in right and not meta.get('nbgrader', {}).get('grade'): c['source'] = dict(right, **dict(wrong))[id]
    return notebook


@pytest.fixture(scope='module')
def editions(tmp_path_factory):
    "Chapter 1, or all that have a bank, in the editions of otter and nbgrader, as their own commands make them."
    pytest.importorskip('otter'); pytest.importorskip('nbgrader')
    folder = tmp_path_factory.mktemp('editions')
    (folder/'nbs').mkdir()
    for lesson in BANKS if FULL else ['01_patches']: shutil.copy(LESSONS/f'{lesson}.ipynb', folder/'nbs')
    for name in ('otter', 'nbgrader'): build_assignment(folder/'nbs', folder/name, name, HIDDEN)
    return folder


@pytest.fixture(scope='module')
def right():
    cells = COURSE.lessons['01_patches']
    return {e.id: '\n\n'.join(re.sub(r'^#\|.*\n', '', solved(cells[i][1]), flags=re.M) for i in e.answer if cells[i][0] == 'code') for e in COURSE.exercises['01_patches'] if not e.manual}


def points_of_otter(archive, space):
    "Points of a namespace by otter's own test files, as they lie in the archive of its autograder."
    from otter.test_files import ExceptionTestFile
    out = {}
    with zipfile.ZipFile(archive) as z:
        for name in z.namelist():
            if not re.fullmatch(r'tests/\w+\.py', name): continue
            test = ExceptionTestFile.from_string(z.read(name).decode(), path=name)
            test.run(space)
            out[name[6:-3]] = sum(o.test_case.points for o in test.test_case_results if o.passed)
    return out


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('lesson', BANKS if FULL else ['01_patches'])
def test_the_whole_bank_in_both_graders(editions, helpers, matrix, lesson):
    "Each answer has the points of vit_assign in otter's tests and in nbgrader's cells."
    archive, = (editions/'otter'/'autograder'/lesson).rglob('*.zip')
    release = json.loads((editions/'nbgrader'/'source'/lesson/f'{lesson}.ipynb').read_text(encoding='utf-8'))
    tests = {c['metadata']['nbgrader']['grade_id']: (c['metadata']['nbgrader']['points'], ''.join(c['source'])) for c in release['cells'] if '__' in c['metadata'].get('nbgrader', {}).get('grade_id', '')}
    seen = set()
    for kind, exercise, what, code in answers(f'{lesson}.py'):
        space = dict(helpers[lesson])
        exec(code, space)
        e = next(e for e in COURSE.exercises[lesson] if e.id == exercise)
        results = [(SimpleNamespace(exercise=exercise), error) for error in matrix[lesson, kind, exercise, what].values()]
        want = score(e, results)
        assert points_of_otter(archive, space)[exercise] == pytest.approx(want), (exercise, what)
        got = 0
        for id, (points, source) in tests.items():
            if not id.startswith(exercise + '__'): continue
            try: exec(source, dict(space))
            except Exception: continue
            got += points
        assert got == pytest.approx(want), (exercise, what)
        seen.add(round(want / e.points, 2))
    assert len(seen) > 3                            # not only all and nothing


def test_verdicts_do_not_hang_on_the_draw(helpers):
    "Else two graders, or two calls, would give an answer different points."
    from vit_course.teach.grading import run_test
    for lesson in BANKS:
        for kind, exercise, what, code in answers(f'{lesson}.py'):
            space = dict(helpers[lesson])
            exec(code, space)
            for t in COURSE.tests[lesson]:
                if t.exercise == exercise: assert len({not run_test(t, SimpleNamespace(**space), seed) for seed in range(4)}) == 1, (exercise, what, t.name)


@in_sandbox
@pytest.mark.parametrize('n', range(26 if FULL else 1))
def test_real_runs_of_all_graders(editions, right, tmp_path, n):
    "`otter run`'s own function, `nbgrader autograde` and `vit_assign grade` on a notebook with partly right answers."
    bank = {id: [c for kind, e, w, c in answers('01_patches.py') if (kind, e) == ('wrong', id)] for id in AUTO}
    wrong = {id: codes[n % len(codes)] for id, codes in bank.items()}
    if not FULL: wrong = dict(wrong, unpatchify=next(c for *_, w, c in answers('01_patches.py') if w == 'grid turned round'))
    got = {}
    student, = (editions/'otter'/'student'/'01_patches').rglob('*.ipynb')
    otter = filled(json.loads(student.read_text(encoding='utf-8')), right, wrong)
    (tmp_path/'otter.ipynb').write_text(json.dumps(otter), encoding='utf-8')
    archive, = (editions/'otter'/'autograder'/'01_patches').rglob('*.zip')
    code = f'import json, sys\nfrom otter.api import grade_submission\nr = grade_submission("otter.ipynb", sys.argv[1], quiet=True)\nprint(json.dumps([r.get_score(k) for k in {AUTO}]))'
    p = subprocess.run([sys.executable, '-c', code, str(archive)], cwd=tmp_path, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    got['otter'] = json.loads(p.stdout.splitlines()[-1])
    release = editions/'nbgrader'/'release'/'01_patches'/'01_patches.ipynb'
    nbgrader = filled(json.loads(release.read_text(encoding='utf-8')), right, wrong)
    work = editions/'nbgrader'
    hand_in(work/'submitted'/f'ada{n}'/'01_patches', **{'01_patches.ipynb': json.dumps(nbgrader)})
    p = subprocess.run([sys.executable, '-m', 'nbgrader', 'autograde', '01_patches', '--student', f'ada{n}'], cwd=work, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    from nbgrader.api import Gradebook
    with Gradebook(f'sqlite:///{work}/gradebook.db') as book:
        grades = book.find_submission('01_patches', f'ada{n}').notebooks[0].grades
        got['nbgrader'] = [sum(g.score for g in grades if g.cell.name.startswith(f'{id}__')) for id in AUTO]
    report = grade_submission(hand_in(tmp_path/'ada', **{'01_patches.ipynb': json.dumps(otter)}), ONE, 7)
    got['vit_assign'] = [report['exercises'][id]['points'] for id in AUTO]
    want = pytest.approx(got['vit_assign'], abs=1e-4)
    assert got['otter'] == want and got['nbgrader'] == want, got
    if not FULL: assert got['otter'][1] == pytest.approx(.1)


@in_sandbox
def test_a_notebook_of_otter_given_to_us(editions, right, tmp_path):
    "Its grader's cells are not run, its answers in words are found, and nothing of it is in the feedback."
    student, = (editions/'otter'/'student'/'01_patches').rglob('*.ipynb')
    nb = filled(json.loads(student.read_text(encoding='utf-8')), right)
    assert 'otter.Notebook' in json.dumps(nb)
    for c in nb['cells'][1:]:
        if c['metadata'].get('otter'): c['source'] += f'\n# done'
    nb['cells'].append(dict(cell_type='code', source='grader.check("patchify")', metadata={}))
    nb['cells'].append(dict(cell_type='code', source='# all of them\ngrader.check_all()\n\ngrader.export(run_tests=True)', metadata={}))
    report = grade_submission(hand_in(tmp_path/'ada', **{'01_patches.ipynb': json.dumps(nb)}), ONE, 7)
    assert report['points'] == pytest.approx(1) and report['notes'] == [] and report['answers'] == dict(why_patches='')
    text = json.dumps(nb).replace('_Type your answer here, replacing this text._', 'Because of the cost.')
    report = grade_submission(hand_in(tmp_path/'ben', **{'01_patches.ipynb': text}), ONE, 7)
    assert report['answers'] == dict(why_patches='Because of the cost.')
    release = (editions/'nbgrader'/'release'/'01_patches'/'01_patches.ipynb').read_text(encoding='utf-8')
    report = grade_submission(hand_in(tmp_path/'cyd', **{'01_patches.ipynb': release.replace('*Your answer here.*', 'Because.')}), ONE, 7)
    assert 'Because.' in report['answers']['why_patches']


def test_cells_of_a_grader_are_known():
    from vit_course.teach.grading import _is_graders
    assert all(map(_is_graders, ['import otter\ngrader = otter.Notebook()', '# Initialize Otter\nimport otter\ngrader = otter.Notebook("x.ipynb")', 'grader.check("q1")', 'grader.export("x.ipynb", pdf=False)']))
    assert not any(map(_is_graders, ['', '# nothing', 'import otter\nx = 1', 'graders = 3', 'x = 1\ngrader.check("q1")']))
