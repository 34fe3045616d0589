"Who may import whom, and what an import costs (measured in benchmarks/import_time.py; here only what gets loaded)."
import ast, subprocess, sys

import pytest
from conftest import ROOT

FLOOR = dict(patches=1, attention=1, encoder=2, vit=3, checkpoints=4, attention_maps=4.5, data=4, finetune=5, explorer=5, experiments=6, report=7,
             doctor=0, assignments=.5)
LAZY = {('attention_maps', 'explorer')}   # inside of a function, for `vit_attention --html`
MODULES = sorted(p.stem for p in (ROOT/'vit_course').glob('[a-z]*.py'))


def imported(module):
    tree = ast.parse((ROOT/'vit_course'/f'{module}.py').read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom): yield node.level, (node.module or '').split('.')[0]
        elif isinstance(node, ast.Import): yield from ((0, a.name.split('.')[0]) for a in node.names)


@pytest.mark.parametrize('module', MODULES)
def test_imports_go_down(module):
    for level, name in imported(module):
        if level and (module, name) not in LAZY: assert FLOOR[name] < FLOOR[module], f'{module} imports {name}, which is not below it'


@pytest.mark.parametrize('module', [m for m in MODULES if FLOOR[m] <= 3 and m != 'assignments'])
def test_model_needs_torch_alone(module):
    allowed = set(sys.stdlib_module_names) | ({'torch'} if FLOOR[module] else {'psutil', 'packaging', 'torch', 'torchvision'})
    assert {name for level, name in imported(module) if not level} <= allowed


def loaded_by(statement):
    code = f"{statement}\nimport sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_vit_loads_no_training_library():
    extra = loaded_by('import vit_course.vit') - loaded_by('import torch')
    assert not extra & {'fastai', 'fastcore', 'torchvision', 'matplotlib', 'pandas', 'safetensors'}, extra
    assert 'vit_course' in extra


@pytest.mark.parametrize('module', ['doctor', 'assignments'])
def test_loads_no_torch(module):
    assert not loaded_by(f'import vit_course.{module}') & {'torch', 'numpy', 'IPython', 'fastai', 'fastcore'}
