"""Two thousand broken files for each way to break one. A broken file ends in a CheckpointError of one line that names it, and the model is as it
was; or it loads, and then every weight is what an independent reader (NumPy's, safetensors' or PyTorch's own) finds in it."""
import io, json, re, struct, time, warnings, zipfile, zlib
from dataclasses import asdict

import numpy as np, pytest, torch
from vit_course.checkpoints import CheckpointError, load_checkpoint
from vit_course.tools.weight_files import checksum
from vit_course.vit import create_vit

pytest.importorskip('hypothesis')
from hypothesis import HealthCheck, given, settings, strategies as st

N = 2000
MODEL = dict(img_size=(8, 12), patch_size=4, dim=8, depth=1, heads=2, mlp_dim=12, num_classes=3)
SOURCE, TARGET = create_vit('testing', **MODEL), create_vit('testing', **MODEL)
torch.manual_seed(0)
for model in (SOURCE, TARGET):
    for p in model.parameters(): torch.nn.init.normal_(p, std=0.3)
BEFORE, OWN = {k: v.clone() for k, v in TARGET.state_dict().items()}, {k: v.numpy() for k, v in SOURCE.state_dict().items()}
NPY = {np.dtype(t).str: np.dtype(t) for t in ('f2', 'f4', 'f8', 'i4', 'i8', 'u1', 'c8', '?', '>f4', 'S4', 'U2')}
ST = dict(F16='f2', F32='f4', F64='f8', I32='i4', I64='i8', U8='u1', BOOL='?')


# ---- four kinds of files, from (name, array) pairs, and an independent reader for each

def google_names():
    "Our tensors under Google's names, laid out as Google does; written without the package's tables."
    w, b, f = OWN, 'encoder.blocks.0.', 'Transformer/encoderblock_0/'
    out = {'cls': w['cls_token'], 'Transformer/posembed_input/pos_embedding': w['pos_embed'], 'head/kernel': w['head.weight'].T, 'head/bias': w['head.bias'],
           'embedding/kernel': w['patch_embed.proj.weight'].transpose(2, 3, 1, 0), 'embedding/bias': w['patch_embed.proj.bias'],
           'Transformer/encoder_norm/scale': w['encoder.norm.weight'], 'Transformer/encoder_norm/bias': w['encoder.norm.bias']}
    for ours, theirs in (('norm1', 'LayerNorm_0'), ('norm2', 'LayerNorm_2')):
        out |= {f'{f}{theirs}/scale': w[f'{b}{ours}.weight'], f'{f}{theirs}/bias': w[f'{b}{ours}.bias']}
    for ours, theirs in (('fc1', 'Dense_0'), ('fc2', 'Dense_1')):
        out |= {f'{f}MlpBlock_3/{theirs}/kernel': w[f'{b}mlp.{ours}.weight'].T, f'{f}MlpBlock_3/{theirs}/bias': w[f'{b}mlp.{ours}.bias']}
    m = f'{f}MultiHeadDotProductAttention_1/'
    for i, name in enumerate(('query', 'key', 'value')):
        out |= {f'{m}{name}/kernel': w[f'{b}attn.qkv.weight'][8*i:8*i+8].T.reshape(8, 2, 4), f'{m}{name}/bias': w[f'{b}attn.qkv.bias'][8*i:8*i+8].reshape(2, 4)}
    out |= {f'{m}out/kernel': w[f'{b}attn.proj.weight'].T.reshape(2, 4, 8), f'{m}out/bias': w[f'{b}attn.proj.bias']}
    return {k: np.ascontiguousarray(v) for k, v in out.items()}

def from_google(a):
    "The reverse."
    f = 'Transformer/encoderblock_0/'
    m, b = f'{f}MultiHeadDotProductAttention_1/', 'encoder.blocks.0.'
    qkv = [a[f'{m}{n}/kernel'].reshape(8, 8).T for n in ('query', 'key', 'value')]
    return {'cls_token': a['cls'], 'pos_embed': a['Transformer/posembed_input/pos_embedding'], 'head.weight': a['head/kernel'].T, 'head.bias': a['head/bias'],
            'patch_embed.proj.weight': a['embedding/kernel'].transpose(3, 2, 0, 1), 'patch_embed.proj.bias': a['embedding/bias'],
            'encoder.norm.weight': a['Transformer/encoder_norm/scale'], 'encoder.norm.bias': a['Transformer/encoder_norm/bias'],
            f'{b}norm1.weight': a[f'{f}LayerNorm_0/scale'], f'{b}norm1.bias': a[f'{f}LayerNorm_0/bias'],
            f'{b}norm2.weight': a[f'{f}LayerNorm_2/scale'], f'{b}norm2.bias': a[f'{f}LayerNorm_2/bias'],
            f'{b}mlp.fc1.weight': a[f'{f}MlpBlock_3/Dense_0/kernel'].T, f'{b}mlp.fc1.bias': a[f'{f}MlpBlock_3/Dense_0/bias'],
            f'{b}mlp.fc2.weight': a[f'{f}MlpBlock_3/Dense_1/kernel'].T, f'{b}mlp.fc2.bias': a[f'{f}MlpBlock_3/Dense_1/bias'],
            f'{b}attn.qkv.weight': np.concatenate(qkv), f'{b}attn.qkv.bias': np.concatenate([a[f'{m}{n}/bias'].reshape(8) for n in ('query', 'key', 'value')]),
            f'{b}attn.proj.weight': a[f'{m}out/kernel'].reshape(8, 8).T, f'{b}attn.proj.bias': a[f'{m}out/bias']}

TIMM = {k.removeprefix('encoder.'): v for k, v in OWN.items()}
def from_timm(a): return {f'encoder.{k}' if k.startswith(('blocks.', 'norm.')) else k: v for k, v in a.items()}

def write_npz(pairs, compress=False):
    f = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(f, 'w', zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as z:
        warnings.simplefilter('ignore')     # a name in it twice
        for name, a in pairs:
            member = io.BytesIO()
            np.lib.format.write_array(member, a, allow_pickle=False)
            z.writestr(f'{name}.npy'.replace('\0', '0'), member.getvalue())
    return f.getvalue()

def write_safetensors(pairs, metadata=None, types=None):
    header, data = ['"__metadata__": ' + json.dumps(metadata)] if metadata else [], b''
    names = {np.dtype(v).str: k for k, v in ST.items()}
    for i, (name, a) in enumerate(pairs):
        kind = types[i] if types and i in types else names.get(a.dtype.str, 'F32')
        header.append(f'{json.dumps(name)}: ' + json.dumps(dict(dtype=kind, shape=a.shape, data_offsets=[len(data), len(data) + a.nbytes])))
        data += a.tobytes()
    header = ('{' + ', '.join(header) + '}').encode()
    header += b' ' * (-len(header) % 8)
    return struct.pack('<Q', len(header)) + header + data

def write_own(pairs, types=None):
    config = json.dumps(asdict(SOURCE.cfg))
    crcs = {'vit_course': zlib.crc32(config.encode())}
    for name, a in pairs:
        try: crcs[name] = checksum(name, torch.from_numpy(a))
        except TypeError: crcs[name] = 0
    return write_safetensors(pairs, {'vit_course': config, 'crc32': json.dumps(crcs)}, types)

def write_torch(pairs, zipped=True):
    f = io.BytesIO()
    torch.save({k: torch.from_numpy(v.copy()) for k, v in pairs}, f, _use_new_zipfile_serialization=zipped)
    return f.getvalue()

def write_legacy(pairs): return write_torch(pairs, zipped=False)

def read_npz(path):
    with np.load(path, allow_pickle=False) as z: return {k: z[k] for k in z.files}
def read_safetensors(path):
    from safetensors.torch import load_file
    return {k: v.float().numpy() for k, v in load_file(path).items()}
def read_torch(path): return {k: v.numpy() for k, v in torch.load(path, weights_only=True, map_location='cpu').items() if isinstance(v, torch.Tensor)}

KINDS = {  # name: (tensors, write, independent reader, from its names to ours)
    'npz':         (google_names(), write_npz, read_npz, from_google),
    'safetensors': (TIMM, write_safetensors, read_safetensors, from_timm),
    'own':         (OWN, write_own, read_safetensors, lambda a: a),
    'torch':       (TIMM, write_torch, read_torch, from_timm),
    'legacy':      (TIMM, write_legacy, read_torch, from_timm),   # PyTorch's files before version 1.6
}
CHECKED = {'npz', 'own', 'torch'}   # these have checksums: what loads is what was written. The others are what they say.
GOOD = {kind: write(list(tensors.items())) for kind, (tensors, write, *_) in KINDS.items()}
kinds = st.sampled_from(list(KINDS))


def spelled(name):
    "Other spellings that are allowed: what wrappers put in front, and Google's other numbers."
    name = re.sub(r'^(opt/target|params)/', '', re.sub(r'^((module|_orig_mod)\.)+', '', name))
    return re.sub(r'DotProductAttention_\d+/', 'DotProductAttention_1/', re.sub(r'/MlpBlock_\d+/', '/MlpBlock_3/', name)).replace('LayerNorm_1', 'LayerNorm_2')


# ---- the one thing that is asked of every file

@pytest.fixture(scope='module')
def ask(tmp_path_factory):
    path = tmp_path_factory.mktemp('fuzz')/'strange.file'
    def ask(kind, content, original=False):
        "'refused' or 'loaded' (with the original weights, or those that an independent reader finds); anything else is an error."
        path.write_bytes(content)
        start = time.monotonic()
        if zlib.crc32(content) % 4 == 0: # now and then without a model: the file has to say what it is
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')
                    report = load_checkpoint(None, path, heads=2, act='gelu', norm_eps=1e-6, pool='cls')
                assert all(v.isfinite().all() for v in report.model.state_dict().values())
            except CheckpointError as e: assert str(path) in str(e) and '\n' not in str(e)
        try: load_checkpoint(TARGET, path)
        except CheckpointError as e:
            assert str(path) in str(e) and '\n' not in str(e) and len(str(e)) > len(str(path)) + 5
            assert all(torch.equal(v, BEFORE[k]) for k, v in TARGET.state_dict().items()), f'changed by a file that was refused: {e}'
            return 'refused'
        finally: assert time.monotonic() - start < 20
        _, _, read, rename = KINDS[kind]
        state = TARGET.state_dict()
        try:
            expected = OWN if original else rename({spelled(k): v for k, v in read(path).items()})
            for k, v in state.items():
                assert v.isfinite().all() and np.array_equal(v.numpy(), np.asarray(expected[k], dtype=np.float32)), f'{k} is silently wrong'
        finally: # the next file wants the model that it knows
            for k, v in state.items(): v.copy_(BEFORE[k])
        return 'loaded'
    return ask

def fuzz(test, strategy):
    "Run `test(example)` on N examples, and print what became of them."
    seen = {}
    @settings(max_examples=N, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(example):
        outcome = test(example)
        seen[outcome] = seen.get(outcome, 0) + 1
    run()
    assert sum(seen.values()) >= N, seen
    print(seen)
    return {'refused': 0, 'loaded': 0} | seen

@pytest.mark.parametrize('kind', KINDS)
def test_the_good_file_loads(ask, kind): assert ask(kind, GOOD[kind]) == 'loaded'

def test_truncated(ask):
    def test(example):
        kind, share, junk = example
        outcome = ask(kind, GOOD[kind][:int(share*len(GOOD[kind]))] + junk, original=kind in CHECKED)
        assert outcome == 'refused' or junk     # a zip bears other bytes behind its directory
        return outcome
    strategy = st.tuples(kinds, st.floats(0, 1, exclude_max=True), st.one_of(st.just(b''), st.binary(max_size=40)))
    assert fuzz(test, strategy)['refused'] > .99*N

def test_flipped_bytes(ask):
    """A zip has checksums, and so have our own files: what loads nevertheless (a date in a zip was hit) has the original weights. Foreign
    safetensors and PyTorch's oldest files have none: there a flipped number is what the file says."""
    def test(example):
        kind, flips = example
        content = bytearray(GOOD[kind])
        for at, bits in flips: content[int(at*len(content))] ^= bits
        return ask(kind, bytes(content), original=kind in CHECKED)
    def near(kind): # headers and the directory at the end are more fun than the numbers
        place = st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, .1), st.floats(.9, 1, exclude_max=True))
        return st.tuples(st.just(kind), st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=3))
    assert fuzz(test, kinds.flatmap(near))['refused'] > N/2

def test_wrong_types(ask):
    good = {'npz': {'<f2', '<f4', '<f8'}, 'safetensors': {'F16', 'F32', 'F64'}, 'torch': {'<f2', '<f4', '<f8'}}
    good['own'], good['legacy'] = good['safetensors'], good['torch']
    def test(example):
        kind, at, t, converted = example
        pairs = list(KINDS[kind][0].items())
        i = at % len(pairs)
        name, a = pairs[i]
        if kind in ('npz', 'torch', 'legacy'):
            t = sorted(NPY)[t % len(NPY)]
            if kind != 'npz' and (NPY[t].kind in 'SU' or t == '>f4'): t = '<i8'     # PyTorch knows none of these
            pairs[i] = name, (a.astype(NPY[t]) if converted or NPY[t].itemsize != 4 else a.view(NPY[t]))
            content = KINDS[kind][1](pairs)
        else:
            t = sorted([*ST, 'BF16', 'F8_E4M3', 'C64', 'Q', ''])[t % (len(ST) + 5)]
            if converted and t in ST: pairs[i] = name, a.astype(ST[t])
            content = KINDS[kind][1](pairs, types={i: t})
        outcome = ask(kind, content)
        assert outcome == 'refused' or t in good[kind] or t == 'BF16'
        return outcome
    seen = fuzz(test, st.tuples(kinds, st.integers(0, 99), st.integers(0, 99), st.booleans()))
    assert seen['refused'] > N/4 and seen['loaded'] > N/20

def test_wrong_shapes(ask):
    def test(example):
        kind, at, how, n = example
        pairs = list(KINDS[kind][0].items())
        i = at % len(pairs)
        name, a = pairs[i]
        pairs[i] = name, np.ascontiguousarray({
            'one more': lambda: np.concatenate([a, a[:n]]) if a.ndim and a.shape[0] >= n else np.concatenate([a]*(n + 1)), 'fewer': lambda: a[..., :-1],
            'flat': lambda: a.reshape(-1)[:, None], 'extra axis': lambda: a[None], 'empty': lambda: a[:0],
            'reversed': lambda: a.T if a.ndim > 1 and a.shape != a.shape[::-1] else a[None]}[how]())
        return ask(kind, KINDS[kind][1](pairs))
    hows = st.sampled_from(['one more', 'fewer', 'flat', 'extra axis', 'empty', 'reversed'])
    assert fuzz(test, st.tuples(kinds, st.integers(0, 999), hows, st.integers(1, 8)))['loaded'] == 0

def test_not_finite(ask):
    def test(example):
        kind, at, where, value, compress = example
        pairs = list(KINDS[kind][0].items())
        i = at % len(pairs)
        name, a = pairs[i]
        a = a.astype('f8' if value == 1e300 else 'f4')
        a.flat[where % a.size] = value
        pairs[i] = name, a
        return ask(kind, write_npz(pairs, compress) if kind == 'npz' else KINDS[kind][1](pairs))
    values = st.sampled_from([np.nan, np.inf, -np.inf, 1e300])
    assert fuzz(test, st.tuples(kinds, st.integers(0, 999), st.integers(0, 999), values, st.booleans()))['loaded'] == 0

def test_absurd_sizes(ask):
    "Lengths and offsets in the headers of zips, arrays and safetensors, replaced by other numbers."
    sizes = st.one_of(st.integers(0, 2**16), st.sampled_from([2**k + d for k in (16, 20, 31, 32, 40, 62, 63) for d in (-1, 0, 1)]), st.integers(0, 2**64 - 1))
    def zip_sizes(content, field, at, value):
        out, sign, offsets = bytearray(content), b'PK\1\2' if field < 5 else b'PK\3\4', {0: (16, 4), 1: (20, 4), 2: (24, 4), 3: (42, 4), 4: (28, 2), 5: (18, 4), 6: (22, 4), 7: (26, 2), 8: (28, 2)}
        places, p = [], out.find(sign)
        while p >= 0: places.append(p); p = out.find(sign, p + 1)
        off, n = offsets[field]
        p = places[at % len(places)] + off
        out[p:p+n] = (value % 2**(8*n)).to_bytes(n, 'little')
        return bytes(out)
    def array_sizes(at, value, compress):
        members = {name: io.BytesIO() for name in KINDS['npz'][0]}
        for name, f in members.items(): np.lib.format.write_array(f, KINDS['npz'][0][name])
        name = sorted(members)[at % len(members)]
        f, shape = io.BytesIO(), list(KINDS['npz'][0][name].shape)
        shape[at % len(shape)] = value
        np.lib.format.write_array_header_1_0(f, dict(descr='<f4', fortran_order=False, shape=tuple(shape)))
        zeros = bytes(min(value*4, 2**22) if compress else 0)   # a small bomb
        members[name] = io.BytesIO(f.getvalue() + KINDS['npz'][0][name].tobytes() + zeros)
        out = io.BytesIO()
        with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED, compresslevel=1) as z:
            for name, f in members.items(): z.writestr(f'{name}.npy', f.getvalue())
        return out.getvalue()
    def header_sizes(kind, at, value, which):
        content = GOOD[kind]
        n, = struct.unpack('<Q', content[:8])
        if which == 0: return struct.pack('<Q', value % 2**64) + content[8:]
        header = json.loads(content[8:8+n])
        name = sorted(k for k in header if k != '__metadata__')[at % (len(header) - ('__metadata__' in header))]
        if which == 1: header[name]['shape'][0] = value
        else: header[name]['data_offsets'][which - 2] = value
        header = json.dumps(header).encode()
        return struct.pack('<Q', len(header)) + header + content[8+n:]
    def test(example):
        kind, at, value, which, compress = example
        if kind in ('own', 'safetensors'): content = header_sizes(kind, at, value, which % 4)
        elif kind == 'npz' and which >= 6: content = array_sizes(at, value, compress)
        else: content = zip_sizes(GOOD[kind], which % 9, at, value)
        return ask(kind, content)
    assert fuzz(test, st.tuples(st.sampled_from(sorted(KINDS.keys() - {'legacy'})), st.integers(0, 99), sizes, st.integers(0, 11), st.booleans()))['refused'] > N/2

def test_duplicates(ask):
    def test(example):
        kind, at, other, same = example
        pairs = list(KINDS[kind][0].items())
        name, a = pairs[at % len(pairs)]
        twin = (f'module.{name}' if kind in ('torch', 'legacy') else name), a if same else a + 1
        pairs.insert(other % (len(pairs) + 1), twin)
        if kind == 'npz' and other % 3 == 0 and not name.endswith('.npy'): # the same array under a name that means the same
            pairs = [(f'opt/target/{n}', v) if v is twin[1] and n == twin[0] and i == other % (len(pairs)) else (n, v) for i, (n, v) in enumerate(pairs)]
        return ask(kind, KINDS[kind][1](pairs))
    assert fuzz(test, st.tuples(kinds, st.integers(0, 999), st.integers(0, 999), st.booleans()))['loaded'] == 0

def test_renamed(ask):
    def test(example):
        kind, at, how, text, n = example
        pairs = list(KINDS[kind][0].items())
        i, j = at % len(pairs), n % len(pairs)
        name, a = pairs[i]
        pairs[i] = {'other': text, 'longer': name + text, 'cut': name[:-1 - n % 5], 'upper': name.upper(), 'number': name.replace('0', str(n)),
                    'inside': name[:n % len(name)] + text + name[n % len(name):]}[how], a
        if how == 'swap': pairs[i], pairs[j] = (name, pairs[j][1]), (pairs[j][0], a)
        if kind == 'own' and len(dict(pairs)) == len(pairs) and '__metadata__' in dict(pairs): return 'refused'   # not a tensor's name
        return ask(kind, KINDS[kind][1](pairs))
    texts = st.one_of(st.text(max_size=12), st.sampled_from(['__metadata__', '.npy', '/', '..', 'module.', 'opt/target/', 'head/kernel', 'mask_token', '\0', '\ud7ff']))
    hows = st.sampled_from(['other', 'longer', 'cut', 'upper', 'number', 'inside'])
    assert fuzz(test, st.tuples(kinds, st.integers(0, 999), hows, texts, st.integers(0, 999)))['refused'] > N/2

def test_swapped(ask):
    "Two tensors under each other's names: refused when their shapes differ, and otherwise just what the file says."
    def test(example):
        kind, i, j = example
        pairs = list(KINDS[kind][0].items())
        i, j = i % len(pairs), j % len(pairs)
        (a, x), (b, y) = pairs[i], pairs[j]
        pairs[i], pairs[j] = (a, y), (b, x)
        outcome = ask(kind, KINDS[kind][1](pairs))
        assert (outcome == 'loaded') == (x.shape == y.shape)
        return outcome
    fuzz(test, st.tuples(kinds, st.integers(0, 9999), st.integers(0, 9999)))
