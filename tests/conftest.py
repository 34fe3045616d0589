"What all tests share: where things are, a runner for the command lines, and a browser."
import contextlib, importlib.util, os, shutil, subprocess, sys, time
from pathlib import Path

# Tests run in several processes (pytest-xdist): share the cores out, before torch is imported, instead of fighting for them.
_workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
if _workers > 1: os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1)//_workers)))

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / 'shared'   # optional data on a developer's machine


def pytest_collection_modifyitems(items):
    "Whatever lies in tests/reliability carries that marker."
    for item in items:
        if item.path.parent.name == 'reliability': item.add_marker('reliability')


@pytest.fixture
def command(tmp_path):
    "Run a command of the package in an empty folder; gives (status, stdout, stderr)."
    def run(module, *args, **kw):
        env = os.environ | {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
        module = ['vit_course', module] if module.startswith('vit_') else [f'vit_course.{module}']
        p = subprocess.run([sys.executable, '-m', *module, *map(str, args)], cwd=kw.pop('cwd', tmp_path),
                           env=env | kw.pop('env', {}), capture_output=True, text=True, timeout=kw.pop('timeout', 300), **kw)
        return p.returncode, p.stdout, p.stderr
    return run


@pytest.fixture
def in_process(tmp_path, monkeypatch, capsys):
    "Call the function behind a command here, in an empty folder: (status, stdout, stderr). Much faster than a new process."
    monkeypatch.chdir(tmp_path)
    def run(main, *args):
        try: status = main([str(a) for a in args])
        except SystemExit as e: status = e.code
        return status, *capsys.readouterr()
    return run


def wait_for(path, lines, process, seconds=120):
    "Wait until a file has so many lines, while a process writes it."
    end = time.time() + seconds
    while time.time() < end and process.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) >= lines: return
        time.sleep(0.02)
    raise AssertionError(f'{path} did not come: {process.poll()} {process.stderr.read()[-2000:] if process.poll() is not None else ""}')


def missing(what):
    "Skip a test in a browser, or fail it where VIT_COURSE_REQUIRE_BROWSER is set, as `.ci/run` does."
    (pytest.fail if os.environ.get('VIT_COURSE_REQUIRE_BROWSER') else pytest.skip)(what)


def chromium_path():
    return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)


@contextlib.contextmanager
def chromium():
    "A headless browser, or `missing`."
    path = chromium_path()
    if not importlib.util.find_spec('playwright'): missing('playwright is not installed: pip install playwright')
    if not path: missing('there is no Chromium: apt-get install chromium')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        try: yield browser
        finally: browser.close()


def shake(model, seed=0, std=.05):
    "Noise on every parameter: zeros and ones would hide mistakes."
    import torch
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters(): p += std * torch.randn(p.shape, generator=g)
    return model.eval()


def relative(a, b): return ((a - b).abs().max() / b.abs().max()).item()
