"The promises of the repository about itself."
import ast, configparser, importlib.util, json, re, sys
from importlib import metadata

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location('docs_setup_cells', ROOT/'docs'/'setup_cells.py')
setup_cells = importlib.util.module_from_spec(spec); spec.loader.exec_module(setup_cells)

NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
LESSONS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path):
    assert path.stat().st_size < 1_000_000
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    code = [c for c in cells if c['cell_type'] == 'code']
    assert len(code) < 5 or any(c['outputs'] for c in code), 'commit it with its outputs'
    assert not [o for c in code for o in c['outputs'] if o['output_type'] == 'error']
    text = json.dumps(cells)
    assert '/tmp/' not in text and 'site-packages' not in text, 'an output shows a path of the machine it ran on'
    sources = [''.join(c['source']) for c in cells]
    for word in ('BEGIN', 'END'):
        lines = [l for s in sources for l in s.splitlines() if re.match(rf'\s*#.*{word} SOLUTION', l)] # not code that speaks of them
        assert all(re.fullmatch(rf'\s*# {word} SOLUTION', l) for l in lines), lines
    assert text.count('# BEGIN SOLUTION') == text.count('# END SOLUTION')


@pytest.mark.parametrize('path', [p for p in NOTEBOOKS if p.stem != 'index'], ids=lambda p: p.stem)
def test_chapter_runs_on_colab_and_builds_for_the_website(path):
    code = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    assert 'google.colab' in code[0], 'the first code cell installs the course on Colab: copy it from another chapter'
    for source in code[1:]:   # nbdev runs cells with imports when it builds the website, and no others
        if re.search(r'^#\|\s*(export|eval:\s*false)', source, re.M) or 'nbdev_export()' in source: continue
        tree = ast.parse('\n'.join('pass' if line.startswith(('%', '!')) else line for line in source.splitlines()))
        kinds = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree) if isinstance(n, ast.stmt)]
        assert all(kinds) or not any(kinds), f'imports stand in a cell of their own:\n{source}'


def code_cells(path): return [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']


def brought_by(extra):
    "All packages, by normal name, that come with the package and one of its extras, and what those need in turn."
    from packaging.requirements import Requirement
    def plain(name): return re.sub(r'[-_.]+', '-', name).lower()
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    todo, found = [*map(Requirement, (ini['DEFAULT']['requirements'] + ' ' + ini['DEFAULT'][f'{extra}_requirements']).split())], {}
    while todo:
        r = todo.pop()
        wanted = {'', *r.extras}
        if wanted <= found.get(plain(r.name), set()): continue
        found.setdefault(plain(r.name), set()).update(wanted)
        try: needs = metadata.requires(r.name) or []
        except metadata.PackageNotFoundError: continue
        todo += [n for n in map(Requirement, needs) if not n.marker or any(n.marker.evaluate(dict(extra=e)) for e in wanted)]
    return set(found)


def imported(path):
    "Packages of others that the cells of a notebook import."
    for cell in code_cells(path):
        for statement in setup_cells.statements(''.join(cell['source'])) or []:
            for n in ast.walk(statement):
                names = [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module] if isinstance(n, ast.ImportFrom) else []
                yield from {name.split('.')[0] for name in names} - {*sys.stdlib_module_names, 'vit_course'}


def test_colab_gets_what_the_lessons_import():
    for path in LESSONS: assert 'vit_course[learn] @ git+https' in ''.join(code_cells(path)[0]['source']), path.name
    learn, makers = brought_by('learn'), metadata.packages_distributions()
    def missing(names): return {n for n in names if not {re.sub(r'[-_.]+', '-', d).lower() for d in makers[n]} & learn}
    needed = {n for path in LESSONS for n in imported(path)}
    assert {'torch', 'timm', 'skimage', 'sklearn', 'PIL'} <= needed and not missing(needed), missing(needed)
    assert missing({'timm', 'nbdev', 'hypothesis'}) == {'nbdev', 'hypothesis'}


def is_folded(cell): return bool(cell['metadata'].get('jupyter', {}).get('source_hidden'))


@pytest.mark.parametrize('path', LESSONS, ids=lambda p: p.stem)
def test_set_up_cells_are_folded_in_jupyterlab(path):
    cells, folded = code_cells(path), 0
    for cell in cells:
        source = ''.join(cell['source'])
        assert is_folded(cell) == setup_cells.is_setup(cell), f'run `python docs/setup_cells.py`:\n{source}'
        if not is_folded(cell): continue
        folded += 1
        assert not cell['outputs'] and not re.search(r'SOLUTION|#\| exercise|^assert|^test_', source, re.M), source
    assert folded >= 3 and is_folded(cells[0]) and folded < len(cells)/2


@pytest.mark.parametrize('source, setup', [
    ('import torch', True), ('#| default_exp a', True), ('#| export\nimport a\n_all_ = ["b"]', True), ('#| hide\nplt.rcParams["a"] = 1\nroot = 2', True),
    ("#| hide\nimport sys\nif 'google.colab' in sys.modules: pass", True), ('%matplotlib inline\nimport a', True), ('#| export\nwith quiet():\n    import a', True),
    ('import a\na.b()', False), ('def f(x):\n    # BEGIN SOLUTION\n    return x\n    # END SOLUTION', False), ('#| exports\ndef f(): pass', False),
    ('#| hide\nassert True', False), ('#| hide\nimport a\nassert a', False), ('x = 1', False), ('', False)])
def test_what_a_set_up_cell_is(source, setup):
    assert setup_cells.is_setup(dict(cell_type='code', source=source, outputs=[])) == setup
    assert not setup_cells.is_setup(dict(cell_type='code', source=source, outputs=[dict(output_type='stream')]))
    assert not setup_cells.is_setup(dict(cell_type='markdown', source=source))


@pytest.mark.parametrize('path', sorted((ROOT/'vit_course').rglob('*.py')), ids=lambda p: p.stem)
def test_package_has_no_solution_markers(path):
    assert not re.search(r'^\s*#.*SOLUTION', path.read_text(encoding='utf-8'), re.M)


def behind_the_title(path):
    "Text in the first cell behind title and description: nbdev makes front matter of that cell and drops the rest on the website."
    source = ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source'])
    return re.sub(r'^# [^\n]*\n\s*(> [^\n]*\n?)*', '', source).strip()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_the_website_shows_the_introduction(path):
    assert not behind_the_title(path), 'give the introduction a cell of its own'


def test_text_behind_a_title_is_found(tmp_path):
    for source, text in (('# A\n\n> b', ''), ('# A\n> b\n\nLost.', 'Lost.'), ('# A\n\nLost.', 'Lost.')):
        (tmp_path/'x.ipynb').write_text(json.dumps(dict(cells=[dict(source=source)])))
        assert behind_the_title(tmp_path/'x.ipynb') == text


def test_readme_is_the_index_notebook():
    from readme import readme
    assert (ROOT/'README.md').read_text(encoding='utf-8') == readme(), 'README.md is out of date: run `python tests/readme.py`'


def test_readme_differs_when_the_notebook_does(tmp_path):
    from readme import readme
    nb = json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8'))
    nb['cells'][0]['source'] = ['# Something else']
    (tmp_path/'index.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    assert readme(tmp_path/'index.ipynb') != readme()


def test_every_chapter_is_listed():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    for p in LESSONS: assert p.name in text, f'README does not mention {p.name}'


def test_readme_pictures_exist():
    for path in re.findall(r'!\[[^\]]*\]\((?!https://github.com/)([^)]+)\)', (ROOT/'README.md').read_text(encoding='utf-8')): assert (ROOT/path).exists(), path


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_links_between_notebooks_lead_somewhere(path):
    for target in re.findall(r'\]\(([\w./-]+\.(?:ipynb|png))', path.read_text(encoding='utf-8')): assert (path.parent/target).exists(), target


def raw_on_the_site(markdown):
    "Folded text (hints, answers) with Markdown or formulas in it and no empty line above: it is set as it is typed."
    for folded in re.findall(r'<details>(.*?)</details>', markdown, re.S):
        _, _, text = folded.partition('</summary>')
        if re.search(r'[`$*]|\]\(', re.sub(r'<code>.*?</code>', '', text, flags=re.S)) and not text.startswith('\n\n'): yield text.strip()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_folded_text_is_set_as_markdown(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    found = [text for c in cells if c['cell_type'] == 'markdown' for text in raw_on_the_site(''.join(c['source']))]
    assert not found, 'an empty line is missing behind </summary>:\n' + '\n'.join(found)


def test_raw_folded_text_is_found():
    fold = '<details><summary>Hint: `a`</summary>{}</details>'.format
    for text in ('\n$x$\n', '`x`', '\nsee [x](y)', '\n<code>x</code> and *y*\n'): assert list(raw_on_the_site(fold(text))) == [text.strip()]
    for text in ('\nplain\n', '<code>a*b</code>', '\n\n$x$ and `x`\n\n'): assert not list(raw_on_the_site(fold('Hm.') + fold(text)))
