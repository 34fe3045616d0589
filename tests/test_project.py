"The promises of the repository about itself."
import ast, json, re

import pytest
from conftest import ROOT

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
