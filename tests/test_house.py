"""The rules of the house (CONTRIBUTING.md): sizes, floors, line lengths, words. Each has a test that it can fail."""
import ast, importlib.util, json, re, subprocess, sys
from pathlib import Path

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location('docs_house', ROOT/'docs'/'house.py')
house = importlib.util.module_from_spec(spec); spec.loader.exec_module(house)

NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
LESSONS = [p for p in NOTEBOOKS if p.parent.name == 'nbs' and p.stem[:2].isdecimal()]
MOST = dict(words=3000, lines=300, names=25)


def cells(path, kind): return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind]


def count_words(markdown):
    "Words of prose, without folded hints, code, formulas and addresses."
    for pattern in (r'<details>.*?</details>', r'```.*?```', r'<[^>]+>', r'\$\$.*?\$\$|\$[^$]*\$', r'`[^`]*`', r'\]\([^)]*\)'):
        markdown = re.sub(pattern, ' ', markdown, flags=re.S)
    return len(re.findall(r"[A-Za-z][\w'’-]*", markdown))


def size_of(path):
    "(words of prose, exported lines, names in `__all__`) of a lesson."
    exported = [s for s in cells(path, 'code') if re.match(r'#\|\s*export', s)]
    lines = sum(bool(l.strip()) and not l.startswith('#|') for s in exported for l in s.splitlines())
    module = re.search(r'#\|\s*default_exp (\S+)', '\n'.join(cells(path, 'code')))
    names = promised((ROOT/'vit_course'/f"{module[1].replace('.', '/')}.py").read_text(encoding='utf-8')) if module else []
    return dict(words=count_words('\n'.join(cells(path, 'markdown'))), lines=lines, names=len(names))


def promised(source):
    "The names in `__all__` of a module."
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__': return ast.literal_eval(node.value)
    return []


@pytest.mark.parametrize('path', LESSONS, ids=lambda p: p.stem)
def test_lessons_are_small(path):
    size = size_of(path)
    assert all(size[k] <= MOST[k] for k in MOST), f'{path.name} has {size}; a lesson has at most {MOST}: move what is no lesson into a tool'


def test_sizes_are_counted():
    assert count_words('One, two `three` $x$ <b>four</b> [five](six.md)\n<details>seven</details>') == 4
    assert promised("__all__ = ['a', 'b']\na = b = 1") == ['a', 'b']
    assert size_of(ROOT/'nbs'/'03_encoder.ipynb')['lines'] > 50


def test_no_circles():
    house.floors(house.graph(house.modules()))


def test_circles_are_found(tmp_path):
    for name, source in dict(a='from .b import x', b='def f():\n    from .c import y', c='from vit_course import a').items():
        (tmp_path/f'{name}.py').write_text(source)
    with pytest.raises(ValueError, match='circle: a -> b -> c -> a'): house.floors(house.graph(house.modules(tmp_path)))


def test_picture_of_the_house_is_up_to_date():
    assert (ROOT/'docs'/'house.svg').read_text(encoding='utf-8') == house.svg(), 'run `python docs/house.py`'


def patched_classes(path):
    "Our own classes that @patch in a notebook spreads over cells."
    ours = {n.name for s in cells(path, 'code') if '%' not in s[:1] for n in ast.walk(parse(s)) if isinstance(n, ast.ClassDef)}
    for s in cells(path, 'code'):
        for n in ast.walk(parse(s)):
            if isinstance(n, ast.FunctionDef) and any(getattr(d, 'id', '') == 'patch' for d in n.decorator_list):
                kind = getattr(n.args.args[0].annotation, 'id', '?')
                if kind in ours or kind == '?': yield f'{kind}.{n.name}'


def parse(source):
    try: return ast.parse('\n'.join('pass' if re.match(r'\s*[%!]', l) else l for l in source.splitlines()))
    except SyntaxError: return ast.parse('')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_a_class_stands_in_one_place(path):
    assert not list(patched_classes(path))


def test_patches_are_found(tmp_path):
    nb = dict(cells=[dict(cell_type='code', source=s) for s in ('class A: pass', '@patch\ndef f(self:A): pass', '@patch\ndef g(self:Path): pass')])
    (tmp_path/'x.ipynb').write_text(json.dumps(nb))
    assert list(patched_classes(tmp_path/'x.ipynb')) == ['A.f']


def ruff(paths, width, select='E501,E702,F', ignore=()):
    "What ruff finds in files, a line each."
    command = [sys.executable, '-m', 'ruff', 'check', '--isolated', '--no-cache', '--output-format', 'concise', '--line-length', str(width), '--select', select]
    done = subprocess.run([*command, *(['--ignore', ','.join(ignore)] if ignore else []), *map(str, paths)], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [l for l in done.stdout.splitlines() if re.search(r': [EF]\d+ ', l)]


# cells import once for all that follow and define the better version under the same name; fastcore.test is imported whole; only a module begins with `__future__`
IN_NOTEBOOKS = ('F401', 'F403', 'F404', 'F405', 'F811', 'F821')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_lines(path):
    found = ruff([path], 100 if path.parent.name in ('tools', 'teach') else 88, ignore=IN_NOTEBOOKS)
    found = [f for f in found if not is_directive(path, f)]
    assert not found, '\n'.join(found)


def is_directive(path, finding):
    "Is the line one that nbdev or vit_assign reads, which cannot be wrapped?"
    cell, line = map(int, re.search(r':cell (\d+):(\d+):', finding).groups())
    source = json.loads(path.read_text(encoding='utf-8'))['cells'][cell - 1]['source']
    return ''.join(source).splitlines()[line - 1].startswith('#| ')


def test_modules_use_only_names_that_exist():
    "In notebooks a name may come from another cell; in a module it may not be missing."
    assert not ruff([ROOT/'vit_course'], 200, select='F821,F811')


def test_long_lines_are_found(tmp_path):
    (tmp_path/'x.py').write_text('import os\nx = 1; y = 2\nz = ' + '1 + '*30 + '1\n')
    assert {f.split(': ')[1][:4] for f in ruff([tmp_path/'x.py'], 88)} == {'E501', 'E702', 'F401'}


HOMEMADE = """Team launched Together bare Precision Accumulate ClipNorm Schedule Mean Smooth wide Meter matmul_rate limits complete
need Busy Diverged OutOfMemory Grow drop_patches skip_depth share parts send seeded Board bury alive leaders patience Study points
Soften believable carry_out replacing DAMAGE knows places as_written shuffled pointing fuse class_numbers jail enter_jail can_jail
Gone Watched Launched""".split()


@pytest.mark.parametrize('name', sorted(house.modules()))
def test_public_names_are_the_fields(name):
    public = promised(house.modules()[name].read_text(encoding='utf-8'))
    fine = {'send'} if name == 'teach.sandbox' else set()          # a message is sent through a pipe
    assert not set(public) & set(HOMEMADE) - fine, 'the field has another word'
    assert not [n for n in public if re.search('picture', n, re.I)], 'say image'


@pytest.mark.parametrize('name', sorted(house.modules()))
def test_all_is_what_can_be_imported(name):
    "`__all__`, which the reference shows, names what the module defines, each once."
    source = house.modules()[name].read_text(encoding='utf-8')
    defined = {n.name for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    defined |= {a.asname or a.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom) for a in n.names}
    defined |= {t.id for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.Assign, ast.AnnAssign))
                for t in (n.targets if isinstance(n, ast.Assign) else [n.target]) for t in ([t] if isinstance(t, ast.Name) else getattr(t, 'elts', [])) if isinstance(t, ast.Name)}
    public = promised(source)
    assert len(public) == len(set(public)) and set(public) <= defined, set(public) - defined
    functions = {n.name for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')}
    assert functions <= set(public), f'neither in __all__ nor with an underscore: {functions - set(public)}'
