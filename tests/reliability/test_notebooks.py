"""Notebooks handed in, and answers for the report: whatever is in them, no code of theirs runs in
our process, no file outside is read or written, and the command says what is wrong in one line
each. (Code that attacks the sandbox: test_assignments.py, tests/answers/hostile.py; random text and
formulas: test_report.py.)"""
import base64, csv, json, os, re

import pytest
for name in ('nbformat', 'pypdf', 'typst', 'pypandoc'): pytest.importorskip(name)
from conftest import ROOT
from test_pictures import at_most
from test_report import EVIL, pages

from vit_course.tools.commands import vit_assign
from vit_course.teach.sandbox import sandbox_problem

from vit_course import report as R
from vit_course.tools.commands import vit_report


# --- the grader

def cell(source='x = 1', kind='code', **kw): return dict(cell_type=kind, id='a', metadata={}, source=source) | (dict(outputs=[], execution_count=None) if kind == 'code' else {}) | kw
def book(*cells, **kw): return json.dumps(dict(nbformat=4, nbformat_minor=5, metadata={}, cells=list(cells)) | kw).encode()


def submissions():
    "Notebooks that are none, or hardly: {what: bytes}."
    good, out = book(cell('def patchify(x, p): return x'), cell('hello', 'markdown')), {}
    for i in range(20): out[f'cut {i}'] = good[:len(good)*i//20]
    for i, o in enumerate([b'[]', b'null', b'3', b'"x"', b'{"cells": {}}', b'{"cells": null}', b'{"cells": [null]}', b'{"worksheets": [{"cells": []}], "nbformat": 3}', b'{"cells": [{}]}', b'\xef\xbb\xbf' + good, good.decode().encode('utf-16'),
                           b'\xff' * 100, b'[' * 10**6, b'{"cells":' * 10**5, b'{"cells": [{"cell_type": "code", "source": ' + b'[' * 10**5, b'9' * 10**4, b'{"cells": [' + b'1,' * 10**6 + b'1]}', good * 2, b'\0' * 10**6, b'PK\3\4' + bytes(100),
                           b'{"cells": [{"cell_type": "code", "source": {"a": 1}}]}', b'{"cells": [{"cell_type": "code", "source": 7}]}', b'{"cells": [{"cell_type": "code", "source": [[1]]}]}', book(*[cell()]*1001)]):
        out[f'odd {i}'] = o
    return out

RUN = {  # what can be read, and is run in the sandbox
    'no cells': book(), 'nbformat 99': book(cell(), nbformat=99, nbformat_minor=-1), 'kinds': book(cell(kind='<script>'), cell(kind='heading'), cell(kind='code')), 'no fields': b'{"cells": [{"cell_type": "code", "source": "x = 1"}]}',
    'markup': book(cell('<!-- answer why_patches -->\n<script>alert(1)</script> =cmd() \x1b[2J', 'markdown'), metadata={'title': '<script>', 'kernelspec': {'name': '../../evil', 'argv': ['touch', 'owned']}}),
    'twice': b'{"cells": 3, "cells": []}', 'surrogates': b'{"cells": [{"cell_type": "code", "source": "x = \'\\udce9\'"}]}', 'null byte': book(cell('x = "\0"')), 'very long line': book(cell('x = "' + 'a'*10**6 + '"')), 'deep code': book(cell('x = ' + '('*5000 + ')'*5000))}
STUDENTS = ['<script>alert(1)<', '=cmd()', '@sum', '-x', '+1', 'two\nlines', '"quoted" \'name\'', 'caf\udce9', '\x1b[2Jred', '\u202egnp', 'a,b;c', '$(touch owned)', '![x](y)', 'a'*240, ' ', '&lt;', '\U0001f431', '%s{0}', 'tab\t', '..x']


@pytest.mark.skipif(bool(NO_SANDBOX := sandbox_problem()),
                    reason=f"students' code cannot be locked in here: {NO_SANDBOX}")
def test_graded_without_harm(in_process, tmp_path, capsys):
    "One call of `vit_assign grade` for all of them: a row each, no points, one line each; names of students are text in every file."
    folder = tmp_path/'in'
    def hand_in(who, data): (folder/who).mkdir(parents=True); (folder/who/'01_patches.ipynb').write_bytes(data)
    everything = submissions() | RUN | {name: b'{' for name in STUDENTS}
    for who, data in everything.items(): hand_in(who, data)
    (folder/'large').mkdir(); open(folder/'large'/'01_patches.ipynb', 'wb').truncate(2**33)
    (folder/'pipe').mkdir(); os.mkfifo(folder/'pipe'/'01_patches.ipynb'); os.symlink('/etc', folder/'link')
    with at_most(300): status, out, err = in_process(vit_assign, 'grade', folder, '--out', 'out', '--lessons', ROOT/'nbs', '--tests', ROOT/'hidden_tests', '--seed', 1)
    assert status == 0 and err == f'left out of {folder}: ..x, link\n', err       # hidden names, and links
    everything = {name: data for name, data in everything.items() if name != '..x'}
    lines = out.splitlines()
    assert len(lines) == len(everything) + 3 and all(line.isprintable() and len(line) <= 160 for line in lines)
    with open(tmp_path/'out'/'grades.csv', encoding='utf-8', errors='surrogateescape', newline='') as f: rows = {r['student']: r for r in csv.DictReader(f)}
    assert len(rows) == len(everything) + 2 and all(float(r['points']) == 0 for r in rows.values()) and not any(name[0] in '=+-@' for name in rows)
    assert sorted(os.listdir(tmp_path)) == ['in', 'out'] and {p.name for p in (tmp_path/'out').iterdir()} == {*everything, 'large', 'pipe', 'grades.csv', 'to_read.csv', 'grading.json'}
    assert all(sorted(os.listdir(tmp_path/'out'/who)) == ['answers.md', 'feedback.md', 'report.json'] for who in everything)
    with capsys.disabled(): print(f'\n{len(rows)} submissions that are no notebook, or a strange one: {len(rows)} rows, no points, no traceback')
    # a person's points come back under the same strange names
    with open(tmp_path/'read.csv', 'w', encoding='utf-8', errors='surrogateescape', newline='') as f: csv.writer(f).writerows([['student', 'exercise', 'points'], ['caf\udce9', 'why_patches', '0.25']])
    from vit_course.teach.grading import read_course, read_manual
    assert read_manual(tmp_path/'read.csv', [e for o in read_course(ROOT/'nbs').exercises.values() for e in o]) == {'caf\udce9': {'why_patches': .25}}


# --- answers for the report

CANARY = 'TOPSECRET'
MORE = ['![](/etc/passwd)', '![](/proc/self/environ)', '![](../secret.png)', '![](secret.png)', '![](.)', '![](..)', '![](file:secret.png)', '![](\\\\host\\share\\a.png)', '![](http://127.0.0.1:9/a.png)', '![](data:image/png;base64,abc)',
        '![](data:image/png;base64,iVBORw0KGgo=)', '![](data:image/svg+xml;base64,' + base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="file:///etc/passwd"/><script>1</script></svg>').decode() + ')',
        '![](attachment:nothing.png)', '![x][y]\n\n[y]: /etc/passwd', '<embed src="/etc/passwd">', '<iframe src="file:///etc/passwd"></iframe>', '<style>@import "/etc/passwd"</style>', '<a href="javascript:alert(1)">x</a>', '[x](data:text/html,<script>)',
        '```{.python .cb.run}\nopen("owned", "w")\n```', '```{=html}\n<script>alert(1)</script>\n```', '```{=latex}\n\\input{/etc/passwd}\n```', '`x`{=html}', '\\write18{touch owned}', '$\\input{/etc/passwd}$', '$\\href{file:///etc/passwd}{x}$',
        '#include "/etc/passwd"', '#import "../secret.typ"', '#let x = read("/etc/passwd")\n#x', '#eval("1+1")', '#plugin("/etc/passwd")', '#set page(width: 1pt)', '#show: it => none', '#image("../secret.png")', '#bibliography("/etc/passwd")', '#csv("/etc/passwd")',
        '#while true {}', '#while true [x]', '$#while true {}$', '#sys.inputs', '#pagebreak()', '/* open', '// comment', '#raw(read("/etc/passwd"))', '= Heading', '<label> @label', '!include /etc/passwd', '{% include "/etc/passwd" %}', '{{ 7*7 }}', '${7*7}', '%(x)s',
        ': caption {typst:table:none}', '+---+\n| #read("x") |\n+---+', '^[#read("/etc/passwd")]', '[^a]: #read("/etc/passwd")\n\n[^a]', '*[x]{#a}*', '::: {.callout}\n#read("x")\n:::', '---\ninclude-before: [/etc/passwd]\n---', '> '*20 + 'deep', '- '*20 + 'deep', '['*500, '*a **b '*200,
        '`'*1000, '\\'*999, '\u202e\u2066 \x00 \x07 \x1b[2J', '&#35;read(&#34;/etc/passwd&#34;)', '￿\ud7ff']


def test_answers_are_text(tmp_path, capsys):
    "Each alone in a cell: there is a PDF with what stands before and behind it, nothing runs, and nothing of a file outside is in it."
    folder = tmp_path/'in'; folder.mkdir()
    from PIL import Image
    Image.new('RGB', (8, 8), 'red').save(tmp_path/'secret.png'); (tmp_path/'secret.typ').write_text(f'#let x = "{CANARY}"')
    os.symlink(tmp_path/'secret.png', folder/'secret.png')
    attacks = EVIL + MORE
    with at_most(240): text, source, problems = pages(*(f'cell {i} begins\n\n{e}\n\ncell {i} ends' for i, e in enumerate(attacks)), folder=folder)
    assert CANARY not in text and 'root:' not in text and 'PATH=' not in text
    for i, e in enumerate(attacks): assert f'cell {i} begins' in text and f'cell {i} ends' in text, e
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in', 'secret.png', 'secret.typ'] and [p.name for p in folder.iterdir()] == ['secret.png'] and not (ROOT/'owned').exists()
    assert not re.search(r'(?<!\\)#image|figure\(image', source) and len(problems) >= 14 and all('\n' not in p for p in problems)
    with capsys.disabled(): print(f'\n{len(attacks)} attacks in answers: {len(attacks)} are text, {len(problems)} pictures are named as not shown')


HARD = {'nested quotes': '> '*3000 + 'x', 'nested lists': '\n'.join('  '*i + '- x' for i in range(150)), 'nested brackets': '['*5000 + ']'*5000, 'long word': 'a'*10**6, 'many lines': 'x\n\n'*20_000, 'nested emphasis': '*a **b '*300, 'nested math': '$' + '{'*3000 + '}'*3000 + '$',
        'zeros': '\0'*1000, 'wide table': '|' + 'a|'*1500 + '\n|' + '-|'*1500 + '\n|' + 'b|'*1500, 'huge formula': '$' + 'x^'*2000 + 'x$', 'page too small': '#set page(width: 0pt)', 'a thousand pictures': '![](a.png)\n\n'*1000}

@pytest.mark.parametrize('name', HARD)
def test_hard_answers(name, tmp_path, in_process, monkeypatch):
    "`vit_report --answers` with text that is hard to read: a PDF, or one line."
    monkeypatch.setattr(R, 'execute', lambda nb, folder, **kw: nb)
    monkeypatch.setattr('vit_course.tools.typesetting.PANDOC_TIMEOUT', 10)
    (tmp_path/'output').mkdir(); (tmp_path/'a.md').write_text(f'# Why patches?\n\n{HARD[name]}\n\n# Why not pixels?\n\nBecause.\n')
    with at_most(120): status, out, err = in_process(vit_report, '--lastname', 'Ada', '--answers', 'a.md')
    assert status in (0, 2) and 'Traceback' not in err and all(line.isprintable() for line in err.splitlines()), err
    assert err.count('\n') == 1 or status == 0
    assert (tmp_path/'report'/'Ada_ViT.pdf').exists() == (status == 0)


def notebooks():
    "The report's notebook as a stranger, or a bad editor, may have left it: {what: JSON}."
    good = json.loads((ROOT/'report'/'report.ipynb').read_text())
    def with_cell(**kw): return good | dict(cells=good['cells'] + [cell(**kw)])
    out = {'no base64': with_cell(source='![x](attachment:a.png)', kind='markdown', attachments={'a.png': {'image/png': 'abc'}}), 'no bytes': with_cell(source='x', kind='markdown', attachments={'a.png': {'image/png': 3}}),
           'attachments are a list': with_cell(source='x', kind='markdown', attachments=[1]), 'an empty attachment': with_cell(source='x', kind='markdown', attachments={'a.png': {}}),
           'a strange kind': with_cell(source='![x](attachment:a.png)', kind='markdown', attachments={'a.png': {'image/../../../x y\0': 'aaaa'}}), 'output is no picture': with_cell(outputs=[dict(output_type='display_data', metadata={}, data={'image/png': 'abc'})]),
           'outputs are text': with_cell(outputs='x'), 'an unknown output': with_cell(outputs=[dict(output_type='<b>')]), 'no outputs': good | dict(cells=[dict(cell_type='code', source='1')]),
           'no metadata': {k: v for k, v in good.items() if k != 'metadata'}, 'nbformat 3': good | dict(nbformat=3), 'nbformat 99': good | dict(nbformat=99), 'nbformat is text': good | dict(nbformat='x'), 'no cells': good | dict(cells=[]), 'cells are text': good | dict(cells='x'),
           'tags': with_cell(metadata={'tags': 3}), 'unknown kind of cell': with_cell(kind='<script>'), 'source is a number': with_cell(source=3), 'source is null': with_cell(source=None), 'deep metadata': good | dict(metadata={'a': [[[[[[1]]]]]]})}
    return {k: json.dumps(v).encode() for k, v in out.items()} | {'deep': b'[' * 10**5, 'deep cells': b'{"cells":' * 10**5, 'UTF-16': json.dumps(good).encode('utf-16'), 'numbers': b'9' * 10**4, 'cut': json.dumps(good).encode()[:5000], 'zeros': bytes(1000)}

def test_edited_report_notebooks(tmp_path, in_process, monkeypatch, capsys):
    "A report, or one line that names the notebook; no traceback, and the notebook stays as it was."
    monkeypatch.setattr(R, 'execute', lambda nb, folder, **kw: nb)
    (tmp_path/'output').mkdir(); (tmp_path/'report').mkdir()
    path, made = tmp_path/'report'/'report.ipynb', 0
    for what, content in notebooks().items():
        path.write_bytes(content)
        (tmp_path/'report'/'Ada_ViT.pdf').unlink(missing_ok=True)
        with at_most(60): status, out, err = in_process(vit_report, '--lastname', 'Ada')
        assert status in (0, 2) and 'Traceback' not in err and all(line.isprintable() for line in err.splitlines()), (what, err)
        assert status == 0 or err.count('\n') == 1 and err.startswith('vit_report: '), (what, err)
        assert path.read_bytes() == content and (tmp_path/'report'/'Ada_ViT.pdf').exists() == (status == 0), what
        made += status == 0
    with capsys.disabled(): print(f'\n{len(notebooks())} edited report notebooks: {made} made a report, {len(notebooks()) - made} were refused in one line')
