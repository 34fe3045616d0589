"What all tests share: where things are, and a runner for the command lines."
import os, subprocess, sys
from pathlib import Path

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
