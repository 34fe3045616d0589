"Small models and images for the tests of the explorer, and a reference in numpy that shares no code with it."
import numpy as np, torch
from vit_course.explorer import AttentionExplorer
from vit_course.vit import create_vit

CASES = {  # a square image, a rectangle, registers; rows of the heads sent whole, or computed from q and k in the browser
    'square':    (dict(img_size=16, patch_size=4, dim=32, heads=2, depth=3), False),
    'rectangle': (dict(img_size=(16, 40), patch_size=(4, 8), dim=24, heads=3), True),
    'registers': (dict(img_size=(24, 16), patch_size=4, dim=96, heads=2, registers=3), False),
    'both':      (dict(img_size=(12, 28), patch_size=4, dim=16, heads=4, registers=2), True),
}


def make_model(seed=0, **kw):
    "A tiny model whose heads do not look everywhere alike, and whose head is not zero."
    torch.manual_seed(seed)
    model = create_vit('testing', **kw)
    with torch.no_grad():
        for block in model.encoder.blocks: block.attn.qkv.weight *= 2
        if kw.get('num_classes', 10): model.head.weight.normal_(std=.5)
    return model


def make_photo(model, seed=0):
    rng, (H, W) = np.random.default_rng(seed), model.patch_embed.img_size
    return rng.integers(0, 256, (H, W, 3), dtype=np.uint8)


def explorer(case, n=2, **kw):
    model = make_model(**CASES[case][0])
    return model, AttentionExplorer(model, {f'photo {i}': make_photo(model, i) for i in range(n)}, **kw)


def weights(model, photo):
    "Attention weights (L,H,T,T) in float64, from q and k of the layers themselves."
    x, rows = (torch.from_numpy(photo).permute(2, 0, 1)[None].double()/255 - .5)/.5, []
    model = model.double().eval()
    with torch.no_grad():
        z = model.embed(x)
        for block in model.encoder.blocks:
            q, k, _ = (t.numpy() for t in block.attn.split_heads(block.norm1(z)))
            e = np.exp(np.einsum('bhid,bhjd->bhij', q, k)/np.sqrt(q.shape[-1]))
            rows.append((e/e.sum(-1, keepdims=True))[0])
            z = block(z)
    model.float()
    return np.stack(rows)


def rollout_rows(weights, discard=0):
    T = weights.shape[-1]
    result = np.eye(T)
    for A in weights:
        A = A.mean(0)
        for row in A: row[1 + np.argsort(row[1:])[:int(discard*(T - 1))]] = 0     # never the class token's column
        result = (A/A.sum(1, keepdims=True) + np.eye(T))/2 @ result
    return result


def figures(row, query, grid, n_prefix, patch):
    "Entropy, mass on prefix tokens, and distance in pixels (None from a prefix token) of one row."
    h, w = grid
    entropy = -sum(x*np.log(x) for x in row if x > 0)
    if query < n_prefix: return entropy, row[:n_prefix].sum(), None
    y, x = np.divmod(np.arange(h*w), w)
    far = np.hypot((y - y[query - n_prefix])*patch[0], (x - x[query - n_prefix])*patch[1])
    return entropy, row[:n_prefix].sum(), (row[n_prefix:]*far).sum()/row[n_prefix:].sum()
