"What all tests share: where things are, a runner for the command lines, and a browser."
import contextlib, importlib.util, os, shutil, subprocess, sys
from pathlib import Path

# Tests run in several processes (pytest-xdist): share the cores out, before torch is imported, instead of fighting for them.
_workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
if _workers > 1: os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1)//_workers)))

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / 'shared'   # optional data on a developer's machine


@pytest.fixture
def command(tmp_path):
    "Run a command of the package in an empty folder; gives (status, stdout, stderr)."
    def run(module, *args, **kw):
        env = os.environ | {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
        p = subprocess.run([sys.executable, '-m', f'vit_course.{module}', *map(str, args)], cwd=kw.pop('cwd', tmp_path),
                           env=env | kw.pop('env', {}), capture_output=True, text=True, timeout=kw.pop('timeout', 300), **kw)
        return p.returncode, p.stdout, p.stderr
    return run


@contextlib.contextmanager
def chromium():
    "A headless browser. Where there is none the test is skipped, or fails when VIT_COURSE_REQUIRE_BROWSER is set, as it is in CI."
    path = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
    if not path or not importlib.util.find_spec('playwright'):
        message = "no browser: pip install playwright, and install Chromium (apt-get install chromium)"
        (pytest.fail if os.environ.get('VIT_COURSE_REQUIRE_BROWSER') else pytest.skip)(message)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        try: yield browser
        finally: browser.close()
