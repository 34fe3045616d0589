"The benchmarks run: small sizes, on whatever there is. Their numbers are made by running them by hand."
import argparse, json, subprocess, sys

import pytest, torch
from conftest import ROOT

pytest.importorskip('timm'); pytest.importorskip('transformers')
sys.path.insert(0, str(ROOT/'benchmarks'))
import gpu, peers, scaling, vit
from vit_course.vit import count_parameters


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    for k, v in dict(DEVICE='cpu', GPU=False).items(): monkeypatch.setattr(gpu, k, v)


def test_peers_are_the_same_model():
    x = torch.randn(2, 3, 16, 16)
    for p in peers.PEERS:
        m = peers.make(p, 'testing')
        assert m(x).shape == (2, 10) and count_parameters(m) == count_parameters(peers.make('this', 'testing')), p


@pytest.mark.parametrize('part', gpu.PARTS)
def test_gpu_parts_run(part):
    args = argparse.Namespace(model='testing', repeat=1, steps=1, batch=4, smoke=True)
    result = gpu.PARTS[part](args)
    assert result['rows'] and all(set(r) == set(result['rows'][0]) for r in result['rows'])
    json.dumps(result)


def test_gpu_needs_a_gpu_or_smoke(tmp_path):
    p = subprocess.run([sys.executable, str(ROOT/'benchmarks'/'gpu.py'), '--part', 'rate', '--smoke', '--out', str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0 and 'smoke test' in p.stdout, p.stderr
    assert json.loads((tmp_path/'gpu_rate.json').read_text())['smoke'] is True


@pytest.mark.parametrize('part', ['forward', 'train'])
def test_vit_parts_run(part):
    rows = vit.PARTS[part][0]('testing', 2, 2)
    assert [r['library'] for r in rows] == list(peers.PEERS) and rows[0]['ratio'] == 1 and all(r['seconds'] > 0 for r in rows)


def test_alternating_order():
    seen = []
    times = vit.alternate({c: lambda c=c: seen.append(c) for c in 'abc'}, 2)
    assert ''.join(seen) == 'abc' + 'bca' + 'cab' and [len(t) for t in times.values()] == [2, 2, 2]


def test_exponents_and_paper():
    assert scaling.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    kept, _ = scaling.kept_bytes(lambda: (torch.ones(256, requires_grad=True) * 2).exp())
    assert kept == 1024                                          # exp keeps its result
    few, many = (list(scaling.on_paper(s, 4, {'slow': 1e8}))[-1] for s in (0.1, 100.))
    assert few['efficiency'] < 0.1 and many['efficiency'] == 1 and few['devices'] == 512
