"""What of fastai works on our loaders and on fastai's own: `python benchmarks/fastai_verbs.py` runs tests/test_fastai.py and writes
report/results/fastai_verbs_VERSION.json for the version of fastai that is installed: a row for each verb, from the tests' results.
The reference shows it."""
import os, subprocess, sys, tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from common import ROOT, table, write_result

DATA = dict(ours='get_dls', fastai='ImageDataLoaders.from_folder')


def verbs(cases):
    "From test cases, (name, outcome), to a row for each verb: did all tests of it pass on each kind of data?"
    rows = {}
    for name, outcome in cases:
        verb, _, given = name.removeprefix('test_').partition('[')
        kind = next((k for k in DATA if k in given.rstrip(']').split('-')), None)
        if kind: rows.setdefault(verb, {}).setdefault(kind, []).append(outcome)
    return [dict(verb=verb, **{DATA[k]: 'works' if set(r.get(k, ['skipped'])) <= {'passed'} else 'skipped' if set(r[k]) <= {'skipped', 'passed'} else 'fails'
                               for k in DATA if k in r}) for verb, r in rows.items()]


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder)/'tests.xml'
        subprocess.run([sys.executable, '-m', 'pytest', '-q', '-n', '2', f'--junitxml={xml}', str(ROOT/'tests'/'test_fastai.py')], env=os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])})
        cases = [(c.get('name'), next((o.tag.replace('failure', 'failed') for o in c), 'passed')) for c in ElementTree.parse(xml).iter('testcase')]
    rows = verbs(cases)
    table(rows)
    write_result(ROOT/'report'/'results'/f"fastai_verbs_{version('fastai')}.json", verbs=rows, tests=len(cases), fastai=version('fastai'), fastcore=version('fastcore'))
    sys.exit(any(o not in ('passed', 'skipped') for _, o in cases))
