"""The page with the model in it, in a real browser: what it computes is held against PyTorch, and every way to change the image is tried.

Without a browser these tests skip and say so; with CI or VIT_COURSE_REQUIRE_BROWSER in the environment that is a failure."""
import contextlib, io, json, re

import numpy as np, pytest, torch
from conftest import ROOT, chromium, chromium_path
from explorer_cases import CASES, make_model, make_photo
from PIL import Image
from vit_course.attention_maps import attention_maps, rollout
from vit_course.checkpoints import load_checkpoint, save_checkpoint
from vit_course.explorer import AttentionExplorer
from vit_course.tools.live_page import live_page
from vit_course.vit import create_vit

VARIANTS = {name: kw for name, (kw, _) in CASES.items()} | {
    'all options': dict(img_size=16, patch_size=4, dim=32, heads=2, registers=2, qk_norm=True, layer_scale=.5, act='gelu_tanh', pre_logits=24,
                        pos_embed='sincos2d', pool='mean', norm_eps=1e-3),
    'grey, no positions': dict(in_chans=1, pos_embed='none', num_classes=3), 'no head': dict(num_classes=0)}


@pytest.fixture(scope='module')
def browser():
    with chromium() as b: yield b


class Page:
    "A live page in a tab. It fails at the end when somebody else was asked for something, or an error was logged."
    def __init__(self, browser, path, fragment='', **options):
        self.context = browser.new_context(**{'viewport': dict(width=1366, height=768)} | options)
        self.tab, self.requests, self.complaints = self.context.new_page(), [], []
        self.tab.on('request', lambda r: self.requests.append(r.url))
        self.tab.on('console', lambda m: self.complaints.append(m.text) if m.type in ('error', 'warning') and 'willReadFrequently' not in m.text else None)
        self.tab.on('pageerror', lambda e: self.complaints.append(str(e)))
        self.tab.goto(path.as_uri() + fragment)
    def __enter__(self):
        self.tab.locator('.vx-pane').wait_for(timeout=60_000)
        self.settle()
        return self
    def __exit__(self, kind, *_):
        if kind is None: self.settle()
        self.context.close()
        if kind is None:
            assert all(url.startswith(('file:', 'blob:')) for url in self.requests) and len(self.requests) == 2, self.requests
            assert self.complaints == []
    def run(self, code, *args): return self.tab.evaluate(f"async args => {{ const live = document.getElementById('live').live; {code} }}", list(args))
    def settle(self):
        "Wait until the model has nothing to do and the page is drawn."
        self.run("""for (let still = 0; still < 3; still = live.busy || live.model.open.size ? 0 : still + 1)
            await new Promise(done => requestAnimationFrame(() => setTimeout(done)));""")
    def forward(self, x, **question):
        "What the model in the page makes of an image (C,H,W)."
        return self.run("""const made = await live.model.ask({ ...args[1], x: Float32Array.from(args[0]) });
            return Object.fromEntries(['logits', 'weights', 'lens'].map(name => [name, made[name] && Array.from(made[name])]))""", x.flatten().tolist(), question)
    def probabilities(self): return np.array(self.run('return Array.from(live.probabilities)'))
    def seen(self):
        "What the model is shown, uint8 (H,W,3)."
        h, w, data = self.run("const c = live.editor.pixels; return [c.height, c.width, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]")
        return np.array(data, np.uint8).reshape(h, w, 4)[..., :3]
    def press(self, name): self.tab.get_by_role('button', name=name, exact=True).click()
    def message(self): return self.tab.locator('.lv-message').text_content()
    @property
    def stage(self): return self.tab.locator('.vx-query .vx-stage').first
    def point(self, r, c, grid):
        box = self.stage.bounding_box()
        return dict(x=(c + .5)/grid[1]*box['width'], y=(r + .5)/grid[0]*box['height'])


@pytest.fixture
def live(browser, tmp_path):
    def open_page(model, images=None, fragment='', classes=None, **options):
        if images: AttentionExplorer(model, images, classes).save_live(tmp_path/'live.html')
        else: (tmp_path/'live.html').write_text(live_page(model, {}, classes), encoding='utf-8')
        return Page(browser, tmp_path/'live.html', fragment, **options)
    return open_page


def halved(model):
    "The model that is in the page: weights rounded to float16."
    return model.half().float().eval()


def softmax(z): return np.exp(z - z.max())/np.exp(z - z.max()).sum()
def scaled(pixels): return (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()/255 - .5)/.5


@pytest.fixture(scope='module')
def tiny():
    report = load_checkpoint(None, 'vit-tiny-4-cifar10')
    return report.model.eval(), report.classes


@pytest.mark.parametrize('how', ['WebAssembly', 'loops'])
def test_50_images_as_pytorch(browser, tmp_path, tiny, how):
    "To 1e-3 in every logit and every attention weight; noise, flat colours, gradients. With WebAssembly, and where it is missing."
    model, classes = tiny
    text = live_page(model, {}, classes)
    assert text.count('new WebAssembly.Module(') == 1
    if how == 'loops': text = text.replace('new WebAssembly.Module(', 'new Missing(')
    (tmp_path/'live.html').write_text(text, encoding='utf-8')
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]/31
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(20)]
    images += [np.full((32, 32, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(10)]
    images += [np.uint8(255*np.stack([abs(np.sin(3*(a*x + b*y + c))) for c in range(3)], -1)) for a, b in rng.normal(size=(20, 2))]
    with Page(browser, tmp_path/'live.html') as page, torch.no_grad():
        calls = (4 + model.cfg.heads)*model.cfg.depth + 2 + model.cfg.depth + 1       # each product: in a layer, patches, head, the logit lens
        assert page.run('return live.made.simd') == calls*(how == 'WebAssembly')
        for image in images:
            x = scaled(image)
            made, logits, want = page.forward(x[0]), model(x)[0].numpy(), attention_maps(model, x)[:, 0].numpy()
            assert np.abs(np.array(made['logits']) - logits).max() < 1e-3
            assert np.abs(np.array(made['weights']).reshape(want.shape) - want).max() < 1e-3


@pytest.mark.parametrize('name', VARIANTS)
def test_every_option_as_pytorch(live, name):
    model = halved(make_model(**VARIANTS[name]))
    x = scaled(make_photo(model))[:, :model.cfg.in_chans]
    with live(model) as page, torch.no_grad():
        made, want = page.forward(x[0], lens=True), attention_maps(model, x)[:, 0].numpy()
        assert np.abs(np.array(made['weights']).reshape(want.shape) - want).max() < 1e-3
        if not model.cfg.num_classes: assert made['logits'] == [] and made['lens'] is None
        else:
            assert np.abs(np.array(made['logits']) - model(x)[0].numpy()).max() < 1e-3
            z, p = model.embed(x), []
            for block in [None, *model.encoder.blocks]:
                z = z if block is None else block(z)
                p.append(model.head(model.pre_logits(model.encoder.norm(z)))[0].softmax(-1).numpy())
            assert np.abs(np.array(made['lens']).reshape(np.shape(p)) - p).max() < 1e-3


def test_heads_switched_off_as_pytorch(live, tiny):
    model, classes = tiny
    x, off = scaled(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)), [0, 5, 23]
    H, d = model.cfg.heads, model.cfg.dim//model.cfg.heads
    def silence(layer):
        def hook(module, args):
            z = args[0].clone()
            for m in off:
                if m//H == layer: z[..., m % H*d:(m % H + 1)*d] = 0
            return z
        return hook
    hooks = [b.attn.proj.register_forward_pre_hook(silence(i)) for i, b in enumerate(model.encoder.blocks)]
    with torch.no_grad(): want = model(x)[0].numpy()
    for h in hooks: h.remove()
    with live(model, classes=classes) as page:
        assert np.abs(np.array(page.forward(x[0], off=off)['logits']) - want).max() < 1e-3
        assert np.abs(np.array(page.forward(x[0])['logits']) - want).max() > .05
        thumb = page.tab.locator('.vx-heads canvas:not(.vx-mean)').nth(5)
        before = page.probabilities()
        thumb.click(modifiers=['Shift'])
        page.settle()
        assert 'vx-off' in thumb.get_attribute('class') and np.abs(page.probabilities() - before).max() > 1e-4
        page.press('Heads off')
        thumb.click()
        page.settle()
        assert 'vx-off' not in thumb.get_attribute('class') and np.abs(page.probabilities() - before).max() < 1e-6
        thumb.press('x')
        page.settle()
        assert 'vx-off' in thumb.get_attribute('class')
        page.press('Reset')
        page.settle()
        assert page.tab.locator('.vx-off').count() == 0


@pytest.mark.parametrize('size', [(32, 32), (100, 64), (333, 217), (1, 1), (900, 20)])
def test_an_image_is_resized_as_in_python(live, tiny, size):
    model, classes = tiny
    photo = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    with live(model, classes=classes) as page:
        file = io.BytesIO()
        photo.save(file, 'PNG')
        page.tab.locator('.lv-file input').set_input_files(dict(name='<b>noise.png', mimeType='image/png', buffer=file.getvalue()))
        page.tab.locator('.vx-query h3', has_text='<b>noise.png').wait_for()
        page.settle()
        want = np.array(photo.resize((32, 32), Image.Resampling.BILINEAR))
        assert np.abs(page.seen().astype(int) - want).max() <= 1
        with torch.no_grad(): p = model(scaled(page.seen()))[0].softmax(-1).numpy()
        assert np.abs(page.probabilities() - p).max() < 1e-3


def test_the_explorer_shows_what_was_computed(live, tiny):
    model, classes = tiny
    photo = Image.fromarray(np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    with live(model, {'a': photo}, classes=classes) as page, torch.no_grad():
        W = attention_maps(model, scaled(np.array(photo)))
        page.stage.click(position=page.point(2, 3, (8, 8)))
        page.tab.locator('.vx-heads canvas:not(.vx-mean)').nth(6).click()
        page.settle()
        row = np.array(page.run('return Array.from(live.view.panes[0].row)'))
        assert np.abs(row - W[1, 0, 2, 20].numpy()).max() < 1e-5         # layer 1, head 2, token 1 + 2*8 + 3
        page.tab.locator('.vx-heads canvas').nth(9).click()              # the mean of layer 1's heads
        page.settle()
        assert np.abs(np.array(page.run('return Array.from(live.view.panes[0].row)')) - W[1, 0].mean(0)[20].numpy()).max() < 1e-5
        page.tab.get_by_role('radio', name='rollout').check(force=True)
        page.settle()
        assert np.abs(np.array(page.run('return Array.from(live.view.panes[0].row)')) - rollout(W)[0, 20].numpy()).max() < 1e-5
        page.tab.get_by_label('Rollout cuts').select_option('0.9')
        page.settle()
        assert np.abs(np.array(page.run('return Array.from(live.view.panes[0].row)')) - rollout(W, discard=.9)[0, 20].numpy()).max() < 1e-5
        p = model(scaled(np.array(photo)))[0].softmax(-1)
        assert page.tab.locator('.vx-facts li').first.text_content() == f'{classes[p.argmax()]}{100*p.max():.1f} %'
        assert page.tab.locator('.vx-methods input[value=relevance]').is_disabled() and 'needs gradients' in page.tab.locator('.vx-hint').text_content()


def test_paint_restore_move_and_shuffle(live, tiny):
    model, classes = tiny
    pixels = np.random.default_rng(4).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with live(model, {'noise': Image.fromarray(pixels)}, classes=classes) as page:
        assert (page.seen() == pixels).all()
        before, grid = page.probabilities(), (8, 8)
        page.press('Paint')
        corner = page.stage.bounding_box()
        def at(r, c): return [corner['x'] + page.point(r, c, grid)['x'], corner['y'] + page.point(r, c, grid)['y']]
        page.tab.mouse.move(*at(1, 1)); page.tab.mouse.down(); page.tab.mouse.move(*at(1, 4), steps=12); page.tab.mouse.up()
        page.settle()
        want = pixels.copy()
        want[4:8, 4:20] = 128
        assert (page.seen() == want).all() and np.abs(page.probabilities() - before).max() > 1e-3
        with torch.no_grad(): assert np.abs(page.probabilities() - model(scaled(want))[0].softmax(-1).numpy()).max() < 1e-3
        assert page.tab.locator('.vx-facts li u').count() == 5                            # where the bars were
        page.press('Restore')
        page.stage.click(position=page.point(1, 2, grid))
        page.settle()
        want[4:8, 8:12] = pixels[4:8, 8:12]
        assert (page.seen() == want).all()
        page.stage.focus()
        page.run("live.state.set('query', 1 + 8 + 3)")
        page.tab.keyboard.press('Enter')
        page.settle()
        want[4:8, 12:16] = pixels[4:8, 12:16]
        assert (page.seen() == want).all()
        page.press('Reset')
        page.press('Move')
        page.tab.mouse.move(*at(3, 3)); page.tab.mouse.down(); page.tab.mouse.move(*at(4, 5), steps=8); page.tab.mouse.up()
        page.settle()
        assert (page.seen()[4:, 8:] == pixels[:-4, :-8]).all() and (page.seen()[:4] == 128).all() and (page.seen()[:, :8] == 128).all()
        page.stage.focus()
        page.tab.keyboard.press('ArrowLeft')
        page.settle()
        assert (page.seen()[4:, 7:] == pixels[:-4, :-7]).all()
        page.press('Reset')
        page.press('Shuffle patches')
        page.settle()
        def patches(a): return sorted(a.reshape(8, 4, 8, 4, 3).swapaxes(1, 2).reshape(64, -1).tolist())
        assert patches(page.seen()) == patches(pixels) and (page.seen() != pixels).any()
        page.press('Reset')
        page.settle()
        assert (page.seen() == pixels).all() and np.abs(page.probabilities() - before).max() < 1e-6


def test_fast_brushes_lose_no_stroke(live, tiny):
    "While the model works, wishes are replaced by later ones; the last one is answered."
    model, classes = tiny
    with live(model, classes=classes) as page:
        page.run("for (let n = 0; n < 64; n++) { live.editor.paint.set(n, '#ff0000'); live.run(); }")
        page.settle()
        assert (page.seen() == [255, 0, 0]).all()
        with torch.no_grad(): assert np.abs(page.probabilities() - model(scaled(page.seen()))[0].softmax(-1).numpy()).max() < 1e-3


def test_a_camera_is_looked_through_and_frozen(browser, tmp_path):
    "Chromium's own test camera, whose picture changes all the time."
    Image.new('RGB', (8, 8), 'red').save(red := io.BytesIO(), 'PNG')
    model, args = create_vit('testing'), ['--no-sandbox', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream']
    (tmp_path/'live.html').write_text(live_page(model, {}), encoding='utf-8')
    with contextlib.closing(browser.browser_type.launch(executable_path=chromium_path(), args=args)) as with_camera:
        with Page(with_camera, tmp_path/'live.html') as page:
            page.press('Camera')
            page.tab.locator('.vx-query h3', has_text='camera').wait_for()
            first = page.seen()
            page.tab.wait_for_function("before => document.getElementById('live').live.editor.pixels.toDataURL() !== before",
                                       arg=page.run('return live.editor.pixels.toDataURL()'))
            assert first.std() > 10 and (page.seen() != first).any()
            track = page.run('live.track = live.camera.srcObject.getTracks()[0]; return live.track.readyState')
            page.press('Freeze')
            page.tab.get_by_role('button', name='Camera', exact=True).wait_for()
            page.settle()
            frozen = page.seen()
            assert track == 'live' and page.run('return live.track.readyState') == 'ended' and page.run('return live.camera') is None
            page.tab.wait_for_timeout(300)
            assert (page.seen() == frozen).all()
            page.press('Camera')                                         # an image ends it, too
            page.tab.locator('button', has_text='Freeze').wait_for()
            page.tab.locator('.lv-file input').set_input_files(dict(name='red.png', mimeType='image/png', buffer=red.getvalue()))
            page.tab.locator('.vx-query h3', has_text='red.png').wait_for()
            page.settle()
            assert (page.seen() == [255, 0, 0]).all() and page.run('return live.camera') is None


def test_what_is_no_image_is_said(live, tiny):
    model, classes = tiny
    with live(model, classes=classes) as page:
        before = page.probabilities()
        upload = page.tab.locator('.lv-file input')
        for name, content in (('text.png', b'hello'), ('empty.jpg', b''), ('page.html', b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')):
            upload.set_input_files(dict(name=name, mimeType='image/png', buffer=content))
            page.tab.locator('.lv-message', has_text=f'{name}: not an image').wait_for()
        assert (page.probabilities() == before).all()
        page.press('Camera')                                             # there is none
        page.tab.locator('.lv-message', has_text='No camera').wait_for()
        file, clear = io.BytesIO(), Image.new('RGBA', (8, 8), (255, 0, 0, 0))
        clear.save(file, 'PNG')
        upload.set_input_files(dict(name='clear.png', mimeType='image/png', buffer=file.getvalue()))
        page.tab.locator('.vx-query h3', has_text='clear.png').wait_for()
        assert (page.seen() == 255).all() and not page.tab.locator('.lv-message').is_visible()   # transparency on white
        frames = [Image.new('RGB', (8, 8), colour) for colour in ('red', 'blue')]
        file = io.BytesIO()
        frames[0].save(file, 'GIF', save_all=True, append_images=frames[1:])
        upload.set_input_files(dict(name='moving.gif', mimeType='image/gif', buffer=file.getvalue()))
        page.tab.locator('.vx-query h3', has_text='moving.gif').wait_for()
        assert (page.seen() == [255, 0, 0]).all()
        file = io.BytesIO()
        Image.new('L', (10_000, 5_000), 77).save(file, 'PNG')
        upload.set_input_files(dict(name='huge.png', mimeType='image/png', buffer=file.getvalue()))
        page.tab.locator('.vx-query h3', has_text='huge.png').wait_for(timeout=60_000)
        assert (page.seen() == 77).all()


@pytest.mark.parametrize('harm', ['cut', 'changed'])
def test_damaged_weights_are_said(browser, tmp_path, harm):
    text = live_page(make_model(), {})
    block = re.search(r'<script type="text/plain" id="weights">(.*?)</script>', text)[1]
    bad = block[:-400] if harm == 'cut' else block[:40] + ('A' if block[40] != 'A' else 'B') + block[41:]
    (tmp_path/'bad.html').write_text(text.replace(block, bad), encoding='utf-8')
    page = Page(browser, tmp_path/'bad.html')
    page.tab.locator('.lv-message', has_text='damaged').wait_for()
    assert page.tab.locator('.vx-pane').count() == 0
    page.context.close()


def test_a_browser_without_workers_is_told(browser, tmp_path):
    (tmp_path/'live.html').write_text(live_page(make_model(), {}), encoding='utf-8')
    context = browser.new_context()
    tab = context.new_page()
    tab.add_init_script('delete window.Worker')
    tab.goto((tmp_path/'live.html').as_uri())
    assert 'needs a browser with Web Workers' in tab.locator('#live').text_content()
    context.close()


def test_a_view_can_be_shared(live, tiny):
    model, classes = tiny
    photos = {n: Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)) for i, n in enumerate('ab')}
    with live(model, photos, classes=classes, fragment='#example=1&query=30&layer=2&head=-1&method=rollout&discard=0.5&scale=shared') as page:
        assert page.tab.locator('.vx-query h3').text_content() == 'b'
        now = {n: page.run('return live.state.get(args[0])', n) for n in ('query', 'layer', 'head', 'method', 'discard', 'scale')}
        assert now == dict(query=30, layer=2, head=-1, method='rollout', discard=.5, scale='shared')
        page.tab.get_by_role('button', name='a', exact=True).click()
        page.tab.locator('.vx-query h3', has_text='a').wait_for()
        page.stage.click(position=page.point(0, 0, (8, 8)))
        assert page.tab.evaluate('location.hash') == '#example=0&query=1&layer=2&head=-1&method=rollout&discard=0.5&scale=shared'
    with live(model, photos, classes=classes, fragment='#example=7&query=999&layer=-5&head=x&method=toString&scale=') as page:
        assert page.run("return [live.state.get('example'), live.state.get('query'), live.state.get('method')]") == [0, 0, 'raw']


@pytest.mark.parametrize('width,height', [(390, 844), (1366, 768)])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_layout(live, tiny, width, height, scheme):
    "Nothing sticks out, and the map can be seen without scrolling after a tap on the image."
    model, classes = tiny
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    with live(model, {'a wide one': photo}, classes=classes, viewport=dict(width=width, height=height), color_scheme=scheme, has_touch=True) as page:
        page.stage.tap(position=page.point(3, 3, (8, 8)))
        page.settle()
        box = page.tab.locator('.vx-large .vx-stage').bounding_box()
        assert box['y'] >= 0 and box['y'] + box['height'] <= height, box
        assert page.tab.evaluate('document.documentElement.scrollWidth') <= width
        sticks_out = page.tab.evaluate("""() => [...document.querySelectorAll('#live *')].filter(e => e.checkVisibility() && !e.closest('.vx-status, .vx-tools, .lv-bar')
            && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))""")
        assert sticks_out == []
        back = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
        page.press('Light / dark')
        assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") != back


def test_the_walk_moves_with_the_query(live, tiny):
    model, classes = tiny
    photo = Image.fromarray(np.random.default_rng(6).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    with live(model, {'a': photo}, classes=classes) as page:
        steps = page.tab.locator('.lv-step')
        assert steps.count() == 8
        PIXELS = "return [...document.querySelectorAll('.lv-step')].map(s => [...s.querySelectorAll('canvas')].map(c => c.toDataURL()).join() + s.querySelector('.lv-figure').textContent)"
        before = page.run(PIXELS)
        page.stage.click(position=page.point(5, 6, (8, 8)))
        page.settle()
        after = page.run(PIXELS)
        assert [i for i, (a, b) in enumerate(zip(before, after)) if a == b] == [6]       # the class token's map is the class token's
        assert page.tab.locator('.lv-step-pixels td').first.text_content() == f'{(np.array(photo)[20, 24, 0]/255 - .5)/.5:.2f}'
        product = re.search(r'a score of (-?[\d.]+)', steps.nth(3).text_content())[1]
        with torch.no_grad():
            z = model.embed(scaled(np.array(photo)))
            for block in model.encoder.blocks[:5]: z = block(z)
            q, k, _ = model.encoder.blocks[5].attn.split_heads(model.encoder.blocks[5].norm1(z))
            scores = (q[0, 0, 1 + 5*8 + 6] @ k[0, 0].T)/q.shape[-1]**.5
        assert float(product) == pytest.approx(scores[1:].max().item(), abs=.006)
        links = page.tab.locator('.lv-line a').evaluate_all('all => all.map(a => a.href.split("/").pop())')
        assert all((ROOT/'nbs'/link.replace('.html', '.ipynb')).exists() for link in links)


def test_everything_works_by_keyboard(live, tiny):
    model, classes = tiny
    with live(model, classes=classes) as page:
        names = []
        for _ in range(26):
            page.tab.keyboard.press('Tab')
            names.append(page.tab.evaluate("""(() => { const e = document.activeElement, o = s => s && getComputedStyle(s).outlineStyle !== 'none';
                return [e.getAttribute('aria-label') || e.closest('label')?.textContent || e.textContent, Boolean(o(e) || o(e.nextElementSibling) || o(e.closest('label')))] })()"""))
        for name in ('Open image', 'Camera', 'Ask', 'Paint', 'Restore', 'Move', 'Heads off', 'Shuffle patches', 'Reset', 'Light / dark', 'raw', 'Save PNG', 'class token'):
            assert any(n.startswith(name) for n, _ in names), (name, names)
        assert all(seen for _, seen in names[:20]), names


def test_a_command_writes_it(command, tmp_path):
    save_checkpoint(make_model(), tmp_path/'model.safetensors')
    status, out, err = command('vit_attention', 'model.safetensors', '--live', 'page.html')
    assert (status, err) == (0, '') and 'page.html: ' in out and '0 images' in out
    Image.fromarray(make_photo(make_model())).save(tmp_path/'cat.png')
    status, out, err = command('vit_attention', 'model.safetensors', 'cat.png', '--live', 'page.html')
    assert (status, err) == (0, '') and sorted(p.name for p in tmp_path.iterdir()) == ['cat.png', 'model.safetensors', 'page.html']
    page = json.loads(re.search(r'id="page">(.*?)</script>', (tmp_path/'page.html').read_text(encoding='utf-8'))[1])
    assert [e['label'] for e in page['examples']] == ['cat']
    for args, words in ((['model.safetensors'], 'give an image, or --live'), (['model.safetensors', '--live', 'nowhere/page.html'], 'nowhere'),
                        (['model.safetensors', 'none.png', '--live', 'page.html'], 'no such file'), (['hybrid.safetensors', '--live', 'page.html'], 'hybrid')):
        if 'hybrid' in words: save_checkpoint(create_vit('testing', patch_size=16, hybrid=(1,)), tmp_path/'hybrid.safetensors')
        status, out, err = command('vit_attention', *args)
        assert status == 2 and err.count('\n') == 1 and words in err, err


def test_two_models_are_refused(tmp_path):
    ex = AttentionExplorer({'a': make_model(), 'b': make_model(1)}, make_photo(make_model()))
    with pytest.raises(ValueError, match='one model'): ex.save_live(tmp_path/'page.html')
    assert not list(tmp_path.iterdir())


def test_size_of_the_page(tiny):
    model, classes = tiny
    text = live_page(model, {}, classes)
    assert len(text.encode()) < 9_000_000
    assert not re.search(r'https?://(?!vit-course\.github\.io|www\.w3\.org)|\bfetch\(|XMLHttp|innerHTML|insertAdjacentHTML|\beval\(', re.sub(r'id="weights">.*?<', '', text))
