"""Build the website into `_docs` without Quarto: `python docs/build.py`, then `python -m http.server -d _docs`.

nbdev processes the notebooks as for `nbdev_docs`; smalldocs renders the same `_quarto.yml`. Ends with status 1 and a list
when a link or an anchor leads nowhere."""
import html, os, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    "All ids of a page, and all that it links to."
    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ('id', 'name') and value: self.ids.add(value)
            if name in ('href', 'src') and value and tag != 'base': self.links.append(value)


def stand_alone(site):
    """Let no page ask anybody else for anything: formulas become MathML, which browsers draw by themselves, and the themes do
    without fonts from elsewhere."""
    from latex2mathml.converter import convert
    def formula(m): return convert(html.unescape(m[2]), display='block' if m[1] == 'display' else 'inline')
    signs = set()
    for path in site.rglob('*.html'):
        text = path.read_text(encoding='utf-8')
        text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', formula, text, flags=re.S)
        text = re.sub(r'<(?:link|script)[^>]*/katex@[^>]*>(?:</script>)?', '', text)
        text = re.sub(r'(<div class="cell-output [^>]*>\n<pre)(?=><code>(.*?)</code>)', lambda m: m[1] + lines(html.unescape(m[2])), text, flags=re.S)
        for m in re.findall(r'<math.*?</math>', text, flags=re.S): signs |= set(html.unescape(re.sub(r'<[^>]*>', '', m)))
        path.write_text(text, encoding='utf-8')
    for path in site.rglob('*.css'):
        text = path.read_text(encoding='utf-8')
        path.write_text(re.sub(r'@import url\((["\']?)https?://[^)]*\1\);?', '', text), encoding='utf-8')
    math_font(site/'fonts'/'math.woff', signs)


def lines(output):
    "Attributes of a text's box: its lines may be broken, but not where words stand in columns; those get a font that fits."
    columns = [line for line in output.splitlines() if re.search(r'\S {2,}\S|[│|┃]', line)]
    longest = max(map(len, output.splitlines()), default=0)
    return ' class="wraps"' if len(columns) < 2 or longest > 130 else f' class="columns" tabindex="0" style="--chars: {longest}"'


def math_font(path, signs):
    "STIX Two Math (SIL Open Font License), which comes with ziamath, reduced to the signs of the site and their taller forms."
    from importlib.resources import files
    from fontTools import subset
    from fontTools.ttLib import TTFont
    letters = {ord(c) for c in signs}
    for first in (0x1D434, 0x1D44E): letters |= {first + i for i in range(26)}      # italics, in which a lone letter is set
    letters |= {0x210E, *range(0x1D6FC, 0x1D71C), *range(0x30, 0x3A), *map(ord, '()[]{}|‖√∑∏−=+·×≤≥→')}
    font = TTFont(str(files('ziamath')/'fonts'/'STIXTwoMath-Regular.ttf'))
    shrink = subset.Subsetter(subset.Options(layout_features=['*'], notdef_outline=True))
    shrink.populate(unicodes=letters)
    shrink.subset(font)
    font.flavor = 'woff'
    path.parent.mkdir(exist_ok=True)
    font.save(path)


def lost_page(site, base):
    "A server shows 404.html wherever somebody got lost: its links start from the root of the site."
    page = site/'404.html'
    page.write_text(page.read_text(encoding='utf-8').replace('<head>', f'<head><base href="{base}">', 1), encoding='utf-8')


def broken_links(site):
    "`page: link` for every link of the pages in a folder that leads to a file or an anchor which is not there."
    pages = {p.resolve(): Page(p) for p in sorted(Path(site).rglob('*.html'))}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc: continue
            target = (path.parent/unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir(): target = target/'index.html'
            if not target.exists(): yield f'{path.name}: {link}'
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids | {'top', ''}:
                yield f'{path.name}: {link}'


def build():
    from nbdev.config import get_config
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    os.chdir(root)
    refresh_quarto_yml()
    cache = proc_nbs(force=True, n_workers=0)
    rendered = subprocess.run([sys.executable, '-m', 'smalldocs.cli', 'render', cache], capture_output=True, text=True)
    for line in rendered.stderr.splitlines():
        if not re.search(r'output-file is not read|^pre-render', line): print(line)   # smalldocs names pages after their notebooks
    if rendered.returncode: return rendered.returncode
    shutil.rmtree(root/'_docs', ignore_errors=True)
    shutil.move(cache/'_docs', root/'_docs')
    stand_alone(root/'_docs')
    lost_page(root/'_docs', get_config().doc_baseurl)
    bad = sorted(set(broken_links(root/'_docs')))
    if bad: print(f'{len(bad)} links lead nowhere:', *bad, sep='\n  ')
    else: print(f'{len(list((root/"_docs").rglob("*.html")))} pages in _docs, all links lead somewhere')
    return int(bool(bad))


if __name__ == '__main__': sys.exit(build())
