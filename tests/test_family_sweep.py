"""Vision Transformers of timm, torchvision and transformers: loaded, and right, or refused in one line (`benchmarks/families.py`). A
sample here; all of them with VIT_COURSE_RELIABILITY=full (CONTRIBUTING.md), and their results are in report/results/families.json."""
import importlib.util, json, os, re, sys
from importlib.metadata import version

import pytest, torch
from conftest import ROOT

for library in ('timm', 'torchvision', 'transformers'): pytest.importorskip(library)
sys.path.insert(0, str(ROOT/'benchmarks'))
import families
from vit_course.tools.weight_config import published

FULL = os.environ.get('VIT_COURSE_RELIABILITY') == 'full'
SAMPLE = dict(timm=14, torchvision=4, transformers=6)
RESULTS = ROOT/'report'/'results'/'families.json'
# models that a user is likely to have, whatever the sample has: (library, name, alone, with its config.json)
EXPECTED = [('timm', 'vit_tiny_patch16_224', 'equal', 'equal'), ('timm', 'deit3_small_patch16_224', 'equal', 'equal'),
            ('timm', 'vit_small_patch14_reg4_dinov2', 'equal', 'equal'), ('timm', 'resnet18', 'refused', 'refused'),
            ('torchvision', 'vit_b_32', 'equal', None), ('transformers', 'ViTForImageClassification', 'asked', 'equal'),
            ('transformers', 'Dinov2Model', 'equal', 'equal')]

pytestmark = pytest.mark.reliability


def fine(row): return {row['alone'], row.get('with_config', row['alone'])} <= {'equal', 'fields', 'asked', 'refused', 'unbuilt'}


@pytest.mark.parametrize('library', SAMPLE)
def test_a_sample_is_equal_or_refused(library, tmp_path):
    rows = list(families.sweep(library, folder=tmp_path, sample=None if FULL else SAMPLE[library], seed=0))
    assert len(rows) >= SAMPLE[library] and not [row for row in rows if not fine(row)]


@pytest.mark.parametrize('library, name, alone, with_config', EXPECTED, ids=lambda v: str(v))
def test_what_many_have(library, name, alone, with_config, tmp_path):
    row, = families.sweep(library, f'^{name}$', tmp_path)
    assert (row['alone'], row.get('with_config')) == (alone, with_config), row


def test_a_difference_is_found(tmp_path):
    "Other fields than the library's, or other numbers, are a row 'different'; an error of another kind is 'broken'."
    meta = families.timm_meta('vit_tiny_patch16_224')
    facts = families.timm_facts(meta)
    def judge(facts=facts, theirs=lambda m, x: m(x)):
        return families.judge('vit', meta, facts, lambda: families.timm_small('vit_tiny_patch16_224', meta), theirs, tmp_path)['alone']
    assert judge() == 'equal'
    assert judge(facts | dict(heads=6)) == judge(theirs=lambda m, x: m(x)*1.001) == 'different'
    def crash(*args): raise KeyError('x')
    assert families.attempt(crash)[1] == 'broken' and not fine(dict(alone='equal', with_config='broken'))


def test_the_committed_results():
    made = json.loads(RESULTS.read_text(encoding='utf-8'))
    assert made['command'] == 'python benchmarks/families.py' and set(made['libraries']) == set(SAMPLE)
    for library, rows in made['rows'].items():
        assert made['counts'][library] == dict(models=len(rows), vits=sum(r.get('vit', False) for r in rows), **families.counts(rows))
        assert not [row for row in rows if not fine(row)] and len({r['name'] for r in rows}) == len(rows)
    assert made['counts']['timm']['alone']['equal'] > 50 and made['counts']['transformers']['with_config']['equal'] > 3


def test_the_table_is_what_the_library_has(tmp_path):
    "Rows of a sample of models (of all, with the full tests), where the installed timm is the one of the table."
    names = [name for row in published() for name in row['names'] if row['source'].startswith('timm')]
    rows = {name: row for row in published() for name in row['names']}
    assert len(names) > 200
    if f"timm {version('timm')}" != rows[names[0]]['source']: pytest.skip('another timm')
    for name in names if FULL else names[::40]:
        facts = families.timm_facts(families.timm_meta(name))
        assert {f: rows[name][f] for f in facts} == facts, name
