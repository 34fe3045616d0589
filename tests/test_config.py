"Settings of a run: they load neither torch nor numpy, agree with what they name, and each says what it is."
import argparse, subprocess, sys
from dataclasses import fields

import pytest
from conftest import ROOT
from vit_course.tools.config import CHOICES, RECIPES, FinetuneConfig, TrialConfig, add_settings


def test_loads_no_torch():
    code = "import vit_course.tools.config, sys; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'vit_course' in loaded and not set(loaded.split()) & {'torch', 'numpy', 'fastai', 'pandas'}


def test_names_are_those_of_the_models_and_data_sets():
    from vit_course.data import DATASETS
    from vit_course.vit import CONFIGS
    assert list(RECIPES) == list(CHOICES['model_type']) and set(RECIPES) == set(CONFIGS)
    assert CHOICES['dataset'] == tuple(DATASETS)


@pytest.mark.parametrize('cls', [FinetuneConfig, TrialConfig])
def test_each_setting_is_a_flag_with_a_help_text(cls):
    p = argparse.ArgumentParser()
    add_settings(p, cls)
    flags = {a.dest: a.help for a in p._actions}
    for f in fields(cls): assert flags[f.name] and '\n' not in flags[f.name], f.name


def test_flags_left_out():
    p = argparse.ArgumentParser()
    add_settings(p, TrialConfig, skip=('seed', 'name'))
    assert not {a.dest for a in p._actions} & {'seed', 'name'}
    assert vars(p.parse_args([])) == {}
