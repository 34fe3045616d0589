"""Film the live page: `python nbs/images/live.py` writes live.webp, an animation of at most 2 MB.

The course's own checkpoint looks at a cat that comes with scikit-image: the query moves, eyes are painted over, a head is switched off, patches are
shuffled. Needs playwright and Chromium."""
import io, shutil, tempfile
from pathlib import Path

from PIL import Image
from skimage import data
from vit_course.checkpoints import load_checkpoint
from vit_course.explorer import AttentionExplorer

TARGET, WIDTH = Path(__file__).with_name('live.webp'), 900


class Film:
    def __init__(self, page): self.page, self.frames, self.times = page, [], []
    def shoot(self, ms=120):
        self.page.evaluate("""async () => { const live = document.getElementById('live').live;
            while (live.busy) await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame) }""")
        image = Image.open(io.BytesIO(self.page.screenshot(clip=dict(x=0, y=0, width=1366, height=768)))).convert('RGB')
        self.frames.append(image.resize((WIDTH, round(WIDTH*768/1366)), Image.Resampling.LANCZOS))
        self.times.append(ms)
    def press(self, name): self.page.get_by_role('button', name=name, exact=True).click()
    def move(self, r, c):
        box = self.page.locator('.vx-query .vx-stage').bounding_box()
        self.page.mouse.move(box['x'] + (c + .5)/8*box['width'], box['y'] + (r + .5)/8*box['height'])


def act(film):
    "What is to be seen."
    film.shoot(900)
    for c in range(1, 7): film.move(4, c); film.shoot(250)
    film.page.mouse.move(700, 30)
    film.press('Paint')
    film.shoot(500)
    film.move(3, 7)
    film.page.mouse.down()
    for r, c in [*((3, c) for c in range(7, 0, -1)), *((2, c) for c in range(1, 8))]: film.move(r, c); film.shoot(150)
    film.page.mouse.up()
    film.page.mouse.move(700, 30)
    film.shoot(1200)
    film.press('Reset')
    film.press('Heads off')
    film.shoot(500)
    for n in (0, 1, 2, 3): film.page.locator('.vx-heads canvas').nth(n).click(); film.shoot(350)
    film.shoot(900)
    film.press('Reset')
    film.press('Shuffle patches')
    film.shoot(1500)
    film.press('Reset')
    film.press('Ask')


def main():
    from playwright.sync_api import sync_playwright
    report = load_checkpoint(None, 'vit-tiny-4-cifar10')
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        path = Path(folder)/'live.html'
        AttentionExplorer(report.model, {'a cat': data.cat()[:, 125:425]}, report.classes).save_live(path)
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1366, height=768), color_scheme='light')
        page.goto(path.as_uri())
        page.locator('.vx-pane').wait_for()
        page.evaluate("Math.random = (s => () => (s = s * 16807 % 2147483647) / 2147483647)(7)")   # the same shuffle each time
        film = Film(page)
        act(film)
        browser.close()
    for quality in (70, 55, 40, 25):
        film.frames[0].save(TARGET, save_all=True, append_images=film.frames[1:], duration=film.times, loop=0, quality=quality, method=4)
        if TARGET.stat().st_size <= 2_000_000: break
    print(f'{TARGET.name}: {len(film.frames)} frames, {TARGET.stat().st_size/1e6:.2f} MB')


if __name__ == '__main__': main()
