"""Quarto and smalldocs both run this in `_proc`, before they render the notebooks that nbdev has put there.

It adds what a website has and a notebook has not: numbered titles, the way to the pages before and after, links to Colab and for a
download, folded solutions and set-up cells, words for those who cannot see a figure, metadata for search engines, the explorer with
a model in it, and a reference of all modules and commands."""
import ast, configparser, html, json, os, re, shutil, subprocess, sys
from pathlib import Path

import yaml

from setup_cells import sets_up, statements

root, site = Path(__file__).resolve().parent.parent, Path.cwd()
ini = configparser.ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
github = f"{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/nbs"


HELP = """import contextlib, importlib, io, json, sys
shown = []
for name, target in json.loads(sys.argv[1]):
    module, function = target.split(':')
    sys.argv = [name, '--help']
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        getattr(importlib.import_module(module), function)()
    shown.append(out.getvalue())
print(json.dumps(shown))"""   # in a process of its own, because of the width and of what a command's import may print


def order():
    "All notebooks as the sidebar has them, as paths in the site: lessons, deeper ones, tools, rooms for teaching."
    return ['index.ipynb', *(p.relative_to(site).as_posix() for pattern in ('[0-9][0-9]_*', '[0-9][0-9]b_*', 'tools/*', 'teach/*')
                             for p in sorted(site.glob(pattern + '.ipynb')))]


def front_matter(nb): return yaml.safe_load(''.join(nb['cells'][0]['source']).strip().strip('-'))


def numbered(name, title):
    "'2 Attention' for 02_attention.ipynb; a title without a number stays."
    number = re.match(r'0*(\d+b?)_', Path(name).name)
    return f'{number[1]} {title}' if number else title


def add_links(nb, name, titles):
    """The front matter that a page needs, and a row at its top and its end: the page before, Colab, download, the page after.
    `titles` are those of all notebooks, in order."""
    front, names = front_matter(nb), list(titles)
    front.pop('output-file', None)           # pages are named after their notebooks
    front |= {'title': titles[name], 'page-navigation': False}
    i = names.index(name)
    def link(j, text): return f'[{text.format(titles[names[j]])}]({os.path.relpath(names[j], Path(name).parent)})' if 0 <= j < len(names) else '[]{}'
    raw = github.replace('/blob/', '/')
    row = (f'::: {{.page-links}}\n{link(i - 1, "← {}")}\n[Open in Colab](https://colab.research.google.com/github/{github}/{name})\n'
           f'[Download notebook](https://raw.githubusercontent.com/{raw}/{name})\n{link(i + 1, "{} →")}\n:::\n')
    front['include-in-header'] = [dict(text=f'<script type="application/ld+json">{json.dumps(about(name, front), ensure_ascii=False)}</script>')]
    nb['cells'][0]['source'] = f'---\n{yaml.safe_dump(front, allow_unicode=True, width=1000)}---\n'
    for at, key in ((1, 'top'), (len(nb['cells']) + 1, 'end')):
        nb['cells'].insert(at, dict(cell_type='markdown', id=f'links-{key}', metadata={}, source=row))


def about(name, front):
    "A page in the words of schema.org: the course, or one of its lessons."
    home = cfg['doc_host'] + cfg['doc_baseurl']
    course = {'@type': 'Course', '@id': home, 'name': cfg['title'], 'description': cfg['description'], 'url': home,
              'provider': {'@type': 'Organization', 'name': cfg['author'], 'url': cfg['git_url']}}
    both = {'inLanguage': 'en', 'isAccessibleForFree': True, 'license': 'https://www.apache.org/licenses/LICENSE-2.0', 'version': cfg['version']}
    if name == 'index.ipynb': return {'@context': 'https://schema.org', **course, **both, 'hasCourseInstance': {'@type': 'CourseInstance', 'courseMode': 'online'}}
    return {'@context': 'https://schema.org', '@type': 'LearningResource', 'name': front['title'], 'description': front.get('description', ''),
            'url': home + name.replace('.ipynb', '.html'), 'learningResourceType': 'lesson' if name[0].isdecimal() else 'documentation',
            'isPartOf': course, **both}


def solutions(notebook):
    "Ids of the cells of a notebook that hold a solution: with the marks inside, or between two raw cells with them."
    found, inside = set(), False
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        text = ''.join(cell['source'])
        if cell['cell_type'] == 'raw' and 'SOLUTION' in text: inside = 'BEGIN' in text
        elif cell['cell_type'] == 'code' and (inside or '# BEGIN SOLUTION' in text): found.add(cell['id'])
    return found


def folded(notebook):
    "Ids of the cells of a notebook that ask with `#| fold` to be folded although they are exported and shown."
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    return {cell['id'] for cell in cells if re.search(r'^#\|\s*fold\s*$', ''.join(cell['source']), re.M)}


def options(cell, **new):
    "Give a code cell options such as `code-fold`, in place of those that it has."
    lines = ''.join(cell['source']).splitlines()
    def keeps(line): return not any(line.startswith(f"#| {k.replace('_', '-')}:") for k in new)
    cell['source'] = '\n'.join([f"#| {k.replace('_', '-')}: {json.dumps(v, ensure_ascii=False)}" for k, v in new.items()] + [l for l in lines if keeps(l)])


def is_setup(cell):
    "Is this a code cell of imports and settings, which shows nothing?"
    source = ''.join(cell['source'])
    if cell['cell_type'] != 'code' or cell['outputs'] or '#| ' in source: return False
    body = statements(source)
    return bool(body) and all(map(sets_up, body))


def is_check(cell):
    "Is this a code cell of asserts and tests alone, of more than four lines, which shows nothing?"
    text = ''.join(cell['source'])
    if cell['cell_type'] != 'code' or cell['outputs'] or '#| ' in text or len(text.splitlines()) < 5: return False
    try: body = ast.parse(text).body
    except SyntaxError: return False
    def checks(n):
        if isinstance(n, (ast.For, ast.With)): return all(map(checks, n.body))
        return isinstance(n, ast.Assert) or isinstance(n, ast.Expr) and ast.unparse(n).startswith('test_')
    return sum(map(checks, body)) > len(body)/2


def is_drawing(cell):
    "Is this a code cell of more than seven lines that draws a figure, and says nothing but its caption and alt text?"
    text = ''.join(cell['source'])
    return (cell['cell_type'] == 'code' and not re.search(r'^#\| (?!fig-)', text, re.M) and code_lines(text) > 7 and bool(re.search(r'\b(plt|axe?s?|fig)\b\.?', text))
            and any('image/png' in o.get('data', {}) for o in cell['outputs']))


LONG = 25    # lines of a code cell that are more than a screen should be given to before somebody asks

def code_lines(text): return sum(not line.startswith('#|') for line in text.splitlines())


def show_once(nb, solved):
    """nbdev adds the signature of each name that is exported, around the source. Where that is shown it is enough, so the signature goes;
    where it is a solution with one of these ids, and so folded, all its signatures stand in front of it and say what is to be written."""
    def exported(cell): return re.findall(r'^(?:class|def) (\w+)', ''.join(cell['source']), re.M) if 'Exported source' in ''.join(cell['source']) else []
    homes = {name: cell for cell in nb['cells'] for name in exported(cell)}
    signatures, kept = {}, []
    for cell in nb['cells']:
        name = re.search(r'^show_doc\((\w+)', ''.join(cell['source']), re.M)
        home = homes.get(name[1]) if name else None
        if not home: kept.append(cell)
        elif home.get('id') in solved:
            for out in cell['outputs']:       # without a heading of its own
                shown = ''.join(out['data'].get('text/markdown', ''))
                out['data']['text/markdown'] = re.sub(r'\A---\n\n|^### .*\n\n', '', shown, flags=re.M)
            signatures.setdefault(home['id'], []).append(cell)
    nb['cells'] = [c for cell in kept for c in [*signatures.get(cell.get('id'), []), cell]]


def fold(nb, solved, asked=()):
    """Fold set-up cells, neighbours as one, the solutions with these ids, those with the ids in `asked`, checks, what only draws, and
    code that is very long."""
    kept = []
    for cell in nb['cells']:
        text, before = ''.join(cell['source']), kept[-1] if kept else None
        if cell.get('id') in solved: options(cell, code_fold=True, code_summary='Solution')
        if is_setup(cell):
            if before and before.get('setup'): before['source'] += '\n' + text; continue
            options(cell, code_fold=True, code_summary='Set-up')
            cell['setup'] = True
        elif cell.get('id') in solved: pass
        elif '#| code-fold: true' in text: pass
        elif cell['cell_type'] == 'code' and '#| echo: false' not in text and (code_lines(text) > LONG or cell.get('id') in asked):
            options(cell, code_fold=True, code_summary=f"{'Exported source' if 'Exported source' in text else 'Code'}, {code_lines(text)} lines")
        elif is_check(cell): options(cell, code_fold=True, code_summary='Checks')
        elif is_drawing(cell): options(cell, code_fold=True, code_summary='Code of the figure')
        kept.append(cell)
    for cell in kept: cell.pop('setup', None)
    nb['cells'] = kept


def words_for_figures(nb):
    "Figures without `fig-alt` get the text that leads to them, and the names of their axes."
    heading = said = ''
    for cell in nb['cells']:
        text = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            text = re.sub(r'<details.*?</details>|```.*?```|\$\$.*?\$\$|::: .*?:::', '', text, flags=re.S)
            for part in filter(None, map(str.strip, re.split(r'\n\s*\n|\n(?=#)|(?<=#)\n', text))):
                plain = ' '.join(re.sub(r'!?\[([^\]]*)\]\([^)]*\)|[`*$]|<[^>]*>', r'\1', part.lstrip('#>-| ')).split())
                if part.startswith('#'): heading, said = plain, ''
                elif plain: said = plain
        if cell['cell_type'] != 'code' or 'fig-alt' in text: continue
        if not any('image/' in ' '.join(o.get('data', {})) or '<img' in ''.join(o.get('data', {}).get('text/html', '')) for o in cell['outputs']): continue
        axes = [a for pair in re.findall(r"""(?:set_)?xlabel\(?=?(['"])([^'"{]+)\1.*?ylabel\(?=?(['"])([^'"{]+)\3""", text, flags=re.S) for a in [f'{pair[3]} against {pair[1]}']]
        words = said if len(said) < 240 else said[:240].rsplit(' ', 1)[0] + ' …'
        alt = ' '.join(f'Figure: {heading}. {words} {"; ".join(dict.fromkeys(axes))}'.split())
        options(cell, fig_alt=alt)
        for out in cell['outputs']:
            shown = ''.join(out.get('data', {}).get('text/html', ''))
            if '<img' in shown: out['data']['text/html'] = re.sub(r'<img(?![^>]*\balt=)', lambda m: f'<img alt="{html.escape(alt)}"', shown)


def plain_signatures(nb):
    "In what `show_doc` gives, links do not work within code, and nbdev's italics end with the first line of a paragraph: both go."
    for out in (o for cell in nb['cells'] for o in cell.get('outputs', [])):
        shown = ''.join(out.get('data', {}).get('text/markdown', ''))
        if '```python' not in shown: continue
        shown = re.sub(r'```python\n.*?```', lambda m: re.sub(r'\[(`[^`]+`)\]\([^)]*\)', r'\1', m[0]), shown, flags=re.S)
        out['data']['text/markdown'] = re.sub(r'^\*([^*\n]+)\*(?=\n\S)', r'\1', shown, flags=re.M)


def tidy(nb):
    "Drop marks of solutions, outputs that are only a style sheet, and cells of which nothing is left."
    for cell in nb['cells']:
        kept = [line for line in ''.join(cell['source']).splitlines() if line.strip() not in ('# BEGIN SOLUTION', '# END SOLUTION')]
        cell['source'] = '\n'.join(kept)
        if cell['cell_type'] == 'markdown':     # badges that another host draws are for README alone
            cell['source'] = re.sub(r'\[!\[[^\]]*\]\(https://[^)]*\)\]\([^)]*\) ?', '', cell['source'])
        if 'outputs' in cell:
            def style(o): return re.fullmatch(r'\s*<style>[^<]*</style>\s*', ''.join(o.get('data', {}).get('text/html', '')))
            cell['outputs'] = [o for o in cell['outputs'] if not style(o)]
    nb['cells'] = [cell for cell in nb['cells'] if cell['source'].strip()]


def own_links(text, name):
    """nbdev links names in backticks to `<site>/attention.html#name`, a page that only it knows: lead to the reference instead.
    `text` is a notebook as JSON."""
    up = '../' * (len(Path(name).parts) - 1)
    def to(m):
        page = site/'reference'/f'{m[1]}.qmd'
        if not page.exists(): return m[0]
        ids = {i.lower(): i for i in re.findall(r'\{#(\S+)\}', page.read_text(encoding='utf-8'))}
        at = ids.get((m[2] or '').lower())
        return f'{up}reference/{m[1]}.qmd' + (f'#{at}' if at else '')
    return re.sub(re.escape(cfg['doc_host'] + cfg['doc_baseurl']) + r'(?:\w+/)*(\w+)\.html(?:#([\w.]+))?(?=\))', to, text)


def reference():
    "A page for each module, made from its docstrings and the comments beside its parameters; and one of the commands' --help."
    env = os.environ | {'PYTHONPATH': str(root), 'COLUMNS': '100'}
    subprocess.run([sys.executable, '-m', 'smalldocs.cli', 'api', 'build'], check=True, env=env, stdout=subprocess.DEVNULL)
    folder = site/'reference'
    for page in folder.glob('*.qmd'): page.write_text(with_summary(page.read_text(encoding='utf-8')), encoding='utf-8')
    scripts = [line.strip().split('=') for line in cfg['console_scripts'].splitlines() if line.strip()]
    text = ['---\ntitle: Commands\ndescription: What each command of the course can do.\n---\n']
    shown = json.loads(subprocess.run([sys.executable, '-c', HELP, json.dumps(scripts)], check=True, env=env, capture_output=True, text=True).stdout)
    for (name, _), help in zip(scripts, shown): text.append(f'## {name}\n\n```text\n{help.strip()}\n```\n')
    (folder/'command_line.qmd').write_text('\n'.join(text), encoding='utf-8')
    (folder/'fastai_verbs.qmd').write_text(fastai_verbs(), encoding='utf-8')
    (folder/'families.qmd').write_text(families(), encoding='utf-8')
    rows = {}
    for page in sorted(folder.glob('*.qmd')):
        head = yaml.safe_load(page.read_text(encoding='utf-8').split('---')[1])
        if page.stem != 'index': rows.setdefault(kind(head['title']), []).append(f'| [{head["title"]}]({page.name}) | {head.get("description", "")} |')
    text = ['---\ntitle: Reference\ndescription: Every public name of the package, by module, and all commands.\n---\n',
            'Shapes are those of the course: images (B,C,H,W), tokens (B,N,D), attention weights (L,B,H,T,T); T counts the class token and '
            'registers, N does not.\n']
    for title in GROUPS.values():
        if title in rows: text += [f'## {title}\n', '| module | what is in it |\n|---|---|\n' + '\n'.join(rows[title]) + '\n']
    (folder/'index.qmd').write_text('\n'.join(text), encoding='utf-8')


GROUPS = {'lesson': 'Lessons', 'deeper': 'Deeper', 'tools': 'Tools', 'teach': 'Teach', 'other': 'Commands, and what is tested'}


def kind(module):
    "The heading under which the reference lists a module, by its full name."
    sys.path.insert(0, str(root/'docs'))
    from house import kinds
    return GROUPS[kinds().get(module.removeprefix('vit_course.'), 'other')]


def with_summary(text):
    "A module's page with a table of its names at the top: each with the first sentence that is said of it."
    _, front, body = text.split('---\n', 2)
    rows = []
    for m in re.finditer(r'^## (?:class )?(\S+) \{#(\S+)\}\n(.*?)(?=^## |\Z)', body, flags=re.M | re.S):
        said = re.sub(r'```python\n.*?```', '', m[3], flags=re.S)
        said = next((p for p in map(str.strip, said.split('\n\n')) if p and not p.startswith(('[source]', '|', '#'))), '')
        said = re.split(r'(?<!Eq)(?<!App)(?<!Fig)(?<!etc)\.\s(?=[A-Z`])', ' '.join(said.split()))[0].rstrip('.').replace('|', '\\|')
        rows.append(f'| [`{m[1]}`](#{m[2]}) | {said} |')
    table = '| name | what it is |\n|---|---|\n' + '\n'.join(rows) + '\n\n' if rows else ''
    return f'---\n{front}---\n\n{table}{body.lstrip()}'


def fastai_verbs(results=root/'report'/'results'):
    "A page of what is tested of fastai, from the results of the tests (`benchmarks/fastai_verbs.py`), a column a version and kind of loaders."
    read = [json.loads(p.read_text(encoding='utf-8')) for p in sorted(results.glob('fastai_verbs_*.json'))]
    columns = [(r, kind) for r in read for kind in ('get_dls', 'ImageDataLoaders.from_folder')]
    rows = {v['verb']: [next((w.get(kind, '–') for w in r['verbs'] if w['verb'] == v['verb']), '–') for r, kind in columns] for r in read for v in r['verbs']}
    lines = ['---\ntitle: Verbs of fastai\ndescription: What of fastai works with vit_learner, on two kinds of loaders and two versions, each held to values by a test.\n---\n',
             '| verb | ' + ' | '.join(f"`{kind}`, fastai {r['fastai']}" for r, kind in columns) + ' |', '|---' * (len(columns) + 1) + '|']
    lines += [f'| `{verb}` | ' + ' | '.join(cells) + ' |' for verb, cells in rows.items()]
    made = '; '.join(f"fastai {r['fastai']} with fastcore {r['fastcore']}, {r['date']}" for r in read)
    return '\n'.join(lines) + f'\n\nMade by `{read[0]["command"]}` ({made}). Where a cell says that it fails, fastai alone fails in the same way: its export cannot pickle its own loaders in that version.\n'


def families(results=root/'report'/'results'):
    "A page of which models of other libraries load, from `benchmarks/families.py`: counts, and a row for each Vision Transformer."
    made = json.loads((results/'families.json').read_text(encoding='utf-8'))
    ways = {'alone': 'weights alone', 'with_config': 'with config.json'}
    lines = ['---\ntitle: Models of other libraries\ndescription: Which Vision Transformers of timm, torchvision and transformers load from '
             'their own files, with the same outputs, and which are refused.\n---\n',
             'A model is *equal* when what no shape shows was found, and the outputs of both libraries agree for a model of two blocks; *asked* when the '
             'file is refused with a line that asks for a field nobody says; *refused* when it is refused with another line.\n',
             '| library | models | Vision Transformers | file | equal | asked | refused | different |', '|---|--:|--:|---|--:|--:|--:|--:|']
    for library, c in made['counts'].items():
        for way, text in ways.items():
            if way not in c: continue
            n = ' | '.join(str(c[way].get(v, 0)) for v in ('equal', 'asked', 'refused', 'different'))
            lines.append(f"| {library} {made['libraries'][library]} | {c['models']} | {c['vits']} | {text} | {n} |")
    lines += [f"\nMade by `{made['command']}` ({made['date']}).\n"]
    for library, rows in made['rows'].items():
        vits = [r for r in rows if r.get('vit')]
        if not vits: continue
        lines += [f'## {library}\n', '| model | weights alone | with config.json | why not |', '|---|---|---|---|']
        for r in vits:
            why = (r.get('alone_line') or r.get('with_config_line') or '').split(': say so')[0].replace('|', '/').replace('<', '&lt;')
            lines.append(f"| `{r['name']}` | {r.get('alone', '–')} | {r.get('with_config', '–')} | {why[:90]} |")
        lines.append('')
    return '\n'.join(lines)


LIVE = """import io, sys
from PIL import Image, ImageOps
from skimage import data
from vit_course.checkpoints import load_checkpoint
from vit_course.tools.live_page import live_page
report, examples = load_checkpoint(None, 'vit-tiny-4-cifar10'), {}
for name, place in dict(cat=.83, rocket=.5, coffee=.5, astronaut=.5).items():
    file, image = io.BytesIO(), Image.fromarray(getattr(data, name)())
    image = ImageOps.fit(image, [min(640, *image.size)]*2, centering=(place, .5))        # a square, as the model was trained; of the cat the one of the lessons
    image.save(file, 'JPEG', quality=85)
    examples[name] = file.getvalue()
page = live_page(report.model, examples, report.classes, title='Explorer', site='')
open(sys.argv[1], 'w', encoding='utf-8', newline='\\n').write(page)"""   # in a process of its own, because torch is large


def explorer():
    "The page that runs the course's checkpoint in the browser; its photographs come with scikit-image."
    subprocess.run([sys.executable, '-c', LIVE, str(site/'explorer.html')], check=True, env=os.environ | {'PYTHONPATH': str(root)})


if __name__ == '__main__':
    if not (site/'index.ipynb').exists(): print('prepare.py: no index.ipynb here; nbdev_docs and smalldocs run this in _proc, where the pages are', file=sys.stderr); sys.exit(2)
    shutil.copytree(root/'nbs'/'images', site/'images', dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.py'))
    explorer()
    reference()
    read = {name: json.loads((site/name).read_text(encoding='utf-8')) for name in order()}
    titles = {name: numbered(name, front_matter(nb)['title']) for name, nb in read.items()}
    for name, nb in read.items():
        solved = solutions(root/'nbs'/name)
        show_once(nb, solved); fold(nb, solved, folded(root/'nbs'/name)); words_for_figures(nb); plain_signatures(nb); tidy(nb); add_links(nb, name, titles)
        (site/name).write_text(own_links(json.dumps(nb, ensure_ascii=False), name), encoding='utf-8')
