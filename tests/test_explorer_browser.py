"""The explorer in a real browser: Debian's Chromium, driven by Playwright, from a file and in a live JupyterLab on this machine.

Without a browser these tests skip and say so; with CI or VIT_COURSE_REQUIRE_BROWSER in the environment that is a failure."""
import os, socket, subprocess, sys, time, urllib.request

import numpy as np, pytest
from conftest import ROOT, chromium, missing
from explorer_cases import CASES, explorer, figures, make_model, make_photo, rollout_rows, weights
from vit_course.explorer import AttentionExplorer, pack_rows, unpack_rows, unpack_scores


@pytest.fixture(scope='module')
def browser():
    with chromium() as b: yield b


class Page:
    "A saved explorer in a tab, with short ways to ask what it shows. It fails at the end when something was requested or complained."
    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**{'viewport': dict(width=1200, height=900)} | options)
        self.tab, self.url, self.requests, self.complaints = self.context.new_page(), path.as_uri(), [], []
        self.tab.on('request', lambda r: self.requests.append(r.url))
        self.tab.on('console', self.heard)
        self.tab.on('pageerror', lambda e: self.complaints.append(str(e)))
        self.tab.goto(self.url)
        self.settle()
    def heard(self, message):
        ours = 'willReadFrequently' in message.text    # about these tests, which read canvases
        if message.type in ('error', 'warning') and not ours: self.complaints.append(message.text)
    def __enter__(self): return self
    def __exit__(self, kind, *_):
        self.settle()
        self.context.close()
        if kind is None: assert (self.requests, self.complaints) == ([self.url], [])
    def settle(self): self.tab.evaluate('() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))')
    def run(self, code, *args): return self.tab.evaluate(f"args => {{ const v = document.querySelector('.vx').explorer; {code} }}", list(args))
    def trait(self, name): return self.run('return v.get(args[0])', name)
    def set(self, **values): self.run('v.set(args[0])', values); self.settle()
    def fact(self, name, pane=0):
        return self.tab.locator('.vx-pane').nth(pane).locator(f'[data-fact={name}]').evaluate('e => e.firstChild.textContent')
    def raw(self, query, pane=0): return np.array(self.run('return Array.from(v.panes[args[1]].maps.raw(args[0]))', query, pane))
    def row(self, pane=0): return np.array(self.run('return Array.from(v.panes[args[0]].row)', pane))
    @property
    def stage(self): return self.tab.locator('.vx-query .vx-stage').first
    def point(self, r, c, grid):
        box = self.stage.bounding_box()
        return dict(x=(c + .5)/grid[1]*box['width'], y=(r + .5)/grid[0]*box['height'])


@pytest.fixture
def page(browser, tmp_path):
    def open_page(ex, **options):
        ex.save_html(tmp_path/'page.html')
        return Page(browser, tmp_path/'page.html', **options)
    return open_page


def colours(values, top):
    from matplotlib import colormaps
    return 255*colormaps['inferno'](np.rint(255*np.clip(values/max(top, 1e-30), 0, 1)).astype(int))[..., :3]


@pytest.mark.parametrize('case', CASES)
def test_values_are_those_of_numpy(page, case):
    model, ex = explorer(case, n=1, classes=[f'class {i}' for i in range(10)])
    p, W = ex.images[0], weights(model, make_photo(model))
    (L, H, T, _), (h, w), n = W.shape, model.grid, model.n_prefix
    def codes(name, *shape): return np.frombuffer(p[name], np.uint8).reshape(*shape)
    sent = unpack_rows(codes('maps', L*H, T, T)) if p['maps'] else unpack_scores(codes('q', L*H, T, -1), codes('k', L*H, T, -1), p['steps'])
    joint, relevant = unpack_rows(codes('rollout', T, T)), unpack_rows(codes('relevance', 5, T, T))
    with page(ex) as page:
        for query in sorted({0, n - 1, n, n + w, T - 1}):
            assert np.abs(page.raw(query).reshape(L*H, T) - sent[:, query]).max() < 1e-6     # the same arithmetic,
            assert np.abs(page.raw(query).reshape(L, H, T) - W[:, :, query]).max() < .03      # and close to the truth
            for layer, head in ((0, 0), (L - 1, H - 1)):
                page.set(query=query, layer=layer, head=head, method='raw')
                entropy, prefix, distance = figures(sent[layer*H + head, query], query, (h, w), n, p['patch'])
                true = figures(W[layer, head, query], query, (h, w), n, p['patch'])
                assert float(page.fact('entropy').split()[0]) == pytest.approx(entropy, abs=.0051)
                assert float(page.fact('prefix').split()[0]) == pytest.approx(100*prefix, abs=.051)
                if distance is None: assert page.fact('distance') == '–'
                else: assert float(page.fact('distance').split()[0]) == pytest.approx(distance, abs=.051)
                assert entropy == pytest.approx(true[0], abs=.05) and prefix == pytest.approx(true[1], abs=.015)
            page.set(method='rollout')
            assert np.abs(page.row() - joint[query]).max() < 1e-6
            for discard in (.5, .9):
                page.set(discard=discard)
                assert np.abs(page.row() - rollout_rows(sent.reshape(L, H, T, T), discard)[query]).max() < 1e-5
            page.set(discard=0)
            for rank, c in enumerate(p['classes']):
                page.set(method='relevance', target=c['id'])
                assert np.abs(page.row() - relevant[rank, query]).max() < 1e-6
                assert page.tab.locator('.vx-large h3').text_content() == f"Relevance for class {c['id']}"
        assert page.tab.locator('.vx-facts li').all_text_contents() == [f"{c['name']}{100*c['p']:.1f} %" for c in p['classes']]


PIXELS = '''return [...document.querySelectorAll(args[0])].map(c =>
    [c.width, c.height, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)])'''
TIPS = "return [...document.querySelectorAll('.vx-heads canvas:not(.vx-mean)')].map(c => c.title)"

def own_top(row): return max(np.quantile(row, .98), row.max()/100)


@pytest.mark.parametrize('case', ['square', 'rectangle', 'registers'])
def test_every_thumbnail_is_drawn(page, case):
    model, ex = explorer(case, n=1)
    (h, w), n, p = model.grid, model.n_prefix, ex.images[0]
    with page(ex) as page:
        for scale in ('own', 'shared'):
            page.set(query=n + 1, scale=scale)
            rows = page.raw(n + 1).reshape(p['layers']*p['heads'], -1)[:, n:]
            thumbs = page.run(PIXELS, '.vx-heads canvas:not(.vx-mean)')
            assert len(thumbs) == p['layers']*p['heads']
            for row, (width, height, data) in zip(rows, thumbs):
                data = np.array(data).reshape(-1, 4)
                assert (width, height) == (w, h) and (data[:, 3] == 255).all() and len(np.unique(data, axis=0)) > 1
                top = own_top(row) if scale == 'own' else rows.max()
                assert np.abs(data[:, :3] - colours(row, top)).max() <= 8     # inferno is drawn through 17 of its colours
            assert page.run(TIPS) == [f'layer {m//p["heads"]}, head {m%p["heads"]}: largest weight {100*row.max():.1f} %' for m, row in enumerate(rows)]
            for text in page.tab.locator('.vx-all small').text_content(), page.tab.locator('.vx-note').text_content():
                assert ('own' in text.lower().split(), 'one' in text.lower().split()) == (scale == 'own', scale == 'shared'), text
        width, height, data = page.run(PIXELS, '.vx-photo')[0]
        assert (np.array(data).reshape(height, width, 4)[..., :3] == make_photo(model)).all()


def test_colours_of_a_uniform_head_an_outlier_and_nothing(page):
    "As in `show_heads`: a uniform head is uniform, one patch cannot darken a head, and dust stays dark."
    model, ex = explorer('square', n=1, query=3)
    T, slope = 17, np.linspace(0, 1, 16)
    rows = np.zeros((6, T))
    rows[0, 1:], rows[1, 1:], rows[2, 1:] = 1 + .02*slope, slope, slope/1000
    rows[2, 1:3] = 1, .9
    rows[3, 4], rows[4, 0], rows[5, 0], rows[5, 1:] = 1, 1, 1, .02      # one patch; the class token alone; nearly alone, the rest uniform
    ex.images = [ex.images[0] | dict(maps=pack_rows(np.repeat(rows[:, None], T, 1)).tobytes())]
    with page(ex) as page:
        for thumb, row in zip(page.run(PIXELS, '.vx-heads canvas:not(.vx-mean)'), unpack_rows(pack_rows(rows))[:, 1:]):
            data = np.array(thumb[2]).reshape(16, 4)[:, :3]
            assert np.abs(data - colours(row, own_top(row))).max() <= 8
        brightness = [np.array(data).reshape(16, 4)[:, :3].mean(-1) for _, _, data in page.run(PIXELS, '.vx-heads canvas:not(.vx-mean)')]
        for uniform in (0, 5): assert np.ptp(brightness[uniform]) < 12 and brightness[uniform].min() > 150
        assert brightness[2][2:].max() < 40 and brightness[3][3] > 150 and np.delete(brightness[3], 3).max() < 10 and brightness[4].max() < 10


def test_one_scale_for_all_is_a_tick(page):
    model, ex = explorer('square', n=1, query=3)
    with page(ex) as page:
        box, before = page.tab.get_by_label('one scale for all'), page.run(PIXELS, '.vx-heads canvas:not(.vx-mean)')
        assert not box.is_checked() and page.trait('scale') == 'own'
        box.check()
        page.settle()
        assert page.trait('scale') == 'shared' and page.run(PIXELS, '.vx-heads canvas:not(.vx-mean)') != before


@pytest.mark.parametrize('case', CASES)
def test_click_touch_and_keys_choose_the_patch(page, case):
    model, ex = explorer(case, n=1)
    (h, w), n = model.grid, model.n_prefix
    with page(ex, has_touch=True) as page:
        for r, c in ((0, 0), (h - 1, w - 1), (0, w - 1), (h//2, 1)):
            page.stage.click(position=page.point(r, c, (h, w)))
            assert page.trait('query') == r*w + c + n and page.fact('query') == f'row {r}, column {c}'
        page.stage.tap(position=page.point(1, w - 2, (h, w)))
        assert page.trait('query') == w + w - 2 + n
        page.set(query=n)
        page.stage.focus()
        r = c = 0
        for key in 'ArrowRight ArrowDown ArrowRight ArrowLeft ArrowUp ArrowUp End ArrowRight ArrowDown Home ArrowLeft'.split():
            page.tab.keyboard.press(key)
            r = min(max(r + {'ArrowDown': 1, 'ArrowUp': -1}.get(key, 0), 0), h - 1)
            c = min(max(dict(Home=0, End=w - 1).get(key, c + {'ArrowRight': 1, 'ArrowLeft': -1}.get(key, 0)), 0), w - 1)
            assert page.trait('query') == r*w + c + n, key
        for i in range(n):
            page.tab.locator('.vx-chip').nth(i).click()
            assert page.trait('query') == i and page.tab.locator('.vx-chip[aria-pressed=true]').count() == 1
            assert not page.tab.locator('.vx-mark').first.is_visible()
        page.stage.press('ArrowLeft')                # from a prefix token into the middle of the image
        assert page.trait('query') == n + h//2*w + w//2


def test_hovering_previews_and_leaves_no_trace(page):
    model, ex = explorer('square', n=1, query=3)
    with page(ex) as page:
        page.stage.hover(position=page.point(2, 3, (4, 4)))
        page.settle()
        assert page.fact('query') == 'row 2, column 3' and page.trait('query') == 3
        page.tab.mouse.move(1, 1)
        page.settle()
        assert page.fact('query') == 'row 0, column 2'


def test_everything_works_by_keyboard_alone(page):
    model, ex = explorer('registers', n=3, query=10)
    focus = '''const e = document.activeElement, outline = o => o && getComputedStyle(o).outlineStyle !== 'none';
        return [e.closest('label')?.textContent.slice(0, 8) || e.getAttribute('aria-label') || e.textContent, outline(e) || outline(e.nextElementSibling)]'''
    with page(ex) as page:
        seen = []
        for _ in range(15):
            page.tab.keyboard.press('Tab')
            seen.append(page.run(focus))
        names = [name for name, _ in seen]
        for name in ('Image', 'Beside', 'raw', 'Class', 'Opacity', 'bilinear', 'one scal', 'photo 0: query', 'class token', 'register 3', 'layer 1, head 0'):
            assert any(o.startswith(name) for o in names), (name, names)
        assert all(visible for name, visible in seen[:12]), f'each focus is visible: {seen}'
        page.tab.locator('.vx-heads [tabindex="0"]').focus()
        page.tab.keyboard.press('ArrowUp'); page.tab.keyboard.press('ArrowRight')
        assert (page.trait('layer'), page.trait('head')) == (0, 1)
        assert page.run('return document.activeElement.getAttribute("aria-label")') == 'layer 0, head 1'
        assert page.tab.locator('.vx-heads [aria-selected=true]').count() == 1
        page.tab.locator('.vx-image select').focus()
        page.tab.keyboard.press('ArrowDown')
        assert page.trait('image') == 1 and page.run('return document.activeElement.closest("label").className') == 'vx-field vx-image'
        page.tab.locator('.vx-methods input').first.focus()
        page.tab.keyboard.press('ArrowRight')
        assert page.trait('method') == 'rollout'
        page.tab.locator('.vx-opacity input').focus()
        page.tab.keyboard.press('ArrowLeft')
        assert page.trait('opacity') == pytest.approx(.55)
        page.tab.locator('.vx-tick input').first.focus()
        page.tab.keyboard.press('Space')
        assert page.trait('interpolation') == 'bilinear'
        assert page.tab.locator('.vx-over').evaluate('e => getComputedStyle(e).imageRendering') == 'auto'


def test_a_screen_reader_hears_what_changed(page):
    model, ex = explorer('square', n=1, classes=[f'class {i}' for i in range(10)])
    with page(ex) as page:
        status = page.tab.locator('[role=status][aria-live=polite]')
        page.set(query=6, layer=1, head=0)
        said = status.text_content()
        assert 'query row 1, column 1' in said and 'layer 1, head 0' in said and f"Entropy {page.fact('entropy')}" in said
        page.stage.hover(position=page.point(3, 3, (4, 4)))
        page.settle()
        assert status.text_content() == said            # the mouse is not read aloud
        assert page.run("""return [...document.querySelectorAll('button, input, select, canvas, [tabindex]')]
            .filter(e => !(e.getAttribute('aria-label') || e.closest('label')?.textContent.trim() || e.textContent.trim())).map(e => e.outerHTML)""") == []
        tree = page.tab.locator('.vx').aria_snapshot()
        for text in ('group "Method"', 'radio "raw" [checked]', 'slider "Opacity"', 'gridcell "layer 0, head 1"', 'columnheader', 'rowheader'):
            assert text in tree, tree


def test_compare_shares_the_query(page):
    old, new = (make_model(seed) for seed in (0, 1))
    photo = make_photo(old)
    ex = AttentionExplorer({'before': old, 'after': new}, {'cat': photo}, query=2, compare=1, layer=1)
    with page(ex) as page:
        assert page.tab.locator('.vx-pane').count() == 2
        for pane, model in enumerate((old, new)):
            W = weights(model, photo)
            assert np.abs(page.raw(2, pane).reshape(W[:, :, 2].shape) - W[:, :, 2]).max() < .03
        page.stage.click(position=page.point(1, 1, (2, 2)))
        assert [page.fact('query', pane) for pane in (0, 1)] == ['row 1, column 1']*2
        assert np.abs(page.raw(4, 0) - page.raw(4, 1)).max() > .01
        page.tab.locator('.vx-compare select').select_option('-1')
        assert page.tab.locator('.vx-pane').count() == 1
        page.tab.locator('.vx-image select').select_option('1')
        assert page.trait('image') == 1 and page.trait('target') in [c['id'] for c in ex.images[1]['classes']]


def test_images_of_other_sizes_and_models_without_classes(page):
    big, small = make_model(img_size=32, depth=3), make_model(seed=1, img_size=16, depth=1, num_classes=0)
    ex = AttentionExplorer({'big': big, 'small': small}, make_photo(big), query=16, layer=2, method='relevance')
    with page(ex) as page:
        page.tab.locator('.vx-image select').select_option('1')
        now = {name: page.trait(name) for name in ('image', 'query', 'layer', 'method', 'target', 'compare')}
        assert now == dict(image=1, query=0, layer=0, method='raw', target=-1, compare=-1)
        assert page.tab.locator('.vx-methods input[value=relevance]').is_disabled() and page.tab.locator('.vx-compare').count() == 0


def test_hostile_labels_are_text(page):
    from test_explorer import HOSTILE
    model = make_model()
    ex = AttentionExplorer(model, {label: make_photo(model, i) for i, label in enumerate(HOSTILE)}, classes=(HOSTILE*2)[:10], method='relevance')
    with page(ex) as page:
        labels = [p['label'] for p in ex.images]
        assert page.run("return [...document.querySelectorAll('.vx-image option')].map(o => o.textContent)") == labels
        names = page.run("return [...document.querySelectorAll('.vx-facts li span')].map(o => o.textContent)")
        assert names == [c['name'] for c in ex.images[0]['classes']]
        for i, label in enumerate(labels):
            page.tab.locator('.vx-image select').select_option(str(i))
            assert page.run("return document.querySelector('.vx-pane').getAttribute('aria-label')") == label
        assert page.tab.title() == 'Attention explorer' and page.tab.locator('main script, main img').count() == 0


@pytest.mark.parametrize('width', [360, 620, 1400])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_phones_and_dark_mode(page, width, scheme):
    model, ex = explorer('both', classes=['a class with a long name and no end of it']*10, compare=1)
    with page(ex, viewport=dict(width=width, height=800), color_scheme=scheme) as page:
        assert page.run('return document.documentElement.scrollWidth') <= width
        assert page.run("""return [...document.querySelectorAll('.vx *')].filter(e => e.checkVisibility() && !e.closest('.vx-status, .vx-tools')
            && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)""") == []
        def brightness(what): return sum(page.run("""const c = document.createElement('canvas').getContext('2d');
            c.fillStyle = getComputedStyle(document.querySelector('.vx'))[args[0]]; c.fillRect(0, 0, 1, 1); return Array.from(c.getImageData(0, 0, 1, 1).data)""", what)[:3])/765
        back, text = brightness('backgroundColor'), brightness('color')
        assert (back < text) == (scheme == 'dark') and abs(back - text) > .6


PHOTO = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)


@pytest.mark.parametrize('width,height,beside', [(390, 844, False), (1100, 768, True), (1366, 768, True)])
def test_the_map_is_in_sight(page, width, height, beside):
    "After a tap on the image, without scrolling: under the image on a phone, beside it on a screen."
    ex = AttentionExplorer(make_model(img_size=32, patch_size=4, depth=12, heads=4), {'a': PHOTO, 'b': PHOTO})
    with page(ex, viewport=dict(width=width, height=height), has_touch=True) as page:
        page.stage.tap(position=page.point(2, 5, (8, 8)))
        image, large = (page.tab.locator(f'.vx-{name} .vx-stage').bounding_box() for name in ('query', 'large'))
        for box in (image, large): assert box['y'] >= 0 and box['y'] + box['height'] <= height, box
        if beside: assert large['x'] >= image['x'] + image['width'] and large['y'] == image['y']
        else: assert large['y'] >= image['y'] + image['height'] and large['x'] == image['x']
        assert page.trait('query') == 1 + 2*8 + 5
        large_stage = page.tab.locator('.vx-large .vx-stage')
        large_stage.tap(position=page.point(7, 0, (8, 8)))                # both answer
        assert page.trait('query') == 1 + 7*8


def test_means_of_heads_and_layers(page):
    model, ex = explorer('registers', n=1, query=9)
    W = unpack_rows(np.frombuffer(ex.images[0]['maps'], np.uint8).reshape(2, 2, 28, 28))[:, :, 9]
    with page(ex) as page:
        cells = page.tab.locator('.vx-heads canvas')
        assert cells.count() == 9
        for number, layer, head, want in ((2, 0, -1, W[0].mean(0)), (7, -1, 1, W[:, 1].mean(0)), (8, -1, -1, W.mean((0, 1))), (4, 1, 1, W[1, 1])):
            cells.nth(number).click()
            assert (page.trait('layer'), page.trait('head')) == (layer, head)
            page.settle()
            assert np.abs(page.row() - want).max() < 1e-6
        assert cells.nth(4).get_attribute('aria-selected') == 'true' and cells.nth(8).get_attribute('aria-label') == 'mean of layers, mean of heads'
        for key, at in (('ArrowRight', (1, -1)), ('ArrowDown', (-1, -1)), ('ArrowDown', (-1, -1)), ('ArrowLeft', (-1, 1)), ('ArrowUp', (1, 1))):
            page.tab.locator('.vx-heads [tabindex="0"]').press(key)
            assert (page.trait('layer'), page.trait('head')) == at


def test_the_photograph_and_what_the_model_sees(page):
    open_page = page
    model = make_model(img_size=32)
    with open_page(AttentionExplorer(model, {'a': PHOTO})) as page:
        def size(): return page.run("return [...document.querySelectorAll('.vx-photo')].map(c => [c.width, c.height])")
        assert size() == [[400, 300]]*2
        page.tab.get_by_label('what the model sees').check()
        page.settle()
        assert size() == [[32, 32]]*2
    with open_page(AttentionExplorer(model, {'a': PHOTO[:32, :32]})) as page: assert page.tab.get_by_label('what the model sees').count() == 0


def test_a_view_is_kept_in_the_address(page):
    model, ex = explorer('square', n=2, query=3)
    with page(ex) as page:
        page.stage.click(position=page.point(2, 3, (4, 4)))
        page.tab.locator('.vx-image select').select_option('1')
        page.tab.locator('.vx-heads canvas').nth(3).click()               # layer 1, head 0
        page.tab.get_by_label('one scale for all').check()
        page.settle()
        fragment = page.tab.evaluate('location.hash')
        assert fragment == '#image=1&query=12&layer=1&head=0&method=raw&discard=0&scale=shared'
        page.tab.evaluate("location.hash = '#query=5&method=rollout&discard=0.9'")    # somebody edits it, or goes back
        page.tab.locator('.vx-large h3', has_text='Rollout of 3 layers, the weakest 90 % cut').wait_for()
        assert page.tab.locator('.vx-discard select').input_value() == '0.9'
        assert page.trait('query') == 5
        for bad in ('#query=99&layer=-2&method=__proto__&image=7&scale=log&discard=.7', '#query=&head=1.5', '#%00'):
            page.tab.evaluate('hash => { location.hash = hash }', bad)
            page.settle()
            assert (page.trait('query'), page.trait('layer'), page.trait('head'), page.trait('image'), page.trait('scale')) == (5, 1, 0, 1, 'shared')


def test_links_are_not_cut_where_that_takes_long(page):
    model = make_model(img_size=100, patch_size=4, dim=32, heads=2)
    ex = AttentionExplorer(model, make_photo(model), method='rollout', discard=.9, query=3)
    with page(ex) as page:
        assert 'more than 600 tokens' in page.tab.locator('.vx-hint').text_content()
        assert page.tab.locator('.vx-discard').count() == 0
        assert page.tab.locator('.vx-large h3').text_content() == 'Rollout of 2 layers'
        T = 1 + 25*25
        want = unpack_rows(np.frombuffer(ex.images[0]['rollout'], np.uint8).reshape(T, T))[3]
        assert np.abs(page.row() - want).max() < 1e-6


def test_save_png(page, tmp_path):
    from PIL import Image
    model, ex = explorer('registers', n=2, query=9, compare=1)
    with page(ex) as page:
        with page.tab.expect_download() as download: page.tab.get_by_role('button', name='Save PNG').click()
        download.value.save_as(tmp_path/'saved.png')
        image = np.asarray(Image.open(tmp_path/'saved.png').convert('RGB'))
        assert download.value.suggested_filename == 'attention.png'
        assert image.shape[0] > 800 and image.shape[1] > 1000 and len(np.unique(image.reshape(-1, 3), axis=0)) > 100
        page.requests[:] = page.requests[:1]                              # the download is a request to the page itself


def test_why_a_method_is_missing_is_said(page):
    open_page = page
    with open_page(AttentionExplorer(make_model(num_classes=0), make_photo(make_model()))) as page:
        assert 'No relevance: this model has no classes.' in page.tab.locator('.vx-hint').text_content()
    with open_page(explorer('square')[1]) as page:
        assert 'No relevance' not in page.tab.locator('.vx-hint').text_content() and 'Raw:' in page.tab.locator('.vx-hint').text_content()


def test_a_frame_follows_its_page(browser, tmp_path):
    "The site's theme, and a height that fits."
    model, ex = explorer('square', n=1)
    ex.save_html(tmp_path/'page.html')
    inner = (tmp_path/'page.html').read_text(encoding='utf-8').replace('&', '&amp;').replace('"', '&quot;')
    (tmp_path/'outer.html').write_text(f'''<script>addEventListener('message', e => window.told = e.data)</script>
        <iframe sandbox="allow-scripts" style="width: 800px; height: 300px" srcdoc="{inner}"></iframe>''', encoding='utf-8')
    tab = browser.new_page(color_scheme='light')
    tab.goto((tmp_path/'outer.html').as_uri())
    frame = tab.frame_locator('iframe').locator('.vx')
    frame.wait_for()
    tab.wait_for_function('window.told?.explorerHeight > 400')
    def colour(): return frame.evaluate('e => getComputedStyle(e).backgroundColor')
    light = colour()
    tab.evaluate("document.querySelector('iframe').contentWindow.postMessage({ scheme: 'dark' }, '*')")
    until(lambda: colour() != light, 10)
    tab.evaluate("document.querySelector('iframe').contentWindow.postMessage({ scheme: 'light' }, '*')")
    until(lambda: colour() == light, 10)
    tab.close()


SETUP = '''
import asyncio, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import numpy as np
from explorer_cases import explorer
model, ex = explorer('registers')
def tell(change): print(change.name, change.new, file=Path('traits').open('a'), flush=True)
ex.observe(tell, ['query', 'layer', 'head', 'method', 'image', 'compare', 'opacity'])
'''
LISTEN = '''
async def listen(): # what the test writes into a file, as if someone had typed it
    while True:
        await asyncio.sleep(.1)
        wishes = Path('wishes')
        if wishes.exists():
            code = wishes.read_text(); wishes.unlink(); exec(code, globals())
task = asyncio.ensure_future(listen())
'''


@pytest.fixture
def lab(tmp_path):
    "A JupyterLab of its own on 127.0.0.1, with a notebook that shows an explorer."
    try: import jupyterlab  # noqa: F401
    except ImportError: missing('jupyterlab is not installed: pip install jupyterlab')
    import nbformat
    cells = [SETUP.format(root=str(ROOT), tests=str(ROOT/'tests')), 'ex', 'controls = ex.controls()\ncontrols', LISTEN]
    kernel = dict(name='python3', display_name='Python 3', language='python')
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=dict(kernelspec=kernel))
    work = tmp_path/'work'
    work.mkdir()
    (work/'traits').touch()
    nbformat.write(nb, work/'explorer.ipynb')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    own = 'JUPYTER_CONFIG_DIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR'
    env = os.environ | {name: str(tmp_path/name) for name in own}
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--ip=127.0.0.1', f'--port={port}',
               '--ServerApp.port_retries=0', '--IdentityProvider.token=', '--allow-root',
               '--LabApp.expose_app_in_browser=True', '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    with open(tmp_path/'lab.log', 'w') as log: server = subprocess.Popen(command, cwd=work, env=env, stdout=log, stderr=subprocess.STDOUT)
    url = f'http://127.0.0.1:{port}'
    def answers():
        assert server.poll() is None, (tmp_path/'lab.log').read_text()
        try: return urllib.request.urlopen(f'{url}/api', timeout=2)
        except OSError: return False
    try:
        until(answers)
        yield url, work
    finally:
        server.terminate()
        try: server.wait(15)
        except subprocess.TimeoutExpired: server.kill(); server.wait()


def until(check, seconds=60):
    "Wait until `check` answers yes."
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(.1)


def test_in_jupyterlab_page_and_python_see_each_other(browser, lab):
    url, folder = lab
    context = browser.new_context(viewport=dict(width=1400, height=1600))
    tab, errors = context.new_page(), []
    tab.on('pageerror', lambda e: errors.append(str(e)))
    tab.goto(f'{url}/doc/tree/explorer.ipynb')
    tab.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000)
    tab.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    stage = tab.locator('.vx-query .vx-stage').first
    stage.wait_for(timeout=60_000)
    def said(text): return text in (folder/'traits').read_text().splitlines()
    def wish(code):
        (folder/'wish').write_text(code)
        os.replace(folder/'wish', folder/'wishes')
    box = stage.bounding_box()

    stage.click(position=dict(x=2.5/4*box['width'], y=1.5/6*box['height']))    # row 1, column 2 of a grid of 6 x 4, after 4 prefix tokens
    until(lambda: said('query 10'))
    stage.press('ArrowDown')
    until(lambda: said('query 14'))
    tab.locator('.vx-heads canvas:not(.vx-mean)').nth(1).click()
    until(lambda: said('layer 0') and said('head 1'))
    until(lambda: '14' in tab.locator('.widget-readout').all_text_contents())    # the slider of ipywidgets moved along

    wish('ex.query = 3')
    until(lambda: tab.locator('.vx [data-fact=query]').first.text_content().startswith('register 3'))
    wish("ex.method, ex.opacity = 'rollout', .25")
    until(lambda: tab.locator('.vx-large h3').first.text_content() == 'Rollout of 2 layers')
    until(lambda: tab.locator('.vx-over').first.evaluate('e => getComputedStyle(e).opacity') == '0.25')
    wish('ex.compare = 1')
    until(lambda: tab.locator('.vx-pane').count() == 2)
    wish("ex.add_image(np.zeros((24, 16, 3), 'uint8'), 'black')")
    until(lambda: tab.locator('.vx-image option').all_text_contents() == ['photo 0', 'photo 1', 'black'])
    until(lambda: tab.locator('.vx-pane').first.get_attribute('aria-label') == 'black')

    # The notebook's own rules for lists and buttons must not take the page apart.
    tiles = tab.locator('.vx-pane').first.locator('.vx-facts > div').evaluate_all('all => all.map(e => e.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])')
    assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for i, a in enumerate(tiles) for b in tiles[:i]), 'tiles overlap'
    assert tiles[0][1] == tiles[1][1] and tab.locator('.vx-chip').first.evaluate('e => getComputedStyle(e).borderTopLeftRadius') == '16px'

    def style(name): return tab.locator('.vx').evaluate('(e, name) => getComputedStyle(e)[name]', name)
    light = style('backgroundColor')
    tab.evaluate("() => { window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}) }")
    until(lambda: style('backgroundColor') != light and style('colorScheme') == 'dark')
    assert errors == []
    context.close()
