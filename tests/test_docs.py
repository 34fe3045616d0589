"The website: built without Quarto, every link and anchor followed, every page opened in a browser, narrow and wide."
import ast, functools, http.server, importlib.util, json, os, re, shutil, subprocess, sys, threading

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location('docs_build', ROOT/'docs'/'build.py')
docs = importlib.util.module_from_spec(spec); spec.loader.exec_module(docs)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "Build in a copy, so that a developer's own _docs stays as it is."
    pytest.importorskip('smalldocs', reason='smalldocs needs Python 3.11 or newer')
    root = tmp_path_factory.mktemp('website')/'vit_course'
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns('.git', '_docs', '_proc', 'output', 'data', '*.egg-info', '__pycache__', 'device'))
    done = subprocess.run([sys.executable, 'docs/build.py'], cwd=root, capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(root)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'warning' not in done.stdout, done.stdout
    return root/'_docs'


@pytest.fixture(scope='module')
def opened(site):
    """{page: what a browser measures of it}: each page is loaded once, wide and light, then made narrow and dark. The server has the site
    where it will be, below /vit_course/."""
    from conftest import chromium
    base = configured()['doc_baseurl']
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
        def translate_path(self, path): return super().translate_path(path.removeprefix(base.rstrip('/')))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, found = f'http://127.0.0.1:{server.server_port}{base}', {}
    with chromium() as browser:
        page, complaints = browser.new_page(), []
        page.on('console', lambda m: complaints.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: complaints.append(str(e)))
        page.on('response', lambda r: complaints.append(f'{r.status} {r.url}') if r.status >= 400 else None)
        page.on('request', lambda r: None if r.url.startswith((home, 'data:', 'blob:')) else complaints.append(f'asks for {r.url}'))
        for path in sorted(site.rglob('*.html')):
            name = path.relative_to(site).as_posix()
            complaints.clear()
            page.emulate_media(color_scheme='light')
            page.set_viewport_size(dict(width=1400, height=900))
            page.goto(home + name, wait_until='load')
            found[name] = dict(wide=page.evaluate(MEASURE), light=page.evaluate(CONTRAST))
            page.set_viewport_size(dict(width=390, height=844))
            found[name]['narrow'] = page.evaluate(MEASURE)
            page.set_viewport_size(dict(width=360, height=844))
            found[name]['pixels'] = page.evaluate('document.documentElement.scrollWidth')
            if name != 'explorer.html': page.add_style_tag(content='* { transition: none !important }')
            page.emulate_media(color_scheme='dark')
            page.evaluate("document.documentElement.classList.add('quarto-dark')")      # as the page's script does when it is opened in the dark
            if name != 'explorer.html':
                page.wait_for_function("getComputedStyle(document.body).backgroundColor != 'rgb(255, 255, 255)'", timeout=10_000)
            page.evaluate('() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))')      # colours that follow one another
            found[name] |= dict(dark=page.evaluate(CONTRAST), complaints=list(complaints))
    server.shutdown()
    return found


def configured():
    import configparser
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']


# Blocks of code and of output that are shown, and those of them that scroll sideways; screens; images that say nothing to who cannot see.
MEASURE = """() => {
    const shown = e => e.getClientRects().length
    const pres = [...document.querySelectorAll('main pre')].filter(shown)
    const scrolls = e => { for (; e && e.tagName != 'MAIN'; e = e.parentElement) if (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX != 'visible') return true; return false }
    return {blocks: pres.length, scrolling: pres.filter(scrolls).map(e => e.textContent.slice(0, 60)), screens: document.documentElement.scrollHeight/innerHeight,
            silent: [...document.querySelectorAll('img')].filter(i => !(i.alt || '').trim()).map(i => i.src.slice(0, 60))} }"""

# Texts with less contrast than WCAG 2 asks of level AA: 4.5, and 3 for large letters. Colours are laid over one another as the browser does.
CONTRAST = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), known = {}
    const rgba = s => { if (!known[s]) { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = s; canvas.fillRect(0, 0, 1, 1); const d = canvas.getImageData(0, 0, 1, 1).data; known[s] = [d[0], d[1], d[2], d[3]/255] } return known[s] }
    const over = (c, a, b) => b.map((v, i) => c[i]*a + v*(1 - a))
    const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4); return .2126*r + .7152*g + .0722*b }
    const ground = e => { const layers = []; for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3]) layers.push(c); if (c[3] > .99) break } return layers.reverse().reduce((b, c) => over(c, c[3], b), [255, 255, 255]) }
    const low = {}, walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    let node, texts = 0
    while (node = walk.nextNode()) {
        const e = node.parentElement, style = getComputedStyle(e)
        if (!node.data.trim() || !e.getClientRects().length || style.visibility == 'hidden' || e.closest('script, style, noscript')) continue
        let opacity = 1
        for (let x = e; x; x = x.parentElement) opacity *= +getComputedStyle(x).opacity
        if (opacity < .05) continue
        texts++
        const b = ground(e), c = rgba(style.color), l = light(b), m = light(over(c, c[3]*opacity, b)), ratio = (Math.max(l, m) + .05)/(Math.min(l, m) + .05), px = parseFloat(style.fontSize)
        if (ratio < (px >= 24 || px >= 18.66 && +style.fontWeight >= 700 ? 3 : 4.5) - .005) low[`${e.tagName}.${e.className} ${ratio.toFixed(2)}: ${node.data.trim().slice(0, 30)}`] = 1
    }
    return {texts, low: Object.keys(low)} }"""

def is_lesson(name): return re.match(r'\d\d\w?_', name)


def test_no_page_asks_anybody_or_complains(opened):
    assert not {name: m['complaints'] for name, m in opened.items() if m['complaints']}


def test_signatures_are_plain(site):
    "No Markdown is left in the code of a signature, where it would stand as it is."
    code = {p.name: re.sub(r'<[^>]+>', '', ' '.join(re.findall(r'<pre.*?</pre>', p.read_text(encoding='utf-8'), re.S))) for p in site.rglob('*.html')}
    assert 'def rollout(' in code['09_attention_maps.html'] and not {name for name, text in code.items() if re.search(r'\]\([\w./]*reference/\w+\.qmd', text)}


def test_nothing_scrolls_sideways(opened):
    assert not {name: m['pixels'] for name, m in opened.items() if m['pixels'] > 360}
    assert not {name: m['wide']['scrolling'] for name, m in opened.items() if is_lesson(name) and m['wide']['scrolling']}
    lessons = [m['narrow'] for name, m in opened.items() if is_lesson(name)]
    scrolling, blocks = sum(len(m['scrolling']) for m in lessons), sum(m['blocks'] for m in lessons)
    assert blocks > 500 and scrolling <= .05*blocks, f'{scrolling} of {blocks}'


def test_pages_are_prepared_in_their_own_folder_alone(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT/'docs'/'prepare.py')], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count('\n'), list(tmp_path.iterdir())) == (2, 1, []) and '_proc' in done.stderr, done.stderr


def test_pages_are_not_too_long(opened):
    assert not {name: round(m['wide']['screens'], 1) for name, m in opened.items() if is_lesson(name) and m['wide']['screens'] > 25}


def test_every_image_has_words(opened): assert not {name: m['wide']['silent'] for name, m in opened.items() if m['wide']['silent']}


def test_contrast(opened):
    for scheme in ('light', 'dark'):
        assert sum(m[scheme]['texts'] for m in opened.values()) > 10_000
        assert not {name: m[scheme]['low'] for name, m in opened.items() if m[scheme]['low']}, scheme


def test_the_measures_can_fail(tmp_path):
    from conftest import chromium
    (tmp_path/'a.html').write_text('<main><pre style="overflow-x: auto; width: 90px">a line that is too long for its box</pre><pre>b</pre>'
                                   '<img src="data:,"><img alt="words" src="data:,"><p style="color: #888">grey</p><div style="height: 3000px"></div></main>')
    with chromium() as browser:
        page = browser.new_page(viewport=dict(width=1400, height=900))
        page.goto((tmp_path/'a.html').as_uri())
        m, c = page.evaluate(MEASURE), page.evaluate(CONTRAST)
    assert (m['blocks'], len(m['scrolling']), len(m['silent'])) == (2, 1, 1) and m['screens'] > 3
    assert c['texts'] == 3 and [l.split(':')[0] for l in c['low']] == ['P. 3.54']


def test_all_is_there(site):
    for notebook in (ROOT/'nbs').rglob('*.ipynb'): assert (site/notebook.relative_to(ROOT/'nbs').with_suffix('.html')).exists(), notebook.name
    for module in (ROOT/'vit_course').rglob('[a-z]*.py'): assert (site/'reference'/f'{module.stem}.html').exists(), module.name
    text = (site/'reference'/'command_line.html').read_text(encoding='utf-8')
    for flag in ('--gradient_accumulation_steps', 'vit_doctor', 'vit_weights'): assert flag in text
    chapter = (site/'02_attention.html').read_text(encoding='utf-8')
    assert '<math' in chapter and 'BEGIN SOLUTION' not in chapter
    assert all((site/name).stat().st_size for name in ('404.html', 'search.json', 'sitemap.xml', 'images/favicon.svg', 'images/card.png', 'fonts/math.woff'))


def test_sidebar_has_the_groups_and_numbers(site):
    text = (site/'index.html').read_text(encoding='utf-8').partition('id="quarto-sidebar"')[2]
    groups = [g for g in re.findall(r'<span class="menu-text">([^<]*)</span>', text) if g in ('Lessons', 'Deeper', 'Tools', 'Teach', 'Reference')]
    assert groups[:5] == ['Lessons', 'Deeper', 'Tools', 'Teach', 'Reference']
    for entry in ('0 Setup', '2 Attention', '12 The report', '4b Variants', '13 Assignments'): assert f'<span class="menu-text">{entry}</span>' in text, entry


def test_the_way_is_shown_at_the_top_and_the_end(site):
    text = (site/'02_attention.html').read_text(encoding='utf-8')
    rows = [re.findall(r'<a href="([^"]*)"', row) for row in re.findall(r'<div class="page-links">(.*?)</div>', text, re.S)]
    assert len(rows) == 2 and rows[0] == rows[1]
    before, colab, download, after = rows[0]
    assert (before.lstrip('./'), after.lstrip('./')) == ('01_patches.html', '03_encoder.html')
    assert colab.startswith('https://colab.research.google.com/') and download.endswith('/02_attention.ipynb')
    first, _, last = text.partition('id="cell-')[0], 0, text.rpartition('</details>')[2]
    assert 'page-links' in first and 'page-links' in last


def only_imports(cell):
    "Is this a visible cell of nothing but imports?"
    s = ''.join(cell['source'])
    if cell['cell_type'] != 'code' or '#|' in s or re.search('^[%!]', s, re.M): return False
    lines = ast.parse(s).body
    return bool(lines) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in lines)


def test_solutions_and_setup_are_folded(site):
    setups = 0
    for page in sorted(site.glob('[0-9][0-9]*_*.html')):
        text = page.read_text(encoding='utf-8')
        source = json.loads((ROOT/'nbs'/page.with_suffix('.ipynb').name).read_text(encoding='utf-8'))['cells']
        inside, solutions = False, []
        for c in source:
            s = ''.join(c['source'])
            if c['cell_type'] == 'raw' and 'SOLUTION' in s: inside = 'BEGIN' in s
            elif c['cell_type'] == 'code' and ('# BEGIN SOLUTION' in s or inside) and not re.search(r'^#\|\s*(export|hide)\s*$', s, re.M): solutions.append(s)
        assert len(re.findall(r'<details class="code-fold">\s*<summary>Solution</summary>', text)) == len(solutions), page.name
        if any(map(only_imports, source)):
            assert '<details class="code-fold">\n<summary>Set-up</summary>' in text, page.name
            setups += 1
    assert setups > 8


def test_signatures_are_shown_where_the_source_is_not(monkeypatch):
    "nbdev puts the signature of one name in front of the source, and those of the others behind it."
    monkeypatch.syspath_prepend(ROOT/'docs')
    from prepare import show_once
    def doc(name): return dict(cell_type='code', id=f'doc {name}', source=f'#| echo: false\n#| output: asis\nshow_doc({name})',
                               outputs=[dict(data={'text/markdown': f'---\n\n### {name}\n\nsaid'})])
    def source(id, *names): return dict(cell_type='code', id=id, outputs=[], source='#| code-summary: "Exported source"\n' + '\n'.join(f'def {n}(): pass' for n in names))
    cells = [doc('a'), source('shown', 'a', 'b'), doc('b'), doc('c'), source('solution', 'c', 'd'), doc('d'), doc('e')]
    nb = dict(cells=cells)
    show_once(nb, {'solution'})
    assert [c['id'] for c in nb['cells']] == ['shown', 'doc c', 'doc d', 'solution', 'doc e']
    assert [c['outputs'][0]['data']['text/markdown'] for c in nb['cells'] if 'doc' in c['id']] == ['said', 'said', '---\n\n### e\n\nsaid']


def test_metadata(site):
    for page in site.rglob('*.html'):
        if page.name == 'explorer.html': continue
        text, name = page.read_text(encoding='utf-8'), page.relative_to(site).as_posix()
        head = text.partition('</head>')[0]
        assert re.search(r'<meta[^>]*property="og:image"[^>]*content="https://[^"]*/images/card.png"|<meta[^>]*content="https://[^"]*/images/card.png"[^>]*property="og:image"', head), name
        assert 'rel="icon"' in head and configured()['version'] in text, name
        assert 'name="description"' in head, name
        if not name.startswith('reference/') and name != '404.html':
            data = json.loads(re.search(r'<script type="application/ld\+json">(.*?)</script>', head, re.S)[1])
            assert data['@type'] == ('Course' if name == 'index.html' else 'LearningResource') and data['name'] and data['description'], name
            assert data['version'] == configured()['version']


def test_citation_and_changes_have_this_version():
    version = configured()['version']
    assert f'version: {version}\n' in (ROOT/'CITATION.cff').read_text(encoding='utf-8')
    assert re.search(r'^## (\S+)', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M)[1] == version


def test_reference_names_what_is_public(site):
    from importlib import import_module
    text = (site/'reference'/'attention.html').read_text(encoding='utf-8')
    table = text.partition('<table')[2].partition('</table>')[0]
    module = import_module('vit_course.attention')
    assert set(re.findall(r'href="#([^"]+)"', table)) == {n for n in module.__all__ if callable(getattr(module, n))}
    assert len(re.findall(r'blob/main/vit_course/attention\.py#L\d+', text)) >= len(module.__all__)
    for page in (site/'reference').glob('*.html'):
        assert not re.search(r'<h[23][^>]* id="_', page.read_text(encoding='utf-8')), page.name


def test_names_lead_to_the_reference(site):
    text = (site/'02_attention.html').read_text(encoding='utf-8')
    assert 'reference/attention.html#MultiHeadAttention' in text
    assert not re.search(r'href="https://vit-course.github.io/vit_course/(?!explorer|\d)', text)


def test_the_explorer_is_linked_first_and_links_back(site):
    first = re.search(r'<ul class="navbar-nav.*?<a[^>]*href="([^"]*)"', (site/'index.html').read_text(encoding='utf-8'), re.S)[1]
    assert first.lstrip('./') == 'explorer.html'
    page = json.loads(re.search(r'id="page">(.*?)</script>', (site/'explorer.html').read_text(encoding='utf-8'))[1])
    assert page['site'] == '' and len(page['examples']) == 4
    assert (site/'explorer.html').stat().st_size < 9_000_000


def test_no_formula_is_left_as_tex(site):
    for page in site.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        assert 'class="math' not in text, page.name


def test_broken_links_are_found(site, tmp_path):
    (tmp_path/'a.html').write_text('<a href="b.html">1</a> <a href="#here">2</a> <p id="there"><a href="#there">3</a> <img src="x.png"> <a href="https://b.c/#d">4</a>')
    assert sorted(docs.broken_links(tmp_path)) == ['a.html: #here', 'a.html: b.html', 'a.html: x.png']
    assert not list(docs.broken_links(site))


HOMEWORK = ['Installing', '1.1', '1.2', '1.3', 'Bonus: every head', 'Bonus: own images', 'Part 2', 'Report']     # its sections, in its order


def anchor(heading):
    "The id that Pandoc, and so the website, gives a heading."
    kept = '-'.join(''.join(c.lower() for c in heading if c.isalnum() or c.isspace() or c in '_-.').split())
    return re.sub(r'^[^a-z]*', '', kept)


def sections(name):
    "{anchor: text below the heading, up to the next one} of a notebook."
    cells = json.loads((ROOT/'nbs'/name).read_text(encoding='utf-8'))['cells']
    text = re.sub(r'```.*?```', '', '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown'), flags=re.S)
    parts = re.split(r'^#+ (.+)$', text, flags=re.M)
    return {anchor(heading): below for heading, below in zip(parts[1::2], parts[2::2])}


def places():
    "{section of the homework: [(notebook, anchor)]}, as the table of chapter 0 has them. A row without a name goes on with the one above."
    found = {}
    for row in re.findall(r'^\|(.*)\|$', sections('00_setup.ipynb')['the-homework'], re.M)[2:]:
        name, *_, where = (cell.strip() for cell in row.split('|'))
        name = re.sub(r' \([\d.]+\)$', '', name) or list(found)[-1]      # its points
        links = re.findall(r'\]\(([\w.]*)#([^)]+)\)', where)
        assert links and len(links) == where.count(']('), row
        found.setdefault(name, []).extend((file or '00_setup.ipynb', to) for file, to in links)
    return found


def test_each_section_of_the_homework_has_its_place_which_links_back():
    from vit_course.teach.editions import PARTS
    table = places()
    assert list(table) == HOMEWORK
    assert {re.sub('^Part ', '', name) for name in HOMEWORK[1:-1]} == {title if title.startswith('Bonus') else part for part, (title, _) in PARTS.items()}
    points = dict(re.findall(r'^\| (?:Part )?(.+?) \(([\d.]+)\) \|', sections('00_setup.ipynb')['the-homework'], re.M))
    assert {k: float(v) for k, v in points.items()} == {title if title.startswith('Bonus') else part: worth for part, (title, worth) in PARTS.items()}
    linked = {place: name for name, at in table.items() for place in at}
    for (file, to), name in linked.items():
        back = re.findall(r'^\*\[Homework,? (.+)\]\((.*)\)\*$', sections(file).get(to, ''), re.M)
        assert [(said.lower(), target) for said, target in back] == [(name.lower(), ('' if file == '00_setup.ipynb' else '00_setup.ipynb') + '#the-homework')], (file, to)
    for notebook in sorted((ROOT/'nbs').glob('*.ipynb')):
        for to, text in sections(notebook.name).items():
            if '*[Homework' in text: assert (notebook.name, to) in linked, f'{notebook.name}#{to} links to a table that does not have it'


def test_homework_links_lead_somewhere_on_the_site(site):
    page = docs.Page(site/'00_setup.html')
    for file, to in (place for at in places().values() for place in at):
        link = (file.replace('.ipynb', '.html') if file != '00_setup.ipynb' else '') + f'#{to}'
        assert {link, f'./{link}'} & set(page.links), link
        assert to in docs.Page(site/file.replace('.ipynb', '.html')).ids, link
