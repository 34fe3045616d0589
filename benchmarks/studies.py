"""The studies of chapter 8: `python benchmarks/studies.py NAME... --size laptop [flags of vit_sweep]` runs each one with `vit_sweep` and writes
report/results/study_NAME_SIZE.json, which the chapter reads. A study that was stopped goes on; run folders stay in `output/`."""
import argparse, sys, tempfile
from pathlib import Path

from common import ROOT, write_result
from vit_course.studies import robustness
from vit_course.tools.commands import vit_sweep
from vit_course.tools.runs import collect

CHANGES = dict(tiny=dict(shuffle=[4, 2], shift=[1, 2], hide=[0.25, 0.5]), laptop=dict(shuffle=[8, 4], shift=[2, 4], hide=[0.25, 0.5]),
               gpu=dict(shuffle=[16, 8, 4], shift=[2, 4, 8], hide=[0.25, 0.5, 0.75]))


def parts_of_digits(folder):
    "The digits as images in class folders, in two halves: 0 to 4 to learn from, 5 to 9 to go on with."
    from PIL import Image
    from vit_course.data import load_digits
    images, names = load_digits()
    for i, (x, y) in enumerate(zip(images.images, images.labels.tolist())):
        path = Path(folder)/('first' if y < 5 else 'second')/names[y]/f'{i:04}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(path)


p = argparse.ArgumentParser(description=__doc__)
p.add_argument('names', nargs='+'); p.add_argument('--size', required=True); p.add_argument('--output_dir', default='output')
p.add_argument('--out', type=Path, default=ROOT/'report'/'results', help='folder of the JSON')
args, more = p.parse_known_args()
for name in args.names:
    given = list(more)
    if name == 'transfer' and args.size != 'gpu':
        from vit_course.finetune import FinetuneConfig, finetune
        halves, model = tempfile.mkdtemp(), 'testing' if args.size == 'tiny' else 'ViT-digits'
        parts_of_digits(halves)
        finetune(FinetuneConfig('weights', dataset='folder', data_dir=f'{halves}/first', output_dir=halves, model_type=model, img_size=8, min_area=0.8, num_steps=600,
                                set=dict(patch_size=2)), progress=False)
        given += ['--dataset', 'folder', '--data_dir', f'{halves}/second', '--pretrained_dir', f'{halves}/weights/best.safetensors']
    status = vit_sweep([name, '--size', args.size, '--output_dir', args.output_dir, *given])
    if status: sys.exit(status)
    folder = Path(args.output_dir)/f'{name}_{args.size}'
    extra = dict(robustness=robustness(folder, CHANGES[args.size], train_share=1., shuffle_patches=None)) if name == 'cnn' else {}
    paths = [i + 1 for i, a in enumerate(more) if a in ('--data_dir', '--pretrained_dir', '--storage')]
    said = ['DIR' if i in paths else a for i, a in enumerate(more)]           # no paths of this machine in a result
    sys.argv[1:] = [name, '--size', args.size, *said]
    write_result(args.out/f'study_{name}_{args.size}.json', **collect(folder), **extra)
