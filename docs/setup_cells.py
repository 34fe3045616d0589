"""Fold the set-up cells of the lessons in JupyterLab, as the website does: `python docs/setup_cells.py`, after a lesson got a new one.

A folded cell shows three dots that open it (`jupyter.source_hidden` in its metadata, which `nbdev_clean` keeps)."""
import ast, json, re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
SETTINGS = re.compile(r'(plt\.rcParams|torch\.(manual_seed|set_\w+)|random\.seed|np\.set_printoptions|warnings\.|logging\.|set_seed|set_matplotlib|os\.chdir)')
HIDDEN = {'source_hidden': True}


def sets_up(n):
    "Is this statement an import, a setting, a list of names, or a block with nothing else in it?"
    if isinstance(n, (ast.Import, ast.ImportFrom)): return True
    if isinstance(n, ast.With): return all(map(sets_up, n.body))
    if isinstance(n, ast.Assign): return ast.unparse(n.targets[0]) in ('device', '_all_') or bool(SETTINGS.match(ast.unparse(n)))
    return isinstance(n, ast.Expr) and bool(SETTINGS.match(ast.unparse(n)))


def statements(source):
    "What a cell says in Python, without lines for IPython; None where that is no Python."
    try: return ast.parse('\n'.join(line for line in source.splitlines() if not line.startswith(('%', '!')))).body
    except SyntaxError: return None


def is_setup(cell):
    """Does this cell of a notebook only prepare the others? It installs the course on Colab, names the module, imports, or sets something,
    and shows nothing. A cell that the website hides may make a folder or a helper besides."""
    if cell['cell_type'] != 'code' or cell['outputs']: return False
    source = ''.join(cell['source'])
    marks = set(re.findall(r'^#\|\s*(\w+)', source, re.M))
    if 'default_exp' in marks or "'google.colab' in sys.modules" in source: return True
    body = statements(source)
    if not body or marks - {'hide', 'export'}: return False
    checks = any(isinstance(n, ast.Assert) or ast.unparse(n).startswith('test_') for n in body)
    return all(map(sets_up, body)) or 'hide' in marks and sets_up(body[0]) and not checks


def fold(path):
    "Fold the set-up cells of a notebook and open all others. Returns how many are folded; writes only where something changes."
    before = path.read_text(encoding='utf-8')
    nb, folded = json.loads(before), 0
    for cell in nb['cells']:
        cell['metadata'].pop('jupyter', None)
        if is_setup(cell): cell['metadata']['jupyter'] = HIDDEN; folded += 1
    after = json.dumps(nb, indent=1, ensure_ascii=False) + '\n'
    if after != before: path.write_text(after, encoding='utf-8')
    return folded


if __name__ == '__main__':
    for path in sorted((root/'nbs').glob('[0-9]*_*.ipynb')): print(f'{path.stem}: {fold(path)} cells')
