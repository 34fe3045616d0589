"""The official Vision Transformer in NumPy and float64, written from its formulas and sharing no code with the package.

`forward(arrays, x)` takes the arrays of one of Google's files, by their own names and in their own layout, and images (B,H,W,C) in float64.
Formulas: the paper's Eq. 1 to 8; tanh GELU; LayerNorm with eps 1e-6 (Flax's default); for the hybrid TensorFlow's SAME padding, GroupNorm
with 32 groups and eps 1e-6, and filters standardised with std + 1e-5."""
import numpy as np


def gelu(x): return 0.5 * x * (1 + np.tanh(np.sqrt(2/np.pi) * (x + 0.044715 * x**3)))

def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)

def layer_norm(x, scale, bias): return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias

def windows(x, kernel, stride):
    "(B,H,W,C) -> (B,h,w,kernel,kernel,C), without padding."
    v = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]   # (B,h,w,C,k,k)
    return v.transpose(0, 1, 2, 4, 5, 3)

def same(x, kernel, stride, value):
    "TensorFlow's SAME: ceil(n/stride) windows; of an odd number of padded rows, the larger half comes last."
    pads = []
    for n in x.shape[1:3]:
        total = max((-(-n//stride) - 1)*stride + kernel - n, 0)
        pads.append((total//2, total - total//2))
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)

def conv(x, kernel, stride=1):
    "A convolution with standardised filters (HWIO) and SAME padding."
    w = kernel - kernel.mean((0, 1, 2))
    w = w / (kernel.std((0, 1, 2)) + 1e-5)
    k = kernel.shape[0]
    return np.tensordot(windows(same(x, k, stride, 0.), k, stride), w, axes=([3, 4, 5], [0, 1, 2]))

def group_norm(x, scale, bias, groups=32):
    B, H, W, C = x.shape
    g = x.reshape(B, H*W, groups, C//groups)
    g = (g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + 1e-6)
    return g.reshape(B, H, W, C) * scale.reshape(-1) + bias.reshape(-1)

def relu(x): return np.maximum(x, 0)

def resnet(a, x):
    norm = lambda name, y: group_norm(y, a[f'{name}/scale'], a[f'{name}/bias'])
    x = relu(norm('gn_root', conv(x, a['conv_root/kernel'], 2)))
    x = windows(same(x, 3, 2, -np.inf), 3, 2).max((3, 4))
    stage = 1
    while f'block{stage}/unit1/conv1/kernel' in a:
        unit = 1
        while f'block{stage}/unit{unit}/conv1/kernel' in a:
            p, stride = f'block{stage}/unit{unit}', 2 if stage > 1 and unit == 1 else 1
            short = norm(f'{p}/gn_proj', conv(x, a[f'{p}/conv_proj/kernel'], stride)) if unit == 1 else x
            y = relu(norm(f'{p}/gn1', conv(x, a[f'{p}/conv1/kernel'])))
            y = relu(norm(f'{p}/gn2', conv(y, a[f'{p}/conv2/kernel'], stride)))
            x = relu(short + norm(f'{p}/gn3', conv(y, a[f'{p}/conv3/kernel'])))
            unit += 1
        stage += 1
    return x

def stretch(pos, grid, old):
    "What the official code does to position embeddings for another grid: the class token's stays, the others go through scipy.ndimage.zoom."
    from scipy.ndimage import zoom
    front, places = pos[:, :1], pos[0, 1:].reshape(*old, -1)
    places = zoom(places, (grid[0]/old[0], grid[1]/old[1], 1), order=1)
    return np.concatenate([front, places.reshape(1, grid[0]*grid[1], -1)], 1)

def forward(arrays, x, old=None):
    "Images (B,H,W,C) -> logits (B,K). `old`: the grid of the file's position embeddings, when it is not that of the images."
    a = {k: np.asarray(v, dtype=np.float64) for k, v in arrays.items()}
    if 'conv_root/kernel' in a: x = resnet(a, x)
    P = a['embedding/kernel'].shape[0]
    x = np.tensordot(windows(x, P, P), a['embedding/kernel'], axes=([3, 4, 5], [0, 1, 2])) + a['embedding/bias']
    B, h, w, D = x.shape
    z = np.concatenate([np.broadcast_to(a['cls'], (B, 1, D)), x.reshape(B, h*w, D)], 1)
    pos = a['Transformer/posembed_input/pos_embedding']
    z = z + (stretch(pos, (h, w), old) if old else pos)
    i = 0
    while f'Transformer/encoderblock_{i}/LayerNorm_0/scale' in a:
        b = {k.split('/', 2)[2]: v for k, v in a.items() if k.startswith(f'Transformer/encoderblock_{i}/')}
        y, m = layer_norm(z, b['LayerNorm_0/scale'], b['LayerNorm_0/bias']), 'MultiHeadDotProductAttention_1'
        q, k, v = (np.tensordot(y, b[f'{m}/{n}/kernel'], axes=(2, 0)) + b[f'{m}/{n}/bias'] for n in ('query', 'key', 'value'))   # (B,T,H,d)
        weights = softmax(q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1) / np.sqrt(q.shape[-1]))                            # (B,H,T,T)
        y = (weights @ v.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
        z = z + np.tensordot(y, b[f'{m}/out/kernel'], axes=([2, 3], [0, 1])) + b[f'{m}/out/bias']
        y = layer_norm(z, b['LayerNorm_2/scale'], b['LayerNorm_2/bias'])
        y = gelu(y @ b['MlpBlock_3/Dense_0/kernel'] + b['MlpBlock_3/Dense_0/bias'])
        z = z + y @ b['MlpBlock_3/Dense_1/kernel'] + b['MlpBlock_3/Dense_1/bias']
        i += 1
    y = layer_norm(z, a['Transformer/encoder_norm/scale'], a['Transformer/encoder_norm/bias'])[:, 0]
    if 'pre_logits/kernel' in a: y = np.tanh(y @ a['pre_logits/kernel'] + a['pre_logits/bias'])
    return y @ a['head/kernel'] + a['head/bias']


def google_shapes(D=768, M=3072, depth=12, heads=12, patch=16, positions=196, classes=1000, pre_logits=None, units=None):
    "{name: shape} of one of Google's files, written out from their description."
    d, shapes, chans = D//heads, {}, 3
    if units:
        shapes['conv_root/kernel'], chans, patch = (7, 7, 3, 64), 64, patch // 2**(len(units) + 1)
        shapes['gn_root/scale'] = shapes['gn_root/bias'] = (1, 1, 1, 64)
        for s, n in enumerate(units):
            width = 64 * 2**s
            for u in range(n):
                p = f'block{s+1}/unit{u+1}'
                convs = {'1': (1, 1, chans, width), '2': (3, 3, width, width), '3': (1, 1, width, 4*width), **({'_proj': (1, 1, chans, 4*width)} if u == 0 else {})}
                for c, shape in convs.items():
                    shapes[f'{p}/conv{c}/kernel'] = shape
                    shapes[f'{p}/gn{c}/scale'] = shapes[f'{p}/gn{c}/bias'] = (1, 1, 1, shape[-1])
                chans = 4*width
    shapes |= {'cls': (1, 1, D), 'embedding/kernel': (patch, patch, chans, D), 'embedding/bias': (D,),
               'Transformer/posembed_input/pos_embedding': (1, 1 + positions, D)}
    for i in range(depth):
        b, m = f'Transformer/encoderblock_{i}', f'Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1'
        for n in ('LayerNorm_0', 'LayerNorm_2'): shapes[f'{b}/{n}/scale'] = shapes[f'{b}/{n}/bias'] = (D,)
        for n in ('query', 'key', 'value'): shapes[f'{m}/{n}/kernel'], shapes[f'{m}/{n}/bias'] = (D, heads, d), (heads, d)
        shapes |= {f'{m}/out/kernel': (heads, d, D), f'{m}/out/bias': (D,), f'{b}/MlpBlock_3/Dense_0/kernel': (D, M), f'{b}/MlpBlock_3/Dense_0/bias': (M,),
                   f'{b}/MlpBlock_3/Dense_1/kernel': (M, D), f'{b}/MlpBlock_3/Dense_1/bias': (D,)}
    shapes['Transformer/encoder_norm/scale'] = shapes['Transformer/encoder_norm/bias'] = (D,)
    if pre_logits: shapes['pre_logits/kernel'], shapes['pre_logits/bias'] = (D, pre_logits), (pre_logits,)
    return shapes | {'head/kernel': (pre_logits or D, classes), 'head/bias': (classes,)}


def google_arrays(seed=0, **kwargs):
    "Random arrays for `google_shapes`: no zeros or ones anywhere, and kernels that keep the size of what goes through them."
    rng, arrays = np.random.default_rng(seed), {}
    for name, shape in google_shapes(**kwargs).items():
        leaf, r = name.rsplit('/', 1)[-1], rng.standard_normal(shape, dtype=np.float32)
        if leaf == 'kernel':
            fan_in = np.prod(shape[:2 if name.endswith('out/kernel') else 1]) if shape.__len__() < 4 else np.prod(shape[:3])
            r *= 1 / np.sqrt(fan_in)
        elif leaf == 'scale': r = 1 + 0.2*r
        else: r *= 0.2
        arrays[name] = r.astype(np.float32)
    return arrays
