"""Who may import whom, and what an import costs (measured in benchmarks/import_time.py; here only what gets loaded).
That nothing goes round in a circle is seen in tests/test_house.py."""
import subprocess, sys

import pytest
from conftest import ROOT
from test_house import house

FILES = house.modules()
# in the order in which a student reads them; each may import those before it, and tools
LESSONS = ['patches', 'attention', 'encoder', 'vit', 'variants', 'checkpoints', 'data', 'callbacks', 'finetune', 'experiments', 'studies',
           'attention_maps', 'faithfulness', 'explorer', 'report']
TORCH_ALONE = ['patches', 'attention', 'encoder', 'tools.backbone', 'vit', 'variants']
WITHOUT_TORCH = [m for m in FILES if m.startswith('teach.')] + ['tools.doctor', 'tools.config']


@pytest.mark.parametrize('module', [m for m in LESSONS if m in FILES])
def test_imports_go_down(module):
    for ours, name in house.imports(module, FILES):
        if ours and not name.startswith('tools.'):
            assert name in LESSONS[:LESSONS.index(module)], f'{module} imports {name}, which a reader has not met'


def test_every_lesson_has_its_place():
    assert {m for m in FILES if '.' not in m} <= set(LESSONS)


@pytest.mark.parametrize('module', [m for m in TORCH_ALONE if m in FILES])
def test_model_needs_torch_alone(module):
    found = list(house.imports(module, FILES))
    assert {name for ours, name in found if not ours} <= set(sys.stdlib_module_names) | {'torch'}
    assert {name for ours, name in found if ours} <= set(TORCH_ALONE)


def test_doctor_needs_python_alone():
    allowed = set(sys.stdlib_module_names) | {'psutil', 'packaging', 'torch', 'torchvision'}      # looked at, with care
    assert {name for ours, name in house.imports('tools.doctor', FILES) if not ours} <= allowed


def loaded_by(statement):
    code = f"{statement}\nimport sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_vit_loads_no_training_library():
    extra = loaded_by('import vit_course.vit') - loaded_by('import torch')
    assert not extra & {'fastai', 'fastcore', 'torchvision', 'matplotlib', 'pandas', 'safetensors'}, extra
    assert 'vit_course' in extra


@pytest.mark.parametrize('module', WITHOUT_TORCH)
def test_loads_no_torch(module):
    assert not loaded_by(f'import vit_course.{module}') & {'torch', 'numpy', 'IPython', 'fastai'}
