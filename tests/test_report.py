"`vit_report`: from run folders to a PDF, what it says when something is missing, and answers that would rather be programs."
import base64, io, json, os, random, re, runpy, shutil, sys, time, unicodedata

import nbformat, pypdf, pytest
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from PIL import Image
from vit_course import report as R
from vit_course.tools.commands import vit_train
from vit_course.report import model_table
from vit_course.tools.commands import vit_report
from vit_course.tools.report_notebook import (PLACEHOLDER, QUESTIONS, answered, check_lastname, execute,
                                              sections)
from vit_course.tools.report_runs import Run, command_of, experiment_tables, find_runs
from vit_course.tools.typesetting import (Figure, ReportError, Table, blocks_of, flatten, safe_image, say_unprinted, scrub,
                                          stringify, typeset, typst_source, unprinted)
from datetime import datetime, timezone

DAY = datetime(2026, 1, 2, tzinfo=timezone.utc)
OFFLINE = dict(https_proxy='http://127.0.0.1:9', http_proxy='http://127.0.0.1:9', no_proxy='127.0.0.1')   # nobody listens there


def text_of(pdf): return ' '.join(' '.join(p.extract_text() for p in pypdf.PdfReader(io.BytesIO(pdf)).pages).split())


def close(text): return re.sub(r'[\s\u00ad-]+', '', text)   # lines and hyphens are the typesetter's


def pages(*cells, folder, nb=None):
    "Markdown cells -> (text of the PDF, its Typst, what was left out)."
    nb = nb or new_notebook(cells=[new_markdown_cell(c) for c in cells])
    blocks, images, problems = scrub(blocks_of(flatten(nb)[0]), flatten(nb)[1], folder)
    source = typst_source(blocks, problems)
    return text_of(typeset(source, images, 'Ada', DAY)), source, problems


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Three real runs on digits, made by the command; one lies deeper, as those of a sweep do."
    home = tmp_path_factory.mktemp('my homework')
    for i, lr in enumerate(('0.001', '0.003', '0.01')):
        out = home/'output'/('sweep' if i == 2 else '')
        assert vit_train(['--name', f'run {i}', '--model_type', 'testing', '--num_steps', '60', '--eval_every', '20', '--learning_rate', lr, '--device', 'cpu', '--output_dir', str(out)]) == 0
    return home/'output'


@pytest.fixture
def home(runs, tmp_path, monkeypatch):
    "An empty folder with a space in its name and the runs in it, as the current one."
    folder = tmp_path/'home work'
    shutil.copytree(runs, folder/'output')
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def quick(monkeypatch):
    "Leave the notebook's code out."
    monkeypatch.setattr(R, 'execute', lambda nb, folder, **kw: nb)


def call(capsys, *args):
    status = vit_report([*map(str, args)])
    out, err = capsys.readouterr()
    return status, out, err


# --- the whole way, as a student goes it

def test_student(home, command, capsys):
    """Two commands: the first leaves a notebook, the second, with answers and images, a report in which
    one answer is missing."""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(R, 'execute', lambda nb, folder, **kw: nb)       # without its code, to be quick
        assert vit_report(['--lastname', 'Ada', '--strict']) == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == [f'not complete: not answered: {q}' for q in QUESTIONS] and 'write your answers' in out
    assert {p.name for p in (home/'report').iterdir()} == {'Ada_ViT.pdf', 'report.ipynb'}
    first = close(pypdf.PdfReader(home/'report'/'Ada_ViT.pdf').pages[0].extract_text())
    assert 'Notcomplete' in first and all(f'notanswered:{close(q)}' in first.replace('’', "'") for q in QUESTIONS)

    nb = nbformat.read(home/'report'/'report.ipynb', 4)
    for c in nb.cells:
        if '## Why not pixels?' not in c.source: c.source = c.source.replace(f'*{PLACEHOLDER}*', 'Because of **table 1**, and $x^2$.')
    nbformat.write(nb, home/'report'/'report.ipynb')
    (home/'my images').mkdir()
    Image.new('RGB', (40, 30), 'red').save(home/'my images'/'a_b #c$.png')
    status, out, err = command('vit_report', '--lastname', 'Ada', '--strict', '--images', 'my images',
                               cwd=home, env=OFFLINE)
    assert (status, err) == (1, 'not complete: not answered: Why not pixels?\n') and out == f"{os.path.join('report', 'Ada_ViT.pdf')}\n"
    assert nbformat.read(home/'report'/'report.ipynb', 4) == nb                  # a copy was executed
    reader, text = pypdf.PdfReader(home/'report'/'Ada_ViT.pdf'), text_of((home/'report'/'Ada_ViT.pdf').read_bytes())
    assert (reader.metadata.title, reader.metadata.author) == ('Vision Transformer', 'Ada')
    assert round(float(reader.pages[0].mediabox.width)/72*25.4) == 210 and round(float(reader.pages[0].mediabox.height)/72*25.4) == 297
    assert 'Because of table 1' in text and 'a_b #c$.png' in text and str(home) not in text
    for path in home.glob('output/**/result.json'):      # every number comes from the folders
        r = json.loads(path.read_text())
        for number in (f"{100*r['test_accuracy']:.2f}", f"{100*r['valid_accuracy']:.2f}", f"{r['images_per_second']:,.0f}", f"{r['parameters']:,}", r['versions']['torch'], r['device']):
            assert close(number) in close(text), number
        assert close(f"vit_train --name '{path.parent.name}' --model_type testing") in close(text)


def test_help(capsys):
    with pytest.raises(SystemExit) as e: vit_report(['--help'])
    out, err = capsys.readouterr()
    assert e.value.code == 0 and not err
    for flag in '--lastname --runs --study --images --answers --strict'.split(): assert flag in out


def test_answers_study_and_an_old_pdf(home, quick, capsys):
    "A file with answers replaces those in the notebook; a study counts as experiments; a failure leaves the old PDF."
    shutil.rmtree(home/'output'/'sweep'); shutil.copytree(home/'output', home/'mine'); shutil.rmtree(home/'mine'/'run 1')
    (home/'answers.md').write_text('# My answers\n\n' + '\n'.join(f'## {q.upper()}\n\nAnswer to it: é, Ж, 3 < 4.\n' for q in QUESTIONS), encoding='utf-8')
    status, out, err = call(capsys, '--lastname', 'Núñez de la O', '--runs', 'mine', '--answers', 'answers.md')
    assert status == 0 and err == 'not complete: 1 experiment with settings of their own; the homework asks for at least three\n'
    pdf = home/'report'/'Núñez de la O_ViT.pdf'
    assert text_of(pdf.read_bytes()).count('Answer to it') == len(QUESTIONS) and PLACEHOLDER not in text_of(pdf.read_bytes())
    trial = dict(json.loads((home/'output'/'run 0'/'result.json').read_text()), seed=1, curve=[[20, .1, 1.], [40, .2, 2.]])
    for k in ('versions', 'commit', 'finished', 'images'): trial.pop(k)
    study = dict(study='lr', points=[f'learning_rate={v}' for v in (.1, .2, .3)], base=dict(model_type='testing'),
                 runs=[dict(trial, settings=dict(learning_rate=v), point=f'learning_rate={v}') for v in (.1, .2, .3)])
    (home/'study.json').write_text(json.dumps(study))
    status, out, err = call(capsys, '--lastname', 'Núñez de la O', '--runs', 'mine', '--answers', 'answers.md', '--study', 'study.json', '--strict')
    assert (status, err) == (0, '')
    before = pdf.read_bytes()
    monkey = pytest.MonkeyPatch()
    with monkey.context() as m:
        m.setattr(R, 'execute', lambda *a, **kw: (_ for _ in ()).throw(ReportError('cell 3 fails')))
        assert call(capsys, '--lastname', 'Núñez de la O') == (2, '', 'vit_report: cell 3 fails\n')
    assert pdf.read_bytes() == before and sorted(p.name for p in (home/'report').iterdir()) == ['Núñez de la O_ViT.pdf', 'report.ipynb']


# --- what may be wrong with the input: one line, status 2, nothing written

def bad_image(path):
    path.mkdir()
    (path/'x.png').write_bytes(b'no image')


MISTAKES = {
    'no name': (['--lastname', ''], None, 'cannot be part of a file name'),
    'spaces': (['--lastname', '  '], None, 'cannot be part of a file name'),
    'a path': (['--lastname', '../Ada'], None, 'cannot be part of a file name'),
    'a Windows path': (['--lastname', 'C:\\Ada'], None, 'cannot be part of a file name'),
    'no runs': (['--runs', 'nowhere'], None, 'nowhere is no folder'),
    'runs is a file': (['--runs', 'f'], lambda h: (h/'f').write_text(''), 'f is no folder'),
    'notebook': ([], lambda h: ((h/'report').mkdir(), (h/'report'/'report.ipynb').write_text('{')), 'report.ipynb cannot be read as a notebook'),
    'notebook of another kind': ([], lambda h: ((h/'report').mkdir(), (h/'report'/'report.ipynb').write_text('[1]')), 'cannot be read as a notebook'),
    'no answers': (['--answers', 'a.md'], None, '--answers a.md cannot be read'),
    'answers in Latin-1': (['--answers', 'a.md'], lambda h: (h/'a.md').write_bytes('é'.encode('latin-1')), 'must be Markdown in UTF-8'),
    'answers to nothing': (['--answers', 'a.md'], lambda h: (h/'a.md').write_text('hello'), 'a.md has no answers'),
    'answers to something else': (['--answers', 'a.md'], lambda h: (h/'a.md').write_text('## Why patches?\n\nb\n\n## Why cats?\n\nc'), "'Why cats?' is no question"),
    'no study': (['--study', 's.json'], None, '--study s.json cannot be read'),
    'study is no study': (['--study', 's.json'], lambda h: (h/'s.json').write_text('{}'), '--study s.json cannot be read'),
    'no folder of images': (['--images', 'mine'], None, 'mine is no folder'),
    'a folder without images': (['--images', 'mine'], lambda h: (h/'mine').mkdir(), 'mine has no images'),
    'a folder of files that are not read': (['--images', 'mine'], lambda h: ((h/'mine').mkdir(), (h/'mine'/'notes.txt').write_text('x')), 'mine has no images in it, but 1 .txt'),
    'an image that is none': (['--images', 'mine'], lambda h: bad_image(h/'mine'), 'not an image that can be read'),
    'out is a file': ([], lambda h: (h/'report').write_text(''), 'report'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes(home, quick, capsys, name):
    args, prepare, says = MISTAKES[name]
    if prepare: prepare(home)
    before = {p: p.read_bytes() for p in home.rglob('*') if p.is_file()}
    status, out, err = call(capsys, *(['--lastname', 'Ada'] if '--lastname' not in args else []), *args)
    assert (status, out) == (2, '') and err.startswith('vit_report: ') and err.count('\n') == 1 and says in err
    assert {p: p.read_bytes() for p in home.rglob('*') if p.is_file()} == before


@pytest.mark.parametrize('name', ['typst', 'pypandoc', 'nbclient', 'ipykernel'])
def test_a_missing_extra_is_named(home, capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    status, out, err = call(capsys, '--lastname', 'Ada')
    assert status == 2 and err == f"vit_report: {name} is not installed: pip install 'vit_course[report]'\n" and not (home/'report').exists()


def test_pandoc_itself_is_missing(home, capsys, monkeypatch):
    import pypandoc
    def gone(): raise OSError('No pandoc was found')
    monkeypatch.setattr(pypandoc, 'get_pandoc_version', gone)
    assert call(capsys, '--lastname', 'Ada')[2] == "vit_report: pandoc is not installed: pip install 'vit_course[report]'\n"


def test_flags(capsys):
    for args in ([], ['--lastname'], ['--lastname', 'Ada', '--last', 'x']):
        with pytest.raises(SystemExit) as e: vit_report(args)
        assert e.value.code == 2 and capsys.readouterr().err.count('\n') == 1


def test_a_failing_cell(tmp_path):
    nb = new_notebook(cells=[new_code_cell('x = 1'), new_code_cell('# mine\nx/0')])
    with pytest.raises(ReportError, match=r'cell 2 of the notebook \(# mine\) fails: ZeroDivisionError'): execute(nb, tmp_path)


@pytest.mark.parametrize('name', ['Ada', 'Núñez', "O'Brien", '李', 'van der Berg', 'x'*80])
def test_good_names(name): assert check_lastname(f' {name} ') == name


NAMES = ['Núñez', 'Nu\u0301ñez', 'Đặng Thị', 'Ångström', 'Łukasz', 'Çağrı', 'İbrahim', 'Þórdís', 'Sørensen', 'Dvořák', 'Ţepeş', 'O’Brien', 'Жуков', 'Παπαδόπουλος', 'ẞ']

@pytest.mark.parametrize('name', NAMES)
def test_names_are_in_the_text_of_the_pdf(name):
    def close(text): return unicodedata.normalize('NFKC', text).replace(' ', '')
    assert unprinted(name) == [] and close(name) in close(text_of(typeset(typst_source([]), {}, name, DAY)))

def test_what_no_font_has_is_said(home, quick, capsys):
    "Whatever fonts this machine has, none has these two; they may be in the name, or in an answer."
    nobody, private = '\U0001fffe', '\U0010fffd'
    assert unprinted(f'a {nobody} b {private} é\u200b\xad\xa0') == [nobody, private]
    assert [line.split(' that')[0] for line in say_unprinted(nobody + private)] == ['2 characters'] and say_unprinted('é') == []
    (home/'answers.md').write_text(f'## {next(iter(QUESTIONS))}\n\nA word: {nobody}.\n', encoding='utf-8')
    status, out, err = call(capsys, '--lastname', 'Ada', '--answers', 'answers.md')
    assert status == 0 and 'not complete: 1 character that no font of this machine has (Unnamed: U+1FFFE)' in err
    assert 'no font of this machine' in text_of((home/'report'/'Ada_ViT.pdf').read_bytes())


@pytest.mark.parametrize('name', ['', '.', '..', '.Ada', 'a/b', 'a\\b', 'a:b', 'a\x00b', 'a*', 'x'*81])
def test_bad_names(name):
    with pytest.raises(ReportError): check_lastname(name)


# --- numbers

def test_numbers_come_from_the_folders(home):
    path = home/'output'/'run 0'
    result = json.loads((path/'result.json').read_text())
    (path/'result.json').write_text(json.dumps(result | dict(test_accuracy=.123456, valid_accuracy=.876543, images_per_second=4321., seconds=98.7)))
    finished, wrong = find_runs(home/'output')
    row = experiment_tables(finished)[0].rows[0]
    assert not wrong and (row['test %'], row['validation %'].replace('\u00a0', ' ').split()[0], row['images/s'], row['seconds']) == ('12.35', '87.65', '4,321', '98.7')
    config = json.loads((path/'config.json').read_text())
    (path/'config.json').write_text(json.dumps(config | dict(seed=7, bf16=True, set=dict(registers=0))))
    run = next(r for r in find_runs(home/'output')[0] if r.name == 'run 0')
    assert command_of(run) == "vit_train --name 'run 0' --model_type testing --eval_every 20 --num_steps 60 --seed 7 --bf16 --set registers=0"


@pytest.mark.parametrize('name, content', [('config.json', '{'), ('config.json', '[]'), ('config.json', '{}'), ('result.json', 'null'), ('result.json', '{"test_accuracy": "high"}'),
                                           ('metrics.csv', 'step,train_loss\n1,a\n'), ('metrics.csv', 'step;train_loss\n'), ('metrics.csv', b'\xff\xfe\x00'), ('metrics.csv', None), ('result.json', None)])
def test_damaged_runs_are_named(home, name, content):
    path = home/'output'/'run 1'/name
    if content is None: path.unlink()
    elif isinstance(content, bytes): path.write_bytes(content)
    else: path.write_text(content)
    finished, wrong = find_runs(home/'output')
    if (name, content) == ('metrics.csv', 'step;train_loss\n'): assert not wrong and not next(r for r in finished if r.name == 'run 1').metrics   # no line yet
    else: assert [r.name for r in finished] == ['run 0', 'run 2'] and len(wrong) == 1 and 'run 1' in wrong[0] and '\n' not in wrong[0]


def test_a_run_that_is_no_vit(home):
    path = home/'output'/'run 0'/'result.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(parameters=1234)))
    finished, _ = find_runs(home/'output')
    assert [r['Layers'] for r in model_table(finished).rows] == ['–', 2]


def test_many_runs_have_curves(home):
    finished, _ = find_runs(home/'output')
    many = [Run(r.path, r.config | dict(name=f'{r.name} {i}'), r.result, r.metrics) for r in finished for i in range(5)]
    assert '12 others, on validation only, are grey' in R.plot_curves(many).caption
    assert isinstance(R.plot_curves([]), Table) and 'nothing to show' in R.plot_curves([])._repr_markdown_()


def test_tables_take_any_text(tmp_path):
    odd = ['a|b', '*x*', '`code`', '#read("x")', '<b>', '$1$', '[l](u)', 'a\nb', '\\', '~x~', '@x', '![i](j)', '_', '']
    text, source, _ = pages(Table([dict(a=o, b=i) for i, o in enumerate(odd)], 'A caption.')._repr_markdown_(), folder=tmp_path)
    for o in odd: assert close(o).replace('"', '') in re.sub('[“”]', '', close(text)), o
    assert 'A caption.' in text and source.count('#table(') == 1


# --- answers

def test_template():
    "The notebook of the repository is the one in the package, has all questions, and none is answered."
    assert (ROOT/'report'/'report.ipynb').read_bytes() == (ROOT/'vit_course'/'report.ipynb').read_bytes()
    nb = nbformat.read(ROOT/'report'/'report.ipynb', 4)
    nbformat.validate(nb)
    blocks = blocks_of(flatten(nb)[0])
    assert set(sections(blocks)) == set(QUESTIONS) and not any(answered(blocks[slice(*s)]) for s in sections(blocks).values())
    assert all(q in ''.join(c.source for c in nb.cells) for q in QUESTIONS.values())
    import yaml
    front = yaml.safe_load(nb.cells[0].source.strip().strip('-'))
    assert nb.cells[0].cell_type == 'raw' and front['format'] == 'typst' and front['execute'] == dict(echo=False, warning=False)   # for Quarto


def test_the_wheel_brings_the_template():
    patterns = (ROOT/'MANIFEST.in').read_text()
    for p in (ROOT/'vit_course').iterdir():
        if p.is_file() and p.suffix not in ('.py', '.pyc'): assert f'*{p.suffix}' in patterns, p


def test_an_answer_ends_where_the_next_heading_begins(tmp_path):
    blocks = blocks_of(flatten(new_notebook(cells=[new_markdown_cell(c) for c in ('# Why patches?', '## Part one\n\na', 'text', '# Other', 'b', 'Why not pixels?\n----\n\nc')]))[0])
    found = sections(blocks)
    assert stringify(blocks[slice(*found['Why patches?'])]) == 'Part oneatext' and stringify(blocks[slice(*found['Why not pixels?'])]) == 'c'


# --- text that would rather be a program

EVIL = ['#read("/etc/passwd")', '<script>alert(1)</script>', '#import "@preview/cetz:0.1.0": *', '#{1+1}', '#sys.version', '```{=typst}\n#read("../secret.txt")\n```', '`#read("x")`{=typst}',
        '<img src="file:///etc/passwd" onerror="x">', '[x]{typst:text:fill="read(1)"}', '::: {typst:fill="read(1)"}\nx\n:::', '<div typst:fill="read(1)">x</div>', '# Head {typst:fill="x" #id}',
        '\\input{/etc/passwd}', '\\begin{verbatim}#x\\end{verbatim}', '@cite [@cite] <label> <why-patches>', '<!-- open', '```\nopen', '$open', '---\ntitle: x\nheader-includes: "#read(1)"\n---',
        '% title\n% author', '[^1]: #read("x")', '| #read("x") | b |\n|---|---|\n| `#read("y")` | ]} |', '[link](#nowhere)', '[link](javascript:alert(1))', '[link](file:///etc/passwd)', ']', '#', '\\', '*/ /* //',
        '{{< include /etc/passwd >}}', '![x](/etc/passwd)', '![x](../secret.txt)', '![x](https://example.org/a.png)', '![x](secret.svg)', '<?php x ?>', '&#35;read(&quot;x&quot;)', '$"] #read("x")$', '~~~{.typst}\n#x\n~~~',
        '$\\text{#read("/etc/passwd")}$', '$#read("x")$', '$\\mathrm{read}(\\text{"/etc/passwd"})$', '$$\\unknown{#read("x")}$$', '$\\text{a" #read("../secret.txt") "}$', '$x \\tag{#read}$', '$\\operatorname{sys.inputs}$']


def test_evil_text_is_text(tmp_path):
    "Each in a cell of its own; it is printed, nothing is run, and nothing is read."
    (tmp_path/'in').mkdir(); (tmp_path/'secret.txt').write_text('TOPSECRET')
    (tmp_path/'in'/'secret.svg').write_text('<svg xmlns="http://www.w3.org/2000/svg"><text>TOPSECRET</text></svg>')
    text, source, problems = pages(*(f'cell {i} begins\n\n{e}\n\ncell {i} ends' for i, e in enumerate(EVIL)), folder=tmp_path/'in')
    assert 'TOPSECRET' not in text and 'root:' not in text
    for i in range(len(EVIL)): assert f'cell {i} begins' in text and f'cell {i} ends' in text, EVIL[i]
    for shown in ('#read("/etc/passwd")', '<script>alert(1)</script>', '#import "@preview/cetz:0.1.0": *', '#{1+1}', '#sys.version', '<div typst:fill="read(1)">x</div>', '\\input{/etc/passwd}',
                  '<!-- open', '@cite', '<label>', '{{< include /etc/passwd >}}'):
        assert close(re.sub('["-]', '', shown)) in close(re.sub('["“”–]', '', text)), shown
    assert len(problems) == 5 and source.count('#image') == source.count('image(') == 0
    bare = re.sub(r'`[^`]*`|"(\\.|[^"\\])*"|\\.', '', source)           # without code, strings and escapes, no call is left but pandoc's own
    calls = set(re.findall(r'#(?!\s)(\w+)', bare[bare.index('#v(0.6em)'):]))
    assert calls <= {'v', 'unfinished', 'emph', 'strong', 'figure', 'table', 'footnote', 'link', 'raw', 'quote', 'horizontalrule', 'strike', 'heading', 'smartquote', 'h', 'box', 'block', 'align'}, calls


def test_code_that_does_run_sees_one_folder(tmp_path):
    "The last fence: even a program in Typst finds no file outside, and no package."
    (tmp_path/'secret.txt').write_text('TOPSECRET')
    for code in ('#read("/etc/passwd")', f'#read("{tmp_path}/secret.txt")', '#read("../secret.txt")', '#read("/../secret.txt")', '#image("/etc/passwd")'):
        with pytest.raises(ReportError, match='Typst refuses') as e: typeset(code, {}, 'Ada', DAY)
        assert '\n' not in str(e.value)


def test_random_text(tmp_path):
    "Whatever is typed, there is a PDF."
    rng = random.Random(0)
    bits = ['#', '"', '\\', '$', '`', '```', '*', '_', '[', ']', '(', ')', '{', '}', '<', '>', '|', '@', '~', '^', '\n', '\n\n', '- ', '1. ', '> ', '!', ':', '=', '/', '//', '/*', 'let', 'read', 'a', 'b', ' ', '&', '%', 'é', '是', '\t', '---', '^[', '[^1]', '$$', '{=typst}', '<b>', '😀']
    cells = [''.join(rng.choices(bits, k=rng.randint(1, 40))) for _ in range(250)]
    text, _, _ = pages(*(f'{c}\n\n' for c in cells), 'the end', folder=tmp_path)
    assert text.endswith('the end') or 'the end' in text


def test_random_formulas(tmp_path):
    rng = random.Random(1)
    bits = ['x', '_', '^', '{', '}', '\\frac{a}{b}', '\\text{#x "y"}', '\\mathrm{read}', '\\left(', '\\right)', '\\sum', '"', '#', '/', '\\\\', '&', '\\begin{matrix}a&b\\end{matrix}', '\\alpha', '\\operatorname{a b}', '(', ')', ',', ';', "'", '@', '\\#', '\\sqrt{x}', '\\,', '=', '<', '!']
    pages(*(f"${''.join(rng.choices(bits, k=rng.randint(1, 8)))}$" for _ in range(250)), 'the end', folder=tmp_path)


# --- images in answers

def png(size=(3, 2), color='red'):
    out = io.BytesIO(); Image.new('RGB', size, color).save(out, 'png')
    return out.getvalue()

PNG = base64.b64encode(png((9, 9))).decode()
HTML = ['<img src="plot.png" width=200>', '<IMG SRC=plot.png>', "<img alt='a [b] $c$ *d*' src='plot.png'/>", '<p align="center">\n  <img src="plot.png">\n</p>', '<img\n  width="50%"\n  src="plot.png"\n>',
        '<figure><img src="plot.png" title="a > b"></figure>', '- a point\n\n  <img src="plot.png">', '<center><a href="x"><img src="plot.png"></a></center>', 'words <img src="a%20b.png"> words', '<img src="a b.png">',
        '<img src="attachment:plot.png" width="100">', f'<img src="data:image/png;base64,{PNG}">', '| a | b |\n|---|---|\n| <img src="plot.png"> | 1 |']


@pytest.mark.parametrize('html', HTML)
def test_images_as_html(tmp_path, html):
    "As Jupyter users write them, to choose a width or the middle of the page; GitHub shows them, too."
    for name in ('plot.png', 'a b.png'): Image.new('RGB', (9, 9), 'red').save(tmp_path/name)
    cell = new_markdown_cell(html, attachments={'plot.png': {'image/png': PNG}})
    flat, images = flatten(new_notebook(cells=[cell]))
    blocks, shown, problems = scrub(blocks_of(flat), images, tmp_path)
    source = typst_source(blocks)
    assert len(shown) == 1 and not problems and 'image(' in source and 'img' not in source.lower().replace('image', '')
    assert typeset(source, shown, 'Ada', DAY)[:5] == b'%PDF-'


@pytest.mark.parametrize('text', ['`<img src="plot.png">`', '```html\n<img src="plot.png">\n```', '~~~\n<img src="plot.png">', '``a ` <img src="plot.png">``', '<img>', '<img width=3>', '<imgsrc="plot.png">', '<img src="plot.png"', '<img src="a<b.png">'])
def test_what_is_no_image(tmp_path, text):
    Image.new('RGB', (9, 9), 'red').save(tmp_path/'plot.png')
    flat, images = flatten(new_notebook(cells=[new_markdown_cell(text)]))
    blocks, shown, problems = scrub(blocks_of(flat), images, tmp_path)
    assert not shown and not problems and 'img' in stringify(blocks)


def test_an_image_as_html_that_is_not_there(tmp_path):
    flat, images = flatten(new_notebook(cells=[new_markdown_cell('<img src="gone.png"> <img src="https://example.org/a.png">')]))
    assert [p.split(':')[0] for p in scrub(blocks_of(flat), images, tmp_path)[2]] == ['image gone.png', 'image https']


def test_much_html_takes_no_time():
    start = time.monotonic()
    for text in ('<p>'*30_000 + '<img', '<img "'*15_000, '`'*3 + '` '*30_000 + '<img', '<img src="a' + 'b="'*20_000): flatten(new_notebook(cells=[new_markdown_cell(text)]))
    assert time.monotonic() - start < 20

def test_images_of_the_student(tmp_path):
    (tmp_path/'my plots').mkdir(); (tmp_path/'my plots'/'a b.png').write_bytes(png((3000, 20)))
    data = base64.b64encode(png()).decode()
    nb = new_notebook(cells=[new_markdown_cell('![A caption *here*](my%20plots/a%20b.png)'), new_markdown_cell('![x](attachment:c.png)', attachments={'c.png': {'image/png': data}}),
                             new_markdown_cell(f'![y](data:image/png;base64,{data})'), new_code_cell('#| fig-cap: "From code"\nplot()', outputs=[new_output('display_data', {'image/png': data, 'text/plain': 'Figure'})])])
    flat, embedded = flatten(nb)
    blocks, shown, problems = scrub(blocks_of(flat), embedded, tmp_path)
    source = typst_source(blocks)
    assert not problems and len(shown) == 4 and source.count('#figure(image(') == 4 and 'From code' in source and 'A caption' in source
    assert typeset(source, shown, 'Ada', DAY)[:4] == b'%PDF'
    assert max(max(Image.open(io.BytesIO(v)).size) for v in shown.values()) == 1600


def test_images_that_are_not_shown(tmp_path):
    folder = tmp_path/'report'; folder.mkdir()
    (tmp_path/'outside.png').write_bytes(png()); (folder/'broken.png').write_bytes(png()[:40]); (folder/'evil.svg').write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    links = []
    if os.name != 'nt': os.symlink(tmp_path/'outside.png', folder/'link.png'); links = ['link.png']
    for src in ['../outside.png', str(tmp_path/'outside.png'), '%2e%2e/outside.png', 'https://example.org/a.png', '//host/a.png', 'file:///x.png', 'C:/a.png', 'broken.png', 'evil.svg', 'nothing.png', '.', 'code-0.svg', *links]:
        with pytest.raises((ValueError, OSError)): safe_image(src, {}, folder)


# --- code cells

def test_outputs(tmp_path):
    "Tables and figures are shown, text output is code, what goes to stderr is not; a raw cell at the top is Quarto's."
    figure = Figure(__import__('matplotlib.figure').figure.Figure((1, 1)), 'The *caption* \\#1')
    outputs = [new_output('stream', text='printed #1\n', name='stdout'), new_output('stream', text='a warning', name='stderr'), new_output('display_data', {'text/markdown': figure._repr_markdown_(), 'text/html': 'no'}),
               new_output('execute_result', {'text/plain': 'Out ``` #2', 'text/html': '<b>no</b>'})]
    nb = new_notebook(cells=[new_raw_cell('---\ntitle: t\n---'), new_code_cell('secret_source()', outputs=outputs), new_raw_cell('#read("x")')])
    text, source, problems = pages(nb=nb, folder=tmp_path)
    assert 'printed #1' in text and 'Out ``` #2' in text and 'The caption #1' in text and '#read("x")' in text and not problems
    for absent in ('warning', 'secret_source', 'title', '<b>'): assert absent not in text


def test_parameters_come_after_those_of_the_notebook(tmp_path):
    nb = new_notebook(cells=[new_code_cell("a = b = 'old'", metadata=dict(tags=['parameters'])), new_code_cell('import os; print(a, b, os.path.basename(os.getcwd()))')])
    assert execute(nb, tmp_path, b='a "new" \'one\'').cells[-1].outputs[0].text == f'old a "new" \'one\' {tmp_path.name}\n'


# --- the course's own report

def test_reference_report(tmp_path, monkeypatch, capsys):
    "What is committed is what the committed results make: the same words and numbers on the same pages."
    monkeypatch.setattr(sys, 'argv', ['reference.py', str(tmp_path)])
    runpy.run_path(str(ROOT/'report'/'reference.py'), run_name='__main__')
    assert 'not complete' not in capsys.readouterr().out
    made, committed = (pypdf.PdfReader(f/'Reference_ViT.pdf') for f in (tmp_path, ROOT/'report'))
    assert len(made.pages) == len(committed.pages)
    for a, b in zip(made.pages, committed.pages): assert a.extract_text() == b.extract_text(), 'run `python report/reference.py` and commit report/Reference_ViT.pdf'
