"""Quarto and smalldocs both run this in `_proc`, before they render the notebooks that nbdev has put there.

It adds what a website has and a notebook has not: pictures, the explorer with a model in it, a reference of all modules and
commands, and under each table of contents the links that open the notebook in Colab or download it."""
import configparser, json, os, shutil, subprocess, sys
from pathlib import Path

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


def add_links(nb, name):
    "Put the links into a page's front matter, which nbdev has made its first cell."
    front = nb['cells'][0]
    source = ''.join(front['source'])
    if front['cell_type'] != 'raw' or not source.startswith('---') or 'code-links' in source: return
    links = [dict(text='Open in Colab', icon='play-circle', href=f'https://colab.research.google.com/github/{github}/{name}'),
             dict(text='Download notebook', icon='download', href=f'https://raw.githubusercontent.com/{github.replace("/blob/", "/")}/{name}')]
    front['source'] = source.replace('---\n', f'---\ncode-links: {json.dumps(links)}\n', 1)


def hide_markers(nb):
    "A reader of the website needs no marks of where a solution begins: drop them, and what is left of a cell that held nothing else."
    for cell in nb['cells']:
        kept = [line for line in ''.join(cell['source']).splitlines() if line.strip() not in ('# BEGIN SOLUTION', '# END SOLUTION')]
        cell['source'] = '\n'.join(kept)
    nb['cells'] = [cell for cell in nb['cells'] if cell['source'].strip()]


def reference():
    "A page for each module, made from its docstrings and the comments beside its parameters; and one of the commands' --help."
    env = os.environ | {'PYTHONPATH': str(root), 'COLUMNS': '100'}
    subprocess.run([sys.executable, '-m', 'smalldocs.cli', 'api', 'build'], check=True, env=env, stdout=subprocess.DEVNULL)
    folder = site/'reference'
    scripts = [line.strip().split('=') for line in cfg['console_scripts'].splitlines() if line.strip()]
    text = ['---\ntitle: Commands\ndescription: What each command of the course can do.\n---\n']
    shown = json.loads(subprocess.run([sys.executable, '-c', HELP, json.dumps(scripts)], check=True, env=env, capture_output=True, text=True).stdout)
    for (name, _), help in zip(scripts, shown): text.append(f'## {name}\n\n```text\n{help.strip()}\n```\n')
    (folder/'command_line.qmd').write_text('\n'.join(text), encoding='utf-8')
    (folder/'fastai_verbs.qmd').write_text(fastai_verbs(), encoding='utf-8')
    rows = []
    for page in sorted(folder.glob('*.qmd')):
        head = dict(line.split(': ', 1) for line in page.read_text(encoding='utf-8').split('---')[1].strip().splitlines())
        if page.stem != 'index': rows.append(f'| [{head["title"].strip(chr(34))}]({page.name}) | {head.get("description", "").strip(chr(34))} |')
    (folder/'index.qmd').write_text('---\ntitle: Reference\n---\n\nShapes are those of the course: images (B,C,H,W), tokens (B,N,D), attention weights '
                                    '(L,B,H,T,T); T counts the class token and registers, N does not.\n\n| module | what is in it |\n|---|---|\n'
                                    + '\n'.join(rows) + '\n', encoding='utf-8')


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


LIVE = """import io, sys
from PIL import Image
from skimage import data
from vit_course.checkpoints import load_checkpoint
from vit_course.tools.live_page import live_page
report, examples = load_checkpoint(None, 'vit-tiny-4-cifar10'), {}
for name in ('cat', 'rocket', 'coffee', 'astronaut'):
    file, image = io.BytesIO(), Image.fromarray(getattr(data, name)())
    image.thumbnail((640, 640))
    image.save(file, 'JPEG', quality=85)
    examples[name] = file.getvalue()
page = live_page(report.model, examples, report.classes, title='Explorer', site='')
open(sys.argv[1], 'w', encoding='utf-8', newline='\\n').write(page)"""   # in a process of its own, because torch is large


def explorer():
    "The page that runs the course's checkpoint in the browser; its photographs come with scikit-image."
    subprocess.run([sys.executable, '-c', LIVE, str(site/'explorer.html')], check=True, env=os.environ | {'PYTHONPATH': str(root)})


if __name__ == '__main__':
    shutil.copytree(root/'nbs'/'images', site/'images', dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.py'))
    for path in site.rglob('*.ipynb'):
        nb = json.loads(path.read_text(encoding='utf-8'))
        add_links(nb, path.relative_to(site).as_posix()); hide_markers(nb)
        path.write_text(json.dumps(nb, ensure_ascii=False), encoding='utf-8')
    explorer()
    reference()
