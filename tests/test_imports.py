"Who may import whom, and what an import costs (measured in benchmarks/import_time.py; here only what gets loaded)."
import ast, subprocess, sys

import pytest
from conftest import ROOT

FLOOR = {'patches': 1, 'attention': 1, 'encoder': 2, 'vit': 3, 'checkpoints': 4, 'attention_maps': 4.5, 'data': 4, 'finetune': 5,
         'explorer': 5, 'experiments': 6, 'report': 7, 'tools.doctor': 0,
         'teach.sandbox': .1, 'teach.editions': .2, 'teach.grading': .3, 'teach.assignments': .4}
LAZY = {('attention_maps', 'explorer')}   # inside of a function, for `vit_attention --html`
ALONE = {'tools.doctor', 'teach.sandbox', 'teach.editions', 'teach.grading', # load no torch
         'teach.assignments'}


def name_of(path): return '.'.join(path.relative_to(ROOT/'vit_course').with_suffix('').parts)


MODULES = sorted(name_of(p) for p in (ROOT/'vit_course').rglob('[a-z]*.py'))


def imported(module):
    "(is it ours?, name) for all imports of a module, also those inside of functions."
    folder = module.split('.')[:-1]
    tree = ast.parse((ROOT/'vit_course'/f"{module.replace('.', '/')}.py").read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[:len(folder) - node.level + 1] + (node.module or '').split('.')
            name = '.'.join(filter(None, base))
            yield from [(True, name)] if name in MODULES else [(True, f'{name}.{a.name}'.lstrip('.')) for a in node.names]
        elif isinstance(node, ast.ImportFrom): yield False, node.module.split('.')[0]
        elif isinstance(node, ast.Import): yield from ((False, a.name.split('.')[0]) for a in node.names)


@pytest.mark.parametrize('module', MODULES)
def test_imports_go_down(module):
    for ours, name in imported(module):
        if ours and (module, name) not in LAZY: assert FLOOR[name] < FLOOR[module], f'{module} imports {name}, which is not below it'


@pytest.mark.parametrize('module', [m for m in MODULES
                                    if FLOOR[m] <= 3 and not m.startswith('teach.')])
def test_model_needs_torch_alone(module):
    allowed = set(sys.stdlib_module_names) | ({'torch'} if FLOOR[module] else {'psutil', 'packaging', 'torch', 'torchvision'})
    assert {name for ours, name in imported(module) if not ours} <= allowed


def loaded_by(statement):
    code = f"{statement}\nimport sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_vit_loads_no_training_library():
    extra = loaded_by('import vit_course.vit') - loaded_by('import torch')
    assert not extra & {'fastai', 'fastcore', 'torchvision', 'matplotlib', 'pandas', 'safetensors'}, extra
    assert 'vit_course' in extra


@pytest.mark.parametrize('module', sorted(ALONE))
def test_loads_no_torch(module):
    assert not loaded_by(f'import vit_course.{module}') & {'torch', 'numpy', 'IPython', 'fastai', 'fastcore'}
