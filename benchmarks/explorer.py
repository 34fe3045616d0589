"""From a click to the repainted page, for the shapes of ViT-B/16, and what an image weighs: `python benchmarks/explorer.py [--clicks 50]`.

A headless Chromium opens a saved page and clicks random patches. Two medians: `script`, from the click event until all maps are drawn, and `frame`,
until the browser has finished the frame that shows them. Beside them, in the same run, matplotlib redraws the same maps. Weights are random: only shapes
matter here. Needs playwright and Chromium."""
import argparse, shutil, statistics, sys, tempfile, time
from pathlib import Path

from common import ROOT, table, write_result

sys.path.insert(0, str(ROOT))
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, torch
from skimage.data import astronaut
from vit_course.attention_maps import attention_maps, normalise, show_heads, to_grid
from vit_course.explorer import AttentionExplorer
from vit_course.vit import create_vit

CLICK = """async ([x, y]) => {
  const stage = document.querySelector('.vx-query .vx-stage'), box = stage.getBoundingClientRect();
  const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true };
  const start = performance.now();
  stage.dispatchEvent(new MouseEvent('click', at));
  await null;                                                     // the repaint runs right after the event
  const drawn = performance.now();
  await new Promise(done => requestAnimationFrame(() => { const c = new MessageChannel(); c.port1.onmessage = done; c.port2.postMessage(0); }));
  return [drawn - start, performance.now() - start, document.querySelector('.vx').explorer.get('query')];
}"""


def repaint(path, clicks):
    "Medians in milliseconds of `clicks` clicks on a saved page."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1400, height=1400))
        page.goto(path.as_uri())
        page.wait_for_timeout(500)
        rng, runs = np.random.default_rng(0), []
        for _ in range(clicks + 5):
            runs.append(page.evaluate(CLICK, rng.random(2).tolist()))
            page.wait_for_timeout(30)
        version = browser.version
        browser.close()
    runs = runs[5:]                                               # the first ones compile
    assert len({q for *_, q in runs}) > 10
    return dict(script=statistics.median(r[0] for r in runs), frame=statistics.median(r[1] for r in runs), worst_frame=max(r[1] for r in runs)), version


def seconds(f, n):
    runs = []
    for _ in range(n):
        start = time.perf_counter()
        f()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)


def matplotlib_ms(weights, grid, n=5):
    "One figure for each head (axes kept, data replaced), and one figure of all."
    L, H = weights.shape[:2]
    fig, axes = plt.subplots(L, H, figsize=(8, 8))
    images = [ax.imshow(to_grid(weights[l, h, 0], grid)) for l, row in enumerate(axes) for h, ax in enumerate(row)]
    for ax in axes.flat: ax.axis('off')
    query = iter(range(1, 1000))
    def many():
        q = next(query)
        for i, image in enumerate(images): image.set_data(to_grid(weights[i//H, i % H, q], grid))
        fig.canvas.draw()
    def one(): f = show_heads(weights, grid, query=next(query)); f.canvas.draw(); plt.close(f)
    many()
    result = dict(every_head=1000*seconds(many, n), show_heads=1000*seconds(one, n))
    plt.close(fig)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--clicks', type=int, default=50)
    parser.add_argument('--out', default=str(ROOT/'report'/'results'/'explorer.json'))
    args = parser.parse_args()
    models = {'digits, 4 layers x 4 heads, 17 tokens': ('ViT-digits', {}), '32 px, 6 layers x 4 heads, 65 tokens': ('ViT-tiny_4', {}),
              'ViT-S/14 at 224 px, 257 tokens': ('ViT-S_14', dict(img_size=224)), 'ViT-B/16 at 224 px, 197 tokens': ('ViT-B_16', {})}
    photo, rows, found = astronaut(), [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'page.html'
        for name, (model_name, kw) in models.items():
            torch.manual_seed(0)
            model = create_vit(model_name, num_classes=10, **kw).eval()
            start = time.perf_counter()
            ex = AttentionExplorer(model, photo)
            made = time.perf_counter() - start
            ex.save_html(path)
            one = path.stat().st_size
            ex.images = ex.images*2
            ex.save_html(path)
            image_bytes = path.stat().st_size - one
            ex.images = ex.images[:1]
            ex.save_html(path)
            ms, version = repaint(path, args.clicks)
            found[model_name] = dict(page_bytes=one, image_bytes=image_bytes, code_bytes=one - image_bytes, made_seconds=made, ms=ms)
            rows.append({'model': name, 'kB an image': image_bytes/1e3, 'made in s': made, 'click to drawn, ms': ms['script'], 'to the frame, ms': ms['frame']})
        H, W = model.patch_embed.img_size
        x = normalise(torch.from_numpy(np.ascontiguousarray(photo[:H, :W]))[None])
        mpl = matplotlib_ms(attention_maps(model, x)[:, 0], model.grid)
    base = found['ViT-B_16']['ms']['frame']
    print(f"code of a page: {found['ViT-B_16']['code_bytes']/1e3:.0f} kB; Chromium {version}; medians of {args.clicks} clicks")
    table(rows)
    print('\nthe 144 maps of ViT-B/16 after a change of the query')
    table([{'drawn by': k, 'ms': v, 'ratio': v/base} for k, v in {'the explorer, until the frame is done': base, 'matplotlib, one figure of all heads': mpl['show_heads'], 'matplotlib, one for each head': mpl['every_head']}.items()])
    assert base < 50, f'{base:.0f} ms from a click to its frame is more than 50'
    write_result(args.out, chromium=version, clicks=args.clicks, models=found, matplotlib_ms=mpl)


if __name__ == '__main__': main()
