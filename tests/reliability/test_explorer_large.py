"The explorer's page with 50 images: it is built, opens in a browser without a complaint, answers every click, and its size and memory are told."
import os, time

from conftest import chromium
from explorer_cases import make_model, make_photo
from test_explorer_browser import Page

from vit_course.explorer import AttentionExplorer

N = 50

def resident(): return int(open('/proc/self/statm').read().split()[1])*4096/2**20 if os.path.exists('/proc/self/statm') else float('nan')


def test_fifty_images(tmp_path, capsys):
    "Six layers, four heads, 65 tokens: under 400 kB an image. Every image, layer and method can be shown; the page stays within a gigabyte."
    model = make_model(img_size=32, patch_size=4, dim=192, heads=4, depth=6, mlp_dim=64)
    before = resident()
    ex = AttentionExplorer(model, {f'photo {i}': make_photo(model, i) for i in range(N)}, classes=[f'class {i}' for i in range(10)])
    ex.save_html(tmp_path/'page.html')
    size, python = (tmp_path/'page.html').stat().st_size, resident() - before
    assert size < N*400_000
    with chromium() as browser:
        start = time.perf_counter()
        with Page(browser, tmp_path/'page.html') as page:
            opened = time.perf_counter() - start
            assert page.tab.locator('.vx-image option').count() == N
            cdp = page.context.new_cdp_session(page.tab)
            cdp.send('Performance.enable')
            longest = 0
            for i in range(N):
                start = time.perf_counter()
                page.tab.locator('.vx-image select').select_option(str(i))
                page.set(query=1 + i, layer=i % 6, head=i % 4, method=('raw', 'rollout', 'relevance')[i % 3])
                longest = max(longest, time.perf_counter() - start)
                assert page.tab.locator('.vx-pane').first.get_attribute('aria-label') == f'photo {i}' and page.trait('image') == i
                assert abs(page.row().sum() - 1) < 1e-3
            cdp.send('HeapProfiler.collectGarbage')
            heap = next(m['value'] for m in cdp.send('Performance.getMetrics')['metrics'] if m['name'] == 'JSHeapUsedSize')/2**20
            assert page.run('return 1 + 1') == 2 and heap < 1024
    with capsys.disabled(): print(f'\n{N} images: a page of {size/1e6:.1f} MB, Python grew by {python:.0f} MB, opened in {opened:.1f} s, another image in at most {longest:.2f} s, {heap:.0f} MB in the browser')
