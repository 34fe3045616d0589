"""Draw the house from its imports: `python docs/house.py` writes docs/house.svg, which CONTRIBUTING shows.

Each module stands one floor above the highest that it imports. A line leads from a module to what it imports, where no
longer way leads there as well."""
import ast
from pathlib import Path

root = Path(__file__).resolve().parent.parent
COLORS = {'lesson': '#cfe3f7', 'deeper': '#e3eefa', 'tools': '#f7e3c4', 'teach': '#d7ecd3'}
WIDTH, HEIGHT, GAP, RISE = 118, 26, 14, 74   # of a box, and between boxes and floors, in pixels


def modules(package=None):
    "{name: file} of the package's modules, such as 'vit' or 'tools.doctor'."
    package = package or root/'vit_course'
    return {'.'.join(p.relative_to(package).with_suffix('').parts): p for p in sorted(package.rglob('[a-z]*.py'))}


def imports(name, files):
    "(is it ours?, name) for all that a module imports, inside of functions, too."
    folder = name.split('.')[:-1]
    for node in ast.walk(ast.parse(files[name].read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            for a in node.names: yield False, a.name.split('.')[0]
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split('.') if node.module else []
            if not node.level and parts[0] != 'vit_course':
                yield False, parts[0]
                continue
            base = folder[:len(folder) - node.level + 1] + parts if node.level else parts[1:]      # nbdev leaves both forms
            if '.'.join(base) in files: yield True, '.'.join(base)
            else: yield from ((True, '.'.join([*base, a.name])) for a in node.names)


def graph(files):
    "{module: modules of ours that it imports}."
    return {m: {n for ours, n in imports(m, files) if ours and n in files} - {m} for m in files}


def floors(below):
    "{module: its floor, from 1}. ValueError, naming the modules, when imports go round in a circle."
    found = {}
    def floor(m, path=()):
        if m in path: raise ValueError(f"imports go round in a circle: {' -> '.join([*path[path.index(m):], m])}")
        if m not in found: found[m] = 1 + max((floor(n, (*path, m)) for n in sorted(below[m])), default=0)
        return found[m]
    for m in sorted(below): floor(m)
    return found


def kinds():
    "{module: lesson, deeper, tools or teach}, as the folders and names of the notebooks say."
    out = {}
    for p in (root/'nbs').rglob('*.ipynb'):
        kind = p.parent.name if p.parent.name in ('tools', 'teach') else 'lesson' if p.stem[:2].isdecimal() and p.stem[2] == '_' else 'deeper'
        for line in p.read_text(encoding='utf-8').splitlines():
            if '#| default_exp ' in line: out[line.split('#| default_exp ')[1].strip().rstrip('",').removesuffix('\\n')] = kind
    return out


def reachable(m, below):
    seen, todo = set(), [m]
    while todo:
        for n in below[todo.pop()]:
            if n not in seen: seen.add(n); todo.append(n)
    return seen


def svg():
    "The picture, as text: the same for the same imports."
    files = modules()
    below, kind = graph(files), kinds()
    floor = floors(below)
    rows = [sorted((m for m in floor if floor[m] == i), key=lambda m: (kind.get(m, 'tools'), m)) for i in range(1, max(floor.values()) + 1)]
    width = max(len(r) for r in rows) * (WIDTH + GAP) + GAP
    height = len(rows) * RISE + 40
    at = {}
    for i, row in enumerate(rows):
        left = (width - len(row)*(WIDTH + GAP) + GAP) / 2
        for j, m in enumerate(row): at[m] = left + j*(WIDTH + GAP), height - 40 - (i + 1)*RISE + RISE - HEIGHT
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" font-family="sans-serif" font-size="11">',
           f'<rect width="{width:g}" height="{height}" fill="white"/>']
    for m in sorted(below):
        direct = {n for n in below[m] if not any(n in reachable(o, below) for o in below[m] - {n})}
        for n in sorted(direct):
            (x, y), (u, v) = at[m], at[n]
            out.append(f'<line x1="{x + WIDTH/2:g}" y1="{y + HEIGHT:g}" x2="{u + WIDTH/2:g}" y2="{v:g}" stroke="#bbb"/>')
    for m in sorted(at):
        x, y = at[m]
        out.append(f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="{COLORS[kind.get(m, "tools")]}" stroke="#888"/>'
                   f'<text x="{x + WIDTH/2:g}" y="{y + 17:g}" text-anchor="middle">{m}</text>')
    for i, (k, words) in enumerate(dict(lesson='lesson', deeper='optional lesson', tools='engine room', teach='for instructors').items()):
        out.append(f'<rect x="{GAP + i*150}" y="{height - 24}" width="14" height="14" fill="{COLORS[k]}" stroke="#888"/>'
                   f'<text x="{GAP + 20 + i*150}" y="{height - 13}">{words}</text>')
    return '\n'.join([*out, '</svg>']) + '\n'


if __name__ == '__main__': (root/'docs'/'house.svg').write_text(svg(), encoding='utf-8')
