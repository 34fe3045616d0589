"""What an image costs in the page that runs the model itself, in WebAssembly and in plain loops: `python benchmarks/live.py [--images 20]`.

A headless Chromium opens the page and asks its Worker about random images. Weights are random: only shapes matter here. Needs playwright and Chromium.

`--onnxruntime DIR` times onnxruntime-web, too, whose unpacked npm package is in DIR (`npm pack onnxruntime-web`; needs onnx and onnxscript): the same
weights in float32, one thread of its WebAssembly, in the same browser."""
import argparse, functools, http.server, shutil, statistics, sys, tempfile, threading, time
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


ONNX = """async ([n, shape]) => {
  const { env, InferenceSession, Tensor } = await import('/dist/ort.wasm.min.mjs'), times = [];
  env.wasm.wasmPaths = '/dist/';
  env.wasm.numThreads = 1;
  const session = await InferenceSession.create('/model.onnx', { executionProviders: ['wasm'] }), size = shape.reduce((a, b) => a * b);
  for (let i = 0; i < n + 2; i++) {
    const x = new Tensor('float32', Float32Array.from({ length: size }, () => Math.random() * 2 - 1), shape), start = performance.now();
    await session.run({ [session.inputNames[0]]: x });
    times.push(performance.now() - start);
  }
  return times.slice(2);
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


def onnxruntime(model, images, package):
    "Median milliseconds of a forward pass in onnxruntime-web, and the bytes of its WebAssembly file."
    from playwright.sync_api import sync_playwright
    shape, wasm = (1, model.cfg.in_chans, *model.patch_embed.img_size), 'ort-wasm-simd-threaded.wasm'
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        shutil.copytree(package/'dist', Path(folder)/'dist', ignore=shutil.ignore_patterns('*.map', '*webgl*', '*.jsep.*', '*.jspi.*', '*asyncify*'))
        (Path(folder)/'index.html').write_text('<!doctype html>')
        torch.onnx.export(model, (torch.zeros(shape),), Path(folder)/'model.onnx', dynamo=True, external_data=False, verbose=False)
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        page = browser.new_page()
        page.goto(f'http://127.0.0.1:{server.server_port}/index.html')
        times = page.evaluate(ONNX, [images, shape])
        browser.close()
        server.shutdown()
    return dict(forward=statistics.median(times), slowest=max(times), wasm_bytes=(package/'dist'/wasm).stat().st_size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=20)
    parser.add_argument('--out', default=str(ROOT/'report'/'results'/'live.json'))
    parser.add_argument('--onnxruntime', type=Path, help='folder of its unpacked npm package')
    args = parser.parse_args()
    found = {}
    for name, kw, n in (('ViT-tiny_4', {}, args.images), ('ViT-Ti_16', dict(num_classes=10), max(3, args.images//2)), ('ViT-S_14', dict(num_classes=0, img_size=224), max(3, args.images//4))):
        torch.manual_seed(0)
        model = create_vit(name, **kw).eval()
        text = live_page(model, {})
        fast, version = milliseconds(text, n)
        loops, _ = milliseconds(text.replace('new WebAssembly.Module(', 'new Missing('), n)
        found[name] = dict(page_bytes=len(text.encode()), tokens=model.n_prefix + model.grid[0]*model.grid[1], webassembly=fast, loops=loops)
        if args.onnxruntime: found[name]['onnxruntime_web'] = onnxruntime(model, n, args.onnxruntime)
    table([{'model': k, 'MB': v['page_bytes']/1e6, 'tokens': v['tokens'], 'WebAssembly, ms': v['webassembly']['forward'], 'loops, ms': v['loops']['forward'],
            'onnxruntime-web, ms': v.get('onnxruntime_web', {}).get('forward', '–'), 'loops / WebAssembly': v['loops']['forward']/v['webassembly']['forward'], 'opens in s': v['webassembly']['open_seconds']} for k, v in found.items()])
    write_result(args.out, chromium=version, images=args.images, models=found)


if __name__ == '__main__': main()
