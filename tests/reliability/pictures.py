"""More than 300 image files that strangers may hand in, made here with fixed seeds: {name: (what to write, what must become of it)}.

'used' files must be read, and rightly; 'refused' ones must not; of 'either' kind (a cut or a flipped bit) both will do."""
import io, os, random, socket, struct, zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 16)


def scene():
    "Red to the left, blue to the right, brighter towards the bottom."
    y, x = np.mgrid[:SIZE[1], :SIZE[0]]
    shade = 120 + 8*y
    return Image.fromarray(np.stack([np.where(x < 12, shade, 20), np.full_like(x, 30), np.where(x < 12, 20, shade)], -1).astype(np.uint8))


def grey(): return scene().convert('L')
def saved(im, kind, **kw): out = io.BytesIO(); im.save(out, kind, **kw); return out.getvalue()
def turned(n): exif = Image.Exif(); exif[274] = n; return exif
def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
def png(w, h, *more, depth=8): return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, 2, 0, 0, 0)) + b''.join(more) + chunk(b'IEND', b'')
def rows(data, n=200*2**20): return data + zlib.compress(bytes(n), 9)


def right():
    "Every way to keep the scene, in colours or in grey."
    im, g, deep = scene(), grey(), np.asarray(grey()).astype(np.uint16)*257
    clear = im.convert('RGBA'); clear.putalpha(255)
    moving = dict(save_all=True, append_images=[Image.new('RGB', SIZE, 'green')]*2)
    yield from {'rgb.png': saved(im, 'PNG'), 'rgba.png': saved(clear, 'PNG'), 'palette.png': saved(im.quantize(64), 'PNG'), 'grey.png': saved(g, 'PNG'),
                'grey_alpha.png': saved(g.convert('LA'), 'PNG'), '16bit.png': saved(Image.fromarray(deep), 'PNG'), 'moving.png': saved(im, 'PNG', **moving),
                'best.jpg': saved(im, 'JPEG', quality=100, subsampling=0), 'progressive.JPG': saved(im, 'JPEG', quality=100, subsampling=0, progressive=True),
                'grey.jpeg': saved(g, 'JPEG', quality=100), 'cmyk.jpg': saved(im.convert('CMYK'), 'JPEG', quality=100, subsampling=0),
                'stereo.jpg': saved(im, 'MPO', save_all=True, append_images=[im], quality=100, subsampling=0),
                'rgb.tif': saved(im, 'TIFF'), 'lzw.tiff': saved(im, 'TIFF', compression='tiff_lzw'), 'deflate.tif': saved(im, 'TIFF', compression='tiff_deflate'),
                'cmyk.tif': saved(im.convert('CMYK'), 'TIFF'), 'grey.tif': saved(g, 'TIFF'), 'rgba.tif': saved(clear, 'TIFF'), 'palette.tif': saved(im.quantize(64), 'TIFF'),
                '16bit.tif': saved(Image.fromarray(deep), 'TIFF'), 'integer.tif': saved(Image.fromarray(deep.astype(np.int32)), 'TIFF'),
                'float.tif': saved(Image.fromarray(np.asarray(g).astype(np.float32)), 'TIFF'), 'unit.tif': saved(Image.fromarray(np.asarray(g)/np.float32(255)), 'TIFF'),
                'pages.tif': saved(im, 'TIFF', **moving), 'rgb.gif': saved(im, 'GIF'), 'moving.gif': saved(im, 'GIF', **moving), 'lossless.webp': saved(im, 'WEBP', lossless=True),
                'alpha.webp': saved(clear, 'WEBP', lossless=True), 'moving.webp': saved(im, 'WEBP', lossless=True, **moving), 'rgb.bmp': saved(im, 'BMP'), 'palette.bmp': saved(im.quantize(64), 'BMP'),
                'rgb.ppm': saved(im, 'PPM'), 'grey.pgm': saved(g, 'PPM'), '16bit.pgm': b'P5 24 16 65535\n' + deep.astype('>u2').tobytes(),
                'text.ppm': f"P3 24 16 255 {' '.join(map(str, np.asarray(im).ravel()))}".encode(), 'a_jpeg.png': saved(im, 'JPEG', quality=100, subsampling=0),
                'a_png.jpg': saved(im, 'PNG'), 'a_gif.webp': saved(im, 'GIF'), 'a_webp.bmp': saved(im, 'WEBP', lossless=True)}.items()
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}       # EXIF's number: the transposition that undoes it
    yield 'upright.jpg', saved(im, 'JPEG', quality=100, subsampling=0, exif=turned(1))
    for n, how in back.items():
        yield f'turned_{n}.jpg', saved(im.transpose(Image.Transpose(how)), 'JPEG', quality=100, subsampling=0, exif=turned(n))
        yield f'turned_{n}.png', saved(im.transpose(Image.Transpose(how)), 'PNG', exif=turned(n))


def odd():
    "Images of something else that must be read as well."
    one = saved(grey().convert('1'), 'PNG'), saved(grey().convert('1'), 'TIFF', compression='group4')
    yield from {'1bit.png': one[0], 'fax.tif': one[1], 'one_pixel.png': saved(scene().resize((1, 1)), 'PNG'), 'thin.png': saved(scene().resize((1, 3000)), 'PNG'),
                'wide.jpg': saved(scene().resize((3000, 1)), 'JPEG'), 'nan.tif': saved(Image.fromarray(np.full(SIZE[::-1], np.nan, np.float32)), 'TIFF'),
                'infinite.tif': saved(Image.fromarray(np.full(SIZE[::-1], np.inf, np.float32)), 'TIFF'), 'huge_numbers.tif': saved(Image.fromarray(np.full(SIZE[::-1], 1e38, np.float32)), 'TIFF'),
                'dark.tif': saved(Image.fromarray(np.full(SIZE[::-1], 200, np.uint16)), 'TIFF'), 'comment.png': saved(scene(), 'PNG', pnginfo=None) + b'<script>alert(1)</script>',
                'many_frames.gif': saved(scene(), 'GIF', save_all=True, append_images=[scene().point(lambda v, i=i: (v + i) % 256) for i in range(300)])}.items()


def wrong():
    "No image, or one that would not fit into memory."
    yield from {'empty.png': b'', 'text.jpg': b'no picture', 'page.png': b'<html><script>alert(1)</script>', 'drawing.png': b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
                'paper.jpg': b'%PDF-1.4 ...', 'zip.png': b'PK\3\4' + bytes(100), 'pickle.png': b'\x80\x04cos\nsystem\n.', 'program.jpg': b'\x7fELF' + bytes(100),
                'postscript.png': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n%%EndComments\n(stolen) (w) file\n%%EOF\n', 'postscript.jpg': saved(scene(), 'EPS'),
                'icon.png': saved(scene(), 'ICO'), 'document.png': saved(scene(), 'PDF'), 'zeros.png': bytes(1000), 'signature.png': b'\x89PNG\r\n\x1a\n', 'nothing.png': png(0, 0), 'no_rows.png': png(24, 16),
                'huge.png': png(60_000, 60_000, chunk(b'IDAT', zlib.compress(b'\0'*100))), 'large.png': png(12_000, 9_000, chunk(b'IDAT', zlib.compress(b'\0'*100))),
                'largest.png': png(2**31 - 1, 2**31 - 1, chunk(b'IDAT', zlib.compress(b'\0'*100))), 'below.png': png(10_000, 9_500, chunk(b'IDAT', zlib.compress(b'\0'*100))),
                'huge.gif': b'GIF89a' + struct.pack('<HH', 65535, 65535) + b'\x80\0\0' + bytes(6) + b',' + struct.pack('<HHHHB', 0, 0, 65535, 65535, 0) + b'\2\2D\1\0;',
                'huge.bmp': b'BM' + struct.pack('<IHHIIiiHHIIiiII', 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0), 'huge.ppm': b'P6 100000 100000 255\n' + bytes(100),
                'endless.ppm': b'P6 ' + b'9'*10_000 + b' 1 255\n', 'negative.bmp': b'BM' + struct.pack('<IHHIIiiHHIIiiII', 54, 0, 0, 54, 40, -5, -5, 1, 24, 0, 0, 0, 0, 0, 0),
                'text_bomb.png': png(24, 16, chunk(b'zTXt', rows(b'a\0\0'))), 'profile_bomb.png': png(24, 16, chunk(b'iCCP', rows(b'a\0\0'))),
                'huge.webp': b'RIFF' + struct.pack('<I', 30) + b'WEBPVP8X' + struct.pack('<IB', 10, 2) + b'\0\0\0' + b'\xff\xff\xff'*2}.items()
    entries = [(256, 4, 1, 50_000), (257, 4, 1, 50_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, 50_000), (279, 4, 1, 2_500_000_000)]
    yield 'huge.tif', b'II*\0' + struct.pack('<IH', 8, len(entries)) + b''.join(struct.pack('<HHII', *e) for e in entries) + bytes(4)
    yield 'itself.tif', b'II*\0' + struct.pack('<IHHHIII', 8, 1, 256, 4, 1, 24, 8)


def damaged(cuts=8, flips=12):
    "Cut short at many places, and bits turned over."
    rng, im = random.Random(0), scene()
    whole = {'png': saved(im, 'PNG'), 'jpg': saved(im, 'JPEG', exif=turned(6)), 'gif': saved(im, 'GIF'), 'tif': saved(im, 'TIFF', compression='tiff_deflate'),
             'webp': saved(im, 'WEBP'), 'bmp': saved(im.quantize(16), 'BMP'), 'ppm': saved(im, 'PPM'), 'tiff': saved(im, 'TIFF')}
    for kind, data in whole.items():
        for i in range(cuts): yield f'cut_{i}.{kind}', data[:(i + 1)*len(data)//(cuts + 1)]
        for i in range(flips):
            broken = bytearray(data)
            for _ in range(1 + i % 6): broken[rng.randrange(min(len(data), 400))] ^= 1 << rng.randrange(8)
            yield f'flip_{i}.{kind}', bytes(broken)


NAMES = [b'two\nlines.png', b'<b>bold<b>.png', b'<script>alert(1)<.png', b'"quoted" \'name\'.png', b'-.png', b'--help.png', b'a'*251 + b'.png', b'caf\xe9.png', b'\xff\xfe.png', b'\x1b[2J\x1b[31mred.png',
         b'\xe2\x80\xaegnp.png', b'$(touch owned).png', b'`touch owned`.png', b'; touch owned; .png', b'%s%n{0}{title}.png', b' .png', b'..png', b'#read("x").png', b'![x](y).png', b'a|b.png', b'$x^2$ \\input{x}.png',
         b'\r\n.png', b'\xf0\x9f\x90\xb1.png', b'=cmd().png', b'@a.png', b'*?[a].png', b'back\\slash.png', b'tab\t.png', b'C:con.png', b'&lt;.png']


def special(folder):
    "Things in a folder that have the name of an image and are none; gives {name: what must become of it}."
    (folder/'folder.png').mkdir(); os.symlink('loop.png', folder/'loop.png'); os.symlink('pong.png', folder/'ping.png'); os.symlink('ping.png', folder/'pong.png')
    os.symlink('nowhere.png', folder/'dangling.png'); os.mkfifo(folder/'pipe.png'); os.symlink('pipe.png', folder/'to_pipe.png'); os.symlink('/dev/zero', folder/'zero.png')
    os.symlink('rgb.png', folder/'link.png')
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(folder); s.bind('socket.png'); os.chdir(here)      # a long path would not fit into the address
    bad = 'folder loop ping pong dangling pipe to_pipe zero socket'.split()
    return {f'{n}.png': 'refused' for n in bad} | {'link.png': 'used'}


def corpus(folder):
    "Write them all into a folder: {name, of bytes: 'used', 'refused' or 'either'}."
    folder, out = Path(folder), {}
    def put(name, data, kind):
        name = os.fsencode(name)
        with open(os.path.join(os.fsencode(folder), name), 'wb') as f: f.write(data)
        assert name not in out, name
        out[name] = kind
    for make, kind in ((right, 'used'), (odd, 'used'), (wrong, 'refused'), (damaged, 'either')):
        for name, data in make(): put(name, data, kind)
    good = saved(scene(), 'PNG')
    for name in NAMES: put(name, good, 'used')
    for name in NAMES: put(b'bad' + name[-200:], good[:60], 'refused')
    return out | {os.fsencode(n): kind for n, kind in special(folder).items()}
