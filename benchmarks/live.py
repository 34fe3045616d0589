"""What an image costs in the page that runs the model itself, in WebAssembly and in plain loops: `python benchmarks/live.py [--images 20]`.

A headless Chromium opens the page and asks its Worker about random images. Weights are random: only shapes matter here. Needs playwright and Chromium."""
import argparse, shutil, statistics, sys, tempfile, time
from pathlib import Path

from common import ROOT, table, write_result

sys.path.insert(0, str(ROOT))
import torch
from vit_course.tools.live_page import live_page
from vit_course.vit import create_vit

ASK = """async n => {
  const live = document.getElementById('live').live, { in_chans, img_size: [H, W] } = live.cfg, times = [];
  for (let i = 0; i < n + 2; i++) {
    const x = Float32Array.from({ length: in_chans * H * W }, () => Math.random() * 2 - 1), start = performance.now();
    const { ms } = await live.model.ask({ x });
    times.push([ms, performance.now() - start]);
  }
  return times.slice(2);
}"""


def milliseconds(text, images):
    "Medians of the forward pass alone, and of question and answer; and seconds from opening the page to the first answer."
    from playwright.sync_api import sync_playwright
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        path = Path(folder)/'live.html'
        path.write_text(text, encoding='utf-8')
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        page, start = browser.new_page(), time.perf_counter()
        page.goto(path.as_uri())
        page.locator('.vx-pane').wait_for(timeout=300_000)
        opened, times = time.perf_counter() - start, page.evaluate(ASK, images)
        version = browser.version
        browser.close()
    return dict(forward=statistics.median(t[0] for t in times), answer=statistics.median(t[1] for t in times), slowest=max(t[0] for t in times), open_seconds=opened), version


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=20)
    parser.add_argument('--out', default=str(ROOT/'report'/'results'/'live.json'))
    args = parser.parse_args()
    found = {}
    for name, kw, n in (('ViT-tiny_4', {}, args.images), ('ViT-Ti_16', dict(num_classes=10), max(3, args.images//2)), ('ViT-S_14', dict(num_classes=0, img_size=224), max(3, args.images//4))):
        torch.manual_seed(0)
        model = create_vit(name, **kw).eval()
        text = live_page(model, {})
        fast, version = milliseconds(text, n)
        loops, _ = milliseconds(text.replace('new WebAssembly.Module(', 'new Missing('), n)
        found[name] = dict(page_bytes=len(text.encode()), tokens=model.n_prefix + model.grid[0]*model.grid[1], webassembly=fast, loops=loops)
    table([{'model': k, 'MB': v['page_bytes']/1e6, 'tokens': v['tokens'], 'WebAssembly, ms': v['webassembly']['forward'], 'loops, ms': v['loops']['forward'],
            'ratio': v['loops']['forward']/v['webassembly']['forward'], 'opens in s': v['webassembly']['open_seconds']} for k, v in found.items()])
    write_result(args.out, chromium=version, images=args.images, models=found)


if __name__ == '__main__': main()
