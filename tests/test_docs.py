"The website: built without Quarto, every link and anchor followed, every page opened in a browser, narrow and wide."
import functools, http.server, importlib.util, json, os, re, shutil, subprocess, sys, threading

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


def test_all_is_there(site):
    for notebook in (ROOT/'nbs').rglob('*.ipynb'): assert (site/notebook.relative_to(ROOT/'nbs').with_suffix('.html')).exists(), notebook.name
    for module in (ROOT/'vit_course').rglob('[a-z]*.py'): assert (site/'reference'/f'{module.stem}.html').exists(), module.name
    text = (site/'reference'/'command_line.html').read_text(encoding='utf-8')
    for flag in ('--gradient_accumulation_steps', 'vit_doctor', 'vit_weights'): assert flag in text
    chapter = (site/'02_attention.html').read_text(encoding='utf-8')
    assert 'Open in Colab' in chapter and 'Download notebook' in chapter and '<math' in chapter
    assert 'BEGIN SOLUTION' not in chapter


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


def test_pages_in_a_browser(site):
    from conftest import chromium
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f'http://127.0.0.1:{server.server_port}/'
    with chromium() as browser:
        for path in sorted(site.rglob('*.html')):
            for width in (360, 1400):
                page, complaints = browser.new_page(viewport=dict(width=width, height=900)), []
                page.on('console', lambda m: complaints.append(m.text) if m.type == 'error' else None)
                page.on('pageerror', lambda e: complaints.append(str(e)))
                page.on('response', lambda r: complaints.append(f'{r.status} {r.url}') if r.status >= 400 else None)
                page.on('request', lambda r: None if r.url.startswith((home, 'data:', 'blob:')) else complaints.append(f'asks for {r.url}'))
                page.goto(home + path.relative_to(site).as_posix(), wait_until='load')
                wide = page.evaluate('document.documentElement.scrollWidth')
                assert wide <= width, f'{path.name} is {wide} pixels wide on a screen of {width}'
                assert not complaints, (path.name, complaints)
                page.close()
    server.shutdown()
