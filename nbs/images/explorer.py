"""Make the screenshots of the explorer: `python nbs/images/explorer.py [--weights dinov2_small_fp16.safetensors]`.

A real photograph and real weights: DINOv2 ViT-S/14 (any file of it that `load_checkpoint` reads; the committed pictures show one that was tuned further
for saliency). Its weights have no classes, so a linear head is fitted on crops of six photographs that come with scikit-image: it says which of the six
an image is from, which is enough to show the prediction and the relevance. Needs playwright and Chromium."""
import argparse, io, shutil, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))
import numpy as np, torch
from PIL import Image
from skimage import data
from torch.nn import functional as F
from vit_course.attention_maps import SCALES, normalise
from vit_course.checkpoints import load_checkpoint
from vit_course.explorer import AttentionExplorer
from vit_course.vit import create_vit

MEAN, STD = SCALES['imagenet']
PHOTOS = dict(cat=data.chelsea(), astronaut=data.astronaut(), coffee=data.coffee(), rocket=data.rocket(), galaxies=data.hubble_deep_field(), tissue=data.immunohistochemistry())
SHOTS = {  # file: (width, scheme, traits)
    'explorer.png': (1400, 'light', dict(layer=9, head=1)),
    'explorer_dark.png': (1400, 'dark', dict(compare=1, query=1 + 16*4 + 8, layer=9, head=1, interpolation='bilinear')),
    'explorer_phone.png': (360, 'light', dict(image=1, query=1 + 16*5 + 7, layer=9, head=0)),
    'explorer_phone_dark.png': (360, 'dark', dict(method='relevance')),
}


def crop(image, top, left, size, out):
    return np.asarray(Image.fromarray(image[top:top + size, left:left + size]).resize((out, out), Image.Resampling.BILINEAR))


def fit_head(weights, crops=16, size=126):
    "Logistic regression on the class tokens of random crops: weight (6,D) and bias (6,)."
    model = create_vit('ViT-S_14', img_size=size, num_classes=0)
    load_checkpoint(model, weights)
    rng, images = np.random.default_rng(0), []
    for image in PHOTOS.values():
        for _ in range(crops):
            n = int(min(image.shape[:2])*rng.uniform(.4, 1))
            images.append(crop(image, rng.integers(image.shape[0] - n + 1), rng.integers(image.shape[1] - n + 1), n, size))
    x, y = normalise(torch.from_numpy(np.stack(images)), MEAN, STD), torch.arange(len(PHOTOS)).repeat_interleave(crops)
    with torch.no_grad(): features = torch.cat([model.eval()(part) for part in x.split(16)])
    head = torch.nn.Linear(features.shape[1], len(PHOTOS))
    opt = torch.optim.LBFGS(head.parameters(), max_iter=100)
    def loss():
        opt.zero_grad()
        value = F.cross_entropy(head(features), y) + 1e-3*head.weight.square().sum()
        value.backward()
        return value
    opt.step(loss)
    print(f'head: {(head(features).argmax(1) == y).float().mean():.0%} of the {len(y)} crops it was fitted on')
    return head


def small(png, limit=300_000):
    "The image with as many colours as fit into the limit, dithered."
    image = Image.open(io.BytesIO(png)).convert('RGB')
    for colours in (256, 128, 96, 64, 48, 32):
        file = io.BytesIO()
        palette = image.quantize(colours, kmeans=3)
        image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, 'PNG', optimize=True)
        if file.tell() <= limit: return file.getvalue()
    raise SystemExit(f'{file.tell():,} bytes with {colours} colours')


def card():
    "What others show of a link to the site (og:image): the upper part of explorer.png, 1200 × 630."
    image = Image.open(HERE/'explorer.png').convert('RGB')
    image.crop((0, 0, image.width, image.width*630//1200)).resize((1200, 630), Image.Resampling.LANCZOS).quantize(128).save(HERE/'card.png', optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--weights', default=str(ROOT.parent/'shared'/'weights'/'dinov2_small_fp16.safetensors'))
    args = parser.parse_args()
    if not Path(args.weights).exists(): sys.exit(f'{args.weights} is not here: give DINOv2 ViT-S/14 weights with --weights (vit_weights list names some). Nothing was drawn.')
    from playwright.sync_api import sync_playwright
    torch.manual_seed(0)
    head = fit_head(args.weights)
    model = create_vit('ViT-S_14', img_size=224, num_classes=len(PHOTOS)).eval()
    load_checkpoint(model, args.weights)
    model.head.load_state_dict(head.state_dict())
    photos = dict(cat=crop(PHOTOS['cat'], 0, 75, 300, 448), astronaut=crop(PHOTOS['astronaut'], 0, 60, 330, 448))
    ex = AttentionExplorer(model, photos, classes=list(PHOTOS), mean=MEAN, std=STD)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        for name, (width, scheme, traits) in SHOTS.items():
            with ex.hold_trait_notifications():
                ex.image, ex.compare, ex.interpolation, ex.query, ex.method = 0, -1, 'nearest', 1 + 16*6 + 4, 'raw'
            for trait, value in traits.items(): setattr(ex, trait, value)
            ex.target = ex.images[ex.image]['classes'][0]['id']
            ex.save_html(Path(folder)/'page.html')
            page = browser.new_page(viewport=dict(width=width, height=800), color_scheme=scheme)
            page.goto((Path(folder)/'page.html').as_uri())
            page.wait_for_timeout(500)
            png = small(page.screenshot(full_page=True))
            (HERE/name).write_bytes(png)
            print(f'{name}: {len(png)/1e3:.0f} kB, {Image.open(io.BytesIO(png)).size}')
        browser.close()
    card()


if __name__ == '__main__': main()
