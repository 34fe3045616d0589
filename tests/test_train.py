"`vit_train` as a person uses it: the command line, its errors, stopping and going on."
import functools, csv, json, os, signal, subprocess, sys
from collections import Counter
from pathlib import Path

import pytest, torch
from conftest import ROOT, wait_for
from PIL import Image
from vit_course.data import get_dls

QUICK = ['--model_type', 'testing', '--device', 'cpu']


@pytest.fixture(autouse=True)
def no_gain(monkeypatch):
    "No note on bfloat16, which some processors get and others do not: the tests count lines."
    monkeypatch.setattr('vit_course.tools.train.bf16_gain', lambda learn: 1.)


def params(state): return torch.cat([v.double().flatten() for v in state['model'].values()])


def state(path): return torch.load(path/'last'/'state.pt', weights_only=True)


def test_help(command):
    status, out, err = command('finetune', '--help')
    assert status == 0 and not err
    for flag in ('name dataset model_type pretrained_dir output_dir img_size train_batch_size eval_batch_size eval_every learning_rate weight_decay num_steps decay_type '
                 'warmup_steps max_grad_norm local_rank seed gradient_accumulation_steps fp16 fp16_opt_level loss_scale bf16 data_dir resume device compile optimizer').split():
        assert f'--{flag} ' in out or f'--{flag}\n' in out or f'--{flag}]' in out, flag


def test_run_folder(command, tmp_path):
    status, out, err = command('finetune', '--name', 'a', *QUICK, '--num_steps', 30, '--eval_every', 20)
    assert status == 0, err
    run = tmp_path/'output'/'a'
    assert {p.name for p in run.iterdir() if not p.name.startswith('events')} == {'config.json', 'metrics.csv', 'best.safetensors', 'last', 'result.json', 'predictions.csv', 'confusion.png'}
    assert len(list(run.glob('events.out.tfevents*'))) == 1
    result = json.loads((run/'result.json').read_text())
    assert set(result) == {'test_accuracy', 'valid_accuracy', 'test_loss', 'seconds', 'images_per_second', 'steps', 'images', 'parameters', 'device', 'versions', 'commit', 'finished',
                           'processes', 'compiled', 'ms_per_step', 'input_share', 'mfu', 'matmul_flops', 'peak_memory', 'most_confused'}
    assert 0 < result['mfu'] < 1 and 0 < result['input_share'] < 1 and result['ms_per_step'] * result['images_per_second'] == pytest.approx(64e3)
    assert result['peak_memory'] is None or result['peak_memory'] > 1e8
    assert (result['steps'], result['images']) == (30, 30*64) and 0 <= result['test_accuracy'] <= 1
    with open(run/'metrics.csv') as f: assert [int(r['step']) for r in csv.DictReader(f)] == [20, 30]
    assert f"test accuracy {100*result['test_accuracy']:.2f} %" in out
    with open(run/'predictions.csv', newline='') as f: rows = list(csv.DictReader(f))
    test = get_dls('digits', device='cpu').test.dataset
    assert [r['image'] for r in rows] == [str(i) for i in range(len(test))] and [int(r['truth']) for r in rows] == test.labels.tolist()
    assert sum(r['truth'] == r['answer'] for r in rows)/len(rows) == pytest.approx(result['test_accuracy'])
    assert all(.1 <= float(r['probability']) <= 1 for r in rows)
    mistakes = Counter((r['truth'], r['answer']) for r in rows if r['truth'] != r['answer'])
    assert [n for *_, n in result['most_confused']] == [n for _, n in mistakes.most_common(3)] and all(mistakes[t, a] == n for t, a, n in result['most_confused'])
    truth, answer, n = result['most_confused'][0]
    assert f"most confused: {truth} taken for {answer} ({n} times)" in out
    with Image.open(run/'confusion.png') as im: assert im.format == 'PNG' and min(im.size) > 300
    again = command('finetune', '--name', 'a', *QUICK, '--num_steps', 30, '--eval_every', 20, '--resume')
    assert again[0] == 0 and 'is finished' in again[1]


FOLDERS = {
    'empty': lambda d: (d/'train').mkdir(parents=True),
    'one class': lambda d: draw(d/'train'/'cat'/'a.png'),
    'no train': lambda d: draw(d/'test'/'cat'/'a.png'),
    'a file': lambda d: (d.parent.mkdir(exist_ok=True, parents=True), d.write_text('x')),
}


def draw(path):
    from PIL import Image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (16, 16), 'red').save(path)


MISTAKES = [
    (['--dataset', 'imagenet'], 'choose one of digits, cifar10, cifar100, folder'),
    (['--model_type', 'ViT-B16'], 'choose one of ViT-Ti_16'),
    (['--dataset', 'folder', '--data_dir', 'nowhere'], 'nowhere is not a folder'),
    (['--pretrained_dir', 'ViT-B_16-224.npz'], 'vit_weights fetch ViT-B_16-224'),
    (['--img_size', '15'], 'not divisible by the patch size'),
    (['--img_size', 'big'], 'img_size'),
    (['--train_batch_size', '0'], 'at least 1'),
    (['--gradient_accumulation_steps', '65'], 'at least one image'),
    (['--num_steps', '0'], 'at least 1'),
    (['--fp16', '--bf16'], 'exclude each other'),
    (['--name', '../x'], 'without a path'),
    (['--name', ''], 'without a path'),
    (['--decay_type', 'step'], 'cosine, linear'),
    (['--learning_rate', '0'], 'positive'),
    (['--learning_rate', 'nan'], 'positive'),
    (['--set', 'depth'], 'KEY=VALUE'),
    (['--set', 'depht=3'], 'depht'),
    (['--set', 'heads=3'], 'not divisible by 3 heads'),
    (['--set', 'depth=many'], 'depth'),
    (['--device', 'cuda:7'], 'is not there'),
    (['--num_step', '5'], 'unrecognized'),
]


@pytest.fixture
def fast_main(in_process):
    "vit_train in this process: (status, stdout, stderr)."
    from vit_course.tools.commands import vit_train
    return functools.partial(in_process, vit_train)


@pytest.mark.parametrize('args, words', MISTAKES, ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_mistake_is_one_line(fast_main, tmp_path, args, words):
    status, out, err = fast_main('--name', 'x', *QUICK, *args)
    assert status == 2 and words in err and err.startswith('vit_train: ') and err.count('\n') == 1, err
    assert list(tmp_path.iterdir()) == []                     # nothing half-written


@pytest.mark.parametrize('name', FOLDERS)
def test_unusable_folder(fast_main, tmp_path, name):
    FOLDERS[name](tmp_path/'animals')
    status, out, err = fast_main('--name', 'x', *QUICK, '--dataset', 'folder', '--data_dir', 'animals')
    assert status == 2 and err.count('\n') == 1 and 'animals' in err and not (tmp_path/'output').exists()


def test_no_argument(fast_main):
    status, out, err = fast_main()
    assert status == 2 and '--name' in err and err.count('\n') == 1


def test_existing_run(fast_main, tmp_path):
    assert fast_main('--name', 'x', *QUICK, '--num_steps', 4)[0] == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    status, out, err = fast_main('--name', 'x', *QUICK, '--num_steps', 4)
    assert status == 2 and '--resume' in err and err.count('\n') == 1
    status, out, err = fast_main('--name', 'x', *QUICK, '--num_steps', 5, '--resume')
    assert status == 2 and 'num_steps was 4, is 5' in err
    assert before == {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}


def test_broken_and_odd_images_are_named(fast_main, tmp_path):
    for c in ('cat', 'dog'):
        for i in range(12): draw(tmp_path/'pets'/c/f'{i}.png')
    (tmp_path/'pets'/'cat'/'broken.jpg').write_bytes(b'\xff\xd8\xff\xe0 no')
    status, out, err = fast_main('--name', 'x', *QUICK, '--dataset', 'folder', '--data_dir', 'pets', '--num_steps', 2)
    assert status == 0 and 'skipped 1 files' in err and 'broken.jpg' in err


def test_loss_that_is_not_a_number(fast_main, tmp_path):
    status, out, err = fast_main('--name', 'x', *QUICK, '--num_steps', 200, '--optimizer', 'sgd', '--learning_rate', '1e30', '--max_grad_norm', '0', '--warmup_steps', '0')
    assert status == 2 and 'lower --learning_rate' in err and err.strip().splitlines()[-1].startswith('vit_train: the loss is')


@pytest.mark.skipif(sys.platform == 'win32' or os.geteuid() == 0 and not Path('/dev/full').exists(), reason='needs /dev/full or a full disk')
def test_no_space_left(fast_main, tmp_path, monkeypatch):
    def full(*a, **k): raise OSError(28, 'No space left on device', str(tmp_path/'output'/'x'/'last'))
    monkeypatch.setattr(torch, 'save', full)
    status, out, err = fast_main('--name', 'x', *QUICK, '--num_steps', 4)
    assert status == 2 and 'No space left on device' in err and '--resume' in err and err.count('\n') == 1
    assert not list((tmp_path/'output'/'x').rglob('*.tmp'))


def start(tmp_path, name, *more):
    env = os.environ | {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.Popen([sys.executable, '-m', 'vit_course.finetune', '--name', name, *QUICK, '--num_steps', '400', '--eval_every', '40', '--set', 'drop=0.1', *more],
                            cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_interrupted_and_killed_runs_end_like_an_undisturbed_one(tmp_path):
    whole = start(tmp_path, 'whole'); _, err = whole.communicate(timeout=300); assert whole.returncode == 0, err
    p = start(tmp_path, 'stopped'); wait_for(tmp_path/'output'/'stopped'/'metrics.csv', 3, p)
    p.send_signal(signal.SIGINT); _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and '--resume' in err and 'Traceback' not in err
    at = state(tmp_path/'output'/'stopped')['step']
    assert 80 <= at < 400
    p = start(tmp_path, 'stopped', '--resume'); wait_for(tmp_path/'output'/'stopped'/'metrics.csv', 6, p)
    p.kill(); p.communicate()
    p = start(tmp_path, 'stopped', '--resume'); out, err = p.communicate(timeout=300)
    assert p.returncode == 0 and 'going on with' in out, err
    a, b = (state(tmp_path/'output'/n) for n in ('whole', 'stopped'))
    assert torch.equal(params(a), params(b)) and a['step'] == b['step'] == 400
    for x, y in zip(a['opt']['state'].values(), b['opt']['state'].values()): assert all(torch.equal(x[k], y[k]) for k in x)
    def rows(n):
        with open(tmp_path/'output'/n/'metrics.csv') as f: return [{k: v for k, v in r.items() if k not in ('seconds', 'images_per_second')} for r in csv.DictReader(f)]
    assert rows('whole') == rows('stopped') and len(rows('whole')) == 10
    results = [json.loads((tmp_path/'output'/n/'result.json').read_text()) for n in ('whole', 'stopped')]
    assert results[0]['test_loss'] == results[1]['test_loss']


def test_damaged_last_state_falls_back(fast_main, tmp_path):
    args = ['--name', 'x', *QUICK, '--num_steps', 30, '--eval_every', 10]
    assert fast_main(*args)[0] == 0
    run = tmp_path/'output'/'x'; whole = params(state(run))
    (run/'result.json').unlink(); (run/'last'/'state.pt').write_bytes((run/'last'/'state.pt').read_bytes()[:5000])
    status, out, err = fast_main(*args, '--resume')
    assert status == 0 and 'is damaged' in err and 'at step 20' in out and torch.equal(params(state(run)), whole)


@pytest.mark.parametrize('kw', [['--fp16'], ['--bf16'], ['--gradient_accumulation_steps', '3'], ['--optimizer', 'sgd', '--decay_type', 'linear'], ['--grad_checkpointing'],
                                ['--fp16', '--fp16_opt_level', 'O0'], ['--img_size', '8x24'], ['--set', 'registers=4', 'qk_norm=true', 'pos_embed=sincos2d', 'layer_scale=0.1', 'pool=mean']],
                         ids=' '.join)
def test_settings_train(fast_main, tmp_path, kw):
    status, out, err = fast_main('--name', 'x', *QUICK, '--num_steps', 5, '--eval_every', 3, *kw)
    assert status == 0, err
    assert json.loads((tmp_path/'output'/'x'/'result.json').read_text())['steps'] == 5


def test_starts_from_a_checkpoint(fast_main, tmp_path):
    assert fast_main('--name', 'a', *QUICK, '--num_steps', 60)[0] == 0
    status, out, err = fast_main('--name', 'b', *QUICK, '--num_steps', 1, '--learning_rate', 1e-9, '--pretrained_dir', 'output/a/best.safetensors')
    a, b = (json.loads((tmp_path/'output'/n/'result.json').read_text()) for n in 'ab')
    assert status == 0 and a['test_accuracy'] == b['test_accuracy'], err


def test_homework_command_with_b16(fast_main, tmp_path):
    "The homework's model, at 32 pixels so that a CPU can follow, on a folder of images."
    for c in 'ab':
        for i in range(10): draw(tmp_path/'animals'/c/f'{i}.png')
    status, out, err = fast_main('--name', 'cifar10-100_500', '--dataset', 'folder', '--data_dir', 'animals', '--model_type', 'ViT-B_16', '--img_size', 32, '--num_steps', 2,
                                 '--train_batch_size', 4, '--fp16')
    assert status == 0 and (tmp_path/'output'/'cifar10-100_500'/'result.json').exists(), err
