"Hidden tests of chapter 1. Each function is one test: `student` has what the student's notebook defines."
import random, torch

def same(a, b):
    assert isinstance(a, torch.Tensor), f"a tensor is wanted, not {type(a).__name__}"
    torch.testing.assert_close(a.detach(), b, rtol=0, atol=0)

def refuses(f, *args):
    try: f(*args)
    except ValueError: return
    raise AssertionError("no ValueError")

def cut(x, ph, pw):
    "The slow way: one patch after the other, number by number in the order of the kernel."
    B, C, H, W = x.shape
    tokens = torch.zeros(B, (H//ph)*(W//pw), C*ph*pw, dtype=x.dtype)
    for n in range(tokens.shape[1]):
        top, left = n//(W//pw)*ph, n%(W//pw)*pw
        for c in range(C): tokens[:, n, c*ph*pw:(c + 1)*ph*pw] = x[:, c, top:top+ph, left:left+pw].reshape(B, -1)
    return tokens

def draw(B=None, C=None, h=None, w=None, ph=None, pw=None):
    """Random sizes where none is given, from 2 to 5, and an image without any number twice. No grid
    or patch is square and no image has three colours by chance: every draw tells the same."""
    def other(n): return random.choice([o for o in range(2, 6) if o != n])
    B, C = B or other(0), C or other(3)
    h = h or other(w)
    w = w or other(h)
    ph = ph or other(pw)
    pw = pw or other(ph)
    x = torch.randperm(B*C*h*ph*w*pw).reshape(B, C, h*ph, w*pw)
    return x, ph, pw, (h, w)


def patchify__one_image(student):
    "One grey square image in square patches: the order of the patches, and of the pixels within one."
    x, P, _, _ = draw(B=1, C=1, h=3, w=3, ph=2, pw=2)
    same(student.patchify(x.float(), P), cut(x.float(), P, P))

def patchify__colour_and_batch(student):
    "Several images in colour: images must not mix, and each patch is flattened colour by colour."
    x, P, _, _ = draw(B=3, C=3, h=4, w=4, ph=2, pw=2)
    same(student.patchify(x.float(), P), cut(x.float(), P, P))

def patchify__rectangles(student):
    "Images that are wider than high, or higher than wide."
    for h, w in [(2, 5), (5, 3)]:
        x, P, _, _ = draw(h=h, w=w, ph=3, pw=3)
        same(student.patchify(x.float(), P), cut(x.float(), P, P))

def patchify__flat_patches(student):
    "The patch size may be a pair (height, width)."
    for ph, pw in [(2, 3), (4, 1)]:
        x, *_ = draw(ph=ph, pw=pw)
        same(student.patchify(x.float(), (ph, pw)), cut(x.float(), ph, pw))

def patchify__dtypes(student):
    "Any dtype goes in, and the same comes out: bytes, halves, whole numbers, truth values."
    for dtype in (torch.uint8, torch.float16, torch.int64, torch.bool):
        x, P, _, _ = draw(B=2, C=3, h=2, w=3, ph=2, pw=2)
        x = (x % 2 if dtype == torch.bool else x).to(dtype)
        same(student.patchify(x, P), cut(x, P, P))

def patchify__memory(student):
    "Images that do not lie in memory in one piece: transposed, or every second row of a larger one."
    x, ph, pw, _ = draw(ph=2, pw=3)
    same(student.patchify(x.float().mT, (pw, ph)), cut(x.float().mT, pw, ph))
    x, ph, pw, _ = draw(h=4, ph=2)
    x = x.float()[:, :, ::2, :]
    same(student.patchify(x, (2, pw)), cut(x, 2, pw))

def patchify__refuses(student):
    "A patch size that does not divide the image is a ValueError, in either direction."
    refuses(student.patchify, torch.zeros(1, 3, 8, 9), 4)
    refuses(student.patchify, torch.zeros(1, 3, 9, 8), 4)
    refuses(student.patchify, torch.zeros(1, 3, 8, 6), (4, 4))


def unpatchify__square(student):
    "Square images and square patches, in colour, several at a time."
    x, P, _, grid = draw(B=2, C=3, h=3, w=3, ph=2, pw=2)
    same(student.unpatchify(cut(x.float(), P, P), P, grid), x.float())

def unpatchify__rectangles(student):
    "A grid (h, w) that is not square, and patches that are not square."
    for h, w, ph, pw in [(2, 4, 3, 3), (4, 3, 2, 5)]:
        x, *_ = draw(C=3, h=h, w=w, ph=ph, pw=pw)
        same(student.unpatchify(cut(x.float(), ph, pw), (ph, pw), (h, w)), x.float())

def unpatchify__channels(student):
    "One channel, or more than three, with `channels=`."
    for C in (1, 4):
        x, ph, pw, grid = draw(C=C)
        same(student.unpatchify(cut(x.float(), ph, pw), (ph, pw), grid, channels=C), x.float())

def unpatchify__dtypes_and_memory(student):
    "Bytes stay bytes, and tokens need not lie in memory in one piece."
    x, ph, pw, grid = draw(C=3)
    x = x.to(torch.uint8)
    tokens = cut(x, ph, pw).mT.contiguous().mT
    same(student.unpatchify(tokens, (ph, pw), grid), x)

def unpatchify__refuses(student):
    "Tokens that do not fit the grid or the number of channels are a ValueError."
    refuses(student.unpatchify, torch.zeros(2, 12, 48), 4, (3, 5))
    refuses(student.unpatchify, torch.zeros(2, 12, 16), 4, (3, 4))


def embed(student, h, w, ph, pw, C, D):
    "The student's module with weights of ours, and what it must answer to a random image."
    module = student.PatchEmbed((h*ph, w*pw), (ph, pw), C, D)
    E, b = torch.randn(D, C, ph, pw), torch.randn(D)
    module.load_state_dict({'proj.weight': E, 'proj.bias': b})
    x = torch.randn(3, C, h*ph, w*pw)
    return module, x, cut(x, ph, pw) @ E.reshape(D, -1).T + b

def close(a, b): torch.testing.assert_close(a.detach(), b, rtol=1e-4, atol=1e-4)

def patch_embed__square(student):
    "A linear map of each flattened patch, for square images: (B, C, H, W) to (B, N, D)."
    module, x, want = embed(student, 3, 3, 4, 4, 3, random.randint(5, 9))
    close(module(x), want)

def patch_embed__rectangles(student):
    "The same for images and patches that are not square."
    module, x, want = embed(student, 2, 5, 3, 2, random.choice([1, 2, 4]), random.randint(5, 9))
    close(module(x), want)

def patch_embed__one_number(student):
    "`img_size` and `patch_size` may be one number, and the sizes of ViT-Base are what it gets when told nothing."
    module = student.PatchEmbed(12, 4, 2, 5)
    assert tuple(module(torch.zeros(1, 2, 12, 12)).shape) == (1, 9, 5)
    assert tuple(student.PatchEmbed().proj.weight.shape) == (768, 3, 16, 16)

def patch_embed__grid(student):
    "`grid` is (h, w): rows of patches first."
    h, w = random.sample(range(2, 7), 2)
    assert tuple(student.PatchEmbed((h*4, w*3), (4, 3), 3, 8).grid) == (h, w)

def patch_embed__refuses(student):
    "A ValueError for patches that do not divide, and for an image of another size or number of channels."
    refuses(student.PatchEmbed, 224, 15)
    module = student.PatchEmbed((8, 12), 4, 3, 5)
    for shape in [(1, 3, 12, 8), (1, 1, 8, 12), (1, 3, 8, 16)]: refuses(module, torch.zeros(shape))
