"""Every Vision Transformer of timm, torchvision and transformers, loaded with nothing but what is in its file, and held against its own
outputs. What else these libraries have must be refused.

    python benchmarks/families.py                        # report/results/families.json
    python benchmarks/families.py --library timm --match deit3
    python benchmarks/families.py --published            # vit_course/tools/published.json, the table of published models

A model of full size is never made: what the course makes of it is found from a file of its true names and shapes that has a hole
where the numbers should be (a sparse file), once without and once with the config.json that its library writes. Then a model of the
same class and two blocks is filled with noise and saved, loaded with what was found, and both look at the same image.

equal      the fields that were found are those of the library's model, and the outputs agree to 1e-5 (hybrids to 1e-4)
fields     the fields are right, and the model is too large to compare outputs here
asked      refused, and the line asks for a field that nothing says
refused    refused in one line
different  loaded, and the fields or the outputs differ: this must not be
broken     an exception that is no CheckpointError: this must not be, either
unbuilt    the library itself could not build it here
"""
import argparse, json, os, random, re, struct, sys, tempfile, time, warnings
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault('HF_HUB_OFFLINE', '1')
import torch
from torch import nn
from common import ROOT, table, write_result
from vit_course.checkpoints import CheckpointError, inspect_checkpoint, load_checkpoint
from vit_course.patches import pair

LARGEST = 80_000_000     # parameters of a model that is really made
KINDS = {torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.int64: 'I64', torch.int32: 'I32', torch.bool: 'BOOL',
         torch.float64: 'F64', torch.uint8: 'U8'}
VERDICTS = 'equal', 'fields', 'asked', 'refused', 'different', 'broken', 'unbuilt'
HIDDEN = 'heads', 'act', 'norm_eps', 'pool'


# ---- what is common to all libraries

def sparse_file(state, path):
    "A safetensors file with the names and shapes of a state dict, on the meta device or not, and a hole for the numbers."
    header, end = {}, 0
    for name, t in state.items():
        size = t.numel()*t.element_size()
        header[name] = dict(dtype=KINDS[t.dtype], shape=list(t.shape), data_offsets=[end, end + size])
        end += size
    text = json.dumps(header).encode()
    text += b' '*(-len(text) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        f.truncate(8 + len(text) + end)
    return path


def line_of(e):
    "An error as a line without the path in front of it."
    return re.sub(r'^\S+: ', '', str(e))[:300]


def attempt(f, *args, **kwargs):
    "(report, '') or (None, verdict, line) of a call, without its warnings."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: report = f(*args, **kwargs)
        except CheckpointError as e:
            text = line_of(e)
            return None, 'asked' if 'say so, as in' in text else 'refused', text
        except Exception as e: return None, 'broken', f'{type(e).__name__}: {str(e)[:200]}'
    if report.problems: return None, 'refused', report.problems[:300]
    return report, 'equal', ''


def fill(model, seed=0):
    "Noise for every number, so large that heads and activation matter, and scaled so that the tokens stay of the order of one."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=g)
            if p.ndim > 1: p.copy_(noise * (.3 if 1 in p.shape[:-1] else p[0].numel()**-.5))
            else: p.add_(.3 * noise)
    return model.eval()


def compare(peer, report, theirs):
    "The largest difference of outputs, relative to the largest output."
    c = report.model.cfg
    x = torch.randn(1, c.in_chans, *pair(c.img_size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = theirs(peer, x)
        ours = report.model.eval()
        got = ours(x) if want.ndim == 2 else ours.forward_features(x)
    if got.shape != want.shape: return float('inf')
    return ((got - want).abs().max() / want.abs().max()).item()


def fields_differ(cfg, facts):
    """The fields in which a config is not what the library's model has, in words. (Of the families, timm's words for gated MLPs and for
    poolings are others; the outputs decide.)"""
    other = ('pool', 'act') if hasattr(cfg, 'family') else ()
    return ', '.join(f'{f} {getattr(cfg, f)}, not {v}' for f, v in facts.items()
                     if v is not None and getattr(cfg, f) != v and not (f in other and v not in ('gelu', 'gelu_tanh', 'quick_gelu')))


def judge(name, meta, facts, small, theirs, folder, write_config=None, limit=1e-5, **changed):
    """A row for a model: `meta` of full size on the meta device, `facts` of it, `small()` a model of few blocks to be really made,
    `theirs(peer, x)` its outputs, `write_config(model, path)` for the config.json that its library writes. `changed` are fields of the
    small model that differ from the large one's."""
    row, ways = dict(name=name), {'alone': False} | ({'with_config': True} if write_config else {})
    peer = None
    for way, config in ways.items():
        at = folder/way
        at.mkdir(exist_ok=True)
        for p in at.iterdir(): p.unlink()
        sparse_file(meta.state_dict(), at/'model.safetensors')
        if config: write_config(meta, at/'config.json')
        report, row[way], line = attempt(inspect_checkpoint, None, at/'model.safetensors')
        if report:
            found = {f: getattr(report.model.cfg, f) for f in HIDDEN}
            line = fields_differ(report.model.cfg, facts)
            if line: row[way] = 'different'
            elif peer is None:
                peer = small()
                if sum(p.numel() for p in peer.parameters()) > LARGEST: row[way], line, peer = 'fields', 'too large to be made: names, shapes and fields alone', None
                else: fill(peer)
            if peer is not None and not line:
                torch.save(peer.state_dict(), at/'m.pth')
                if config: write_config(peer, at/'config.json')
                else: (at/'config.json').unlink(missing_ok=True)
                given = {} if config else found | changed
                if hasattr(report.model.cfg, 'family') and not config: given['family'] = report.model.cfg.family
                if report.model.cfg.pos_embed == 'none': given['grid'] = tuple(peer.patch_embed.grid_size)   # rotary: in no shape
                again, verdict, problem = attempt(load_checkpoint, None, at/'m.pth', **given)
                if again is None: row[way], line = verdict, f'two blocks: {problem}'
                else:
                    difference = compare(peer, again, theirs)
                    row['difference'] = max(row.get('difference', 0), float(f'{difference:.1e}'))
                    if not difference < limit: row[way], line = 'different', f'outputs {difference:.1e} apart'
        if line and line != row.get('alone_line'): row[f'{way}_line'] = line
    return row


def rows_of(names, folder, build, describe):
    "A row for each name: `build(name)` on the meta device, `describe(name, meta)` the rest of what `judge` wants."
    for name in names:
        try: meta = build(name)
        except Exception as e: yield dict(name=name, alone='unbuilt', alone_line=f'{type(e).__name__}: {str(e)[:120]}')
        else:
            what = describe(name, meta)
            yield judge(name, meta, folder=folder, **what) | dict(vit=bool(what['facts']))


# ---- timm

def act_of(module):
    "Our name for an activation, or the library's."
    kind = type(module).__name__
    if kind in ('GELUTanh', 'PytorchGELUTanh', 'GELUTanhActivation') or getattr(module, 'approximate', 'none') == 'tanh': return 'gelu_tanh'
    return {'GELU': 'gelu', 'GELUActivation': 'gelu', 'QuickGELU': 'quick_gelu', 'QuickGELUActivation': 'quick_gelu', 'SiLU': 'silu'}.get(kind, kind)


def one(values):
    "The value that all have, or None."
    values = set(values)
    return values.pop() if len(values) == 1 else None


def eps_of(model): return one(m.eps for m in model.modules() if re.search('LayerNorm|RmsNorm', type(m).__name__) and hasattr(m, 'eps'))


def timm_facts(model):
    "What no shape shows of a ViT of timm: {field: value or None}; {} for another model."
    blocks = getattr(model, 'blocks', None)
    attn = getattr(blocks[0], 'attn', None) if isinstance(blocks, (nn.Sequential, nn.ModuleList)) and len(blocks) else None
    if not hasattr(attn, 'num_heads') or not hasattr(model, 'patch_embed'): return {}
    acts = [m for n, m in model.named_modules() if re.search(r'^blocks\..*\bmlp\.(act|act_layer)$', n)]
    pool = getattr(model, 'global_pool', None)
    if pool == 'map' and getattr(model, 'pool_include_prefix', False): pool = 'map_all'
    heads = one(getattr(b.attn, 'num_heads', None) for b in blocks if hasattr(b, 'attn'))
    return dict(heads=heads, act=one(map(act_of, acts)), norm_eps=eps_of(model),
                pool={'token': 'cls', 'avg': 'mean'}.get(pool, pool) if isinstance(pool, str) else None)


def timm_models(match=''):
    import timm
    for name in timm.list_models():
        if re.search(match, name): yield name


@contextmanager
def on_meta():
    "Build on the meta device, without the time that it takes to fill nothing with random numbers."
    fills = 'normal_', 'uniform_', 'erfinv_', 'zero_', 'fill_'
    for name in fills: setattr(torch.Tensor, name, lambda t, *args, **kwargs: t)
    try:
        with torch.device('meta'): yield
    finally:
        for name in fills: delattr(torch.Tensor, name)


def timm_meta(name, **kwargs):
    import timm
    with on_meta(): return timm.create_model(name, **kwargs)


def timm_small(name, meta):
    "A model of the same architecture with two blocks and a small image, as far as its constructor allows."
    import timm
    tries = []
    patch = pair(meta.patch_embed.patch_size) if hasattr(meta.patch_embed, 'patch_size') else (16, 16)
    size = tuple(4*p*(8 if hasattr(meta.patch_embed, 'backbone') else 1) for p in patch)
    grid = dict(ref_feat_shape=(4, 4)) if '_pe_' in name else {}     # the grid that its rotary positions count in
    for kw in (dict(depth=2, img_size=size) | grid, dict(depth=2), dict(img_size=size), {}):
        try: small = timm_meta(name, **kw)
        except Exception as e:
            tries.append(e)
            continue
        if sum(p.numel() for p in small.parameters()) <= LARGEST: return timm.create_model(name, **kw).eval()
        return small
    raise tries[0]


def timm_config(model, path):
    from timm.models._hub import save_config_for_hf
    save_config_for_hf(model, str(path))


def timm_row(name, meta):
    limit = 1e-4 if hasattr(getattr(meta, 'patch_embed', None), 'backbone') else 1e-5
    return dict(facts=timm_facts(meta), small=lambda: timm_small(name, meta), theirs=lambda m, x: m(x), write_config=timm_config, limit=limit)


# ---- torchvision

def torchvision_models(match=''):
    from torchvision import models
    return [n for n in models.list_models() if re.search(match, n) and not n.startswith('quantized_')]


def torchvision_meta(name):
    from torchvision import models
    with on_meta(): return models.get_model(name, weights=None, **({'weights_backbone': None} if 'detection' in models.get_model_builder(name).__module__
                                                                              or 'segmentation' in models.get_model_builder(name).__module__ else {}))


def torchvision_facts(model):
    layers = getattr(getattr(model, 'encoder', None), 'layers', None)
    if layers is None or not hasattr(model, 'class_token'): return {}
    return dict(heads=layers[0].num_heads, act=one(act_of(m.mlp[1]) for m in layers), norm_eps=eps_of(model), pool='cls')


def torchvision_small(meta):
    from torchvision.models import VisionTransformer
    return VisionTransformer(4*meta.patch_size, meta.patch_size, 2, meta.encoder.layers[0].num_heads, meta.hidden_dim, meta.mlp_dim,
                             num_classes=meta.num_classes).eval()


def torchvision_row(name, meta):
    return dict(facts=torchvision_facts(meta), small=lambda: torchvision_small(meta), theirs=lambda m, x: m(x))


# ---- transformers

SMALL = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, mlp_ratio=2, image_size=32, patch_size=8,
             num_labels=5, decoder_hidden_size=48, decoder_num_hidden_layers=1, decoder_num_attention_heads=4, decoder_intermediate_size=96,
             num_key_value_heads=4, head_dim=12, mask_ratio=0.)


def hf_models(match=''):
    "Names of the classes for images that transformers has, with and without a head."
    import transformers
    from transformers.models.auto import modeling_auto as auto
    transformers.utils.logging.set_verbosity_error()
    names = [n for m in (auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_MAPPING_NAMES) for v in m.values()
             for n in (v if isinstance(v, tuple) else (v,))]
    return sorted({n for n in names if re.search(match, n)})


def hf_config(name, **changes):
    import transformers
    kind = getattr(transformers, name).config_class
    known = kind()
    return kind(**{k: v for k, v in changes.items() if hasattr(known, k)})


def hf_facts(model):
    "From its config, when it is one of a Vision Transformer of a single width."
    c = model.config
    if not all(isinstance(getattr(c, k, None), int) for k in ('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'patch_size')): return {}
    acts = {'gelu': 'gelu', 'gelu_new': 'gelu_tanh', 'gelu_pytorch_tanh': 'gelu_tanh'}
    act = getattr(c, 'hidden_act', None)
    return dict(heads=c.num_attention_heads, act=acts.get(act, act), norm_eps=getattr(c, 'layer_norm_eps', None), pool=None)


def hf_output(model, x):
    patches = x.shape[-2]*x.shape[-1] // SMALL['patch_size']**2
    in_order = {'noise': torch.arange(patches)[None].float()} if hasattr(model.config, 'mask_ratio') and 'MAE' in type(model).__name__ else {}
    out = model(pixel_values=x, **in_order)     # a masked autoencoder shuffles its patches by this noise
    logits = getattr(out, 'logits', None)
    return out.last_hidden_state if logits is None else logits


def hf_meta(name, **changes):
    import transformers
    with on_meta(): return getattr(transformers, name)(hf_config(name, **changes))


def hf_small(name):
    import transformers
    if sum(p.numel() for p in hf_meta(name, **SMALL).parameters()) > LARGEST: return nn.Linear(LARGEST + 1, 1, device='meta')
    return getattr(transformers, name)(hf_config(name, **SMALL)).eval()


def hf_row(name, meta):
    def write(model, path): path.write_text(model.config.to_json_string(use_diff=False))
    return dict(facts=hf_facts(meta), small=lambda: hf_small(name), theirs=hf_output, write_config=write, heads=SMALL['num_attention_heads'])


LIBRARIES = dict(timm=(timm_models, timm_meta, timm_row), torchvision=(torchvision_models, torchvision_meta, torchvision_row),
                 transformers=(hf_models, hf_meta, hf_row))


def sweep(library, match='', folder=None, sample=None, seed=0):
    "A row for each model of a library, or for a seeded sample of them."
    models, build, describe = LIBRARIES[library]
    names = list(models(match))
    if sample: names = sorted(random.Random(seed).sample(names, min(sample, len(names))))
    if folder: yield from rows_of(names, Path(folder), build, describe)
    else:
        with tempfile.TemporaryDirectory() as folder: yield from rows_of(names, Path(folder), build, describe)


def counts(rows):
    "{way: {verdict: how many}}"
    return {way: {v: n for v in VERDICTS if (n := sum(r.get(way) == v for r in rows))} for way in ('alone', 'with_config')
            if any(way in r for r in rows)}


# ---- the table of published models

OURS = {   # format: (source, {names: fields of our `ViTConfig`}), where no library that is installed has the published models
    'hf': ('config.json of these models on huggingface.co', {
        'facebook/deit-tiny-patch16-224': dict(dim=192, heads=3, mlp_dim=768, norm_eps=1e-12),
        'facebook/deit-small-patch16-224 facebook/dino-vits16': dict(dim=384, heads=6, mlp_dim=1536, norm_eps=1e-12),
        'facebook/dino-vits8': dict(patch_size=8, dim=384, heads=6, mlp_dim=1536, norm_eps=1e-12),
        'google/vit-base-patch16-224 facebook/deit-base-patch16-224 facebook/dino-vitb16': dict(norm_eps=1e-12),
        'facebook/dino-vitb8': dict(patch_size=8, norm_eps=1e-12),
        'google/vit-base-patch32-384': dict(patch_size=32, img_size=384, norm_eps=1e-12),
        'google/vit-large-patch16-224': dict(dim=1024, depth=24, heads=16, mlp_dim=4096, norm_eps=1e-12),
        'google/vit-large-patch32-384': dict(patch_size=32, img_size=384, dim=1024, depth=24, heads=16, mlp_dim=4096, norm_eps=1e-12),
        'google/vit-huge-patch14-224-in21k': dict(patch_size=14, dim=1280, depth=32, heads=16, mlp_dim=5120, norm_eps=1e-12),
        'facebook/vit-msn-small': dict(dim=384, heads=6, mlp_dim=1536), 'facebook/vit-msn-base': dict(),
        'facebook/vit-msn-large': dict(dim=1024, depth=24, heads=16, mlp_dim=4096),
        'facebook/dinov2-small': dict(patch_size=14, dim=384, heads=6, mlp_dim=1536, layer_scale=1.),
        'facebook/dinov2-base': dict(patch_size=14, layer_scale=1.),
        'facebook/dinov2-large': dict(patch_size=14, dim=1024, depth=24, heads=16, mlp_dim=4096, layer_scale=1.),
        'facebook/dinov2-with-registers-small': dict(patch_size=14, dim=384, heads=6, mlp_dim=1536, layer_scale=1., registers=4),
        'facebook/dinov2-with-registers-base': dict(patch_size=14, layer_scale=1., registers=4),
        'facebook/dinov2-with-registers-large': dict(patch_size=14, dim=1024, depth=24, heads=16, mlp_dim=4096, layer_scale=1., registers=4)}),
    'dinov2': ('hubconf.py of facebookresearch/dinov2', {
        'dinov2_vits14': dict(patch_size=14, dim=384, heads=6, mlp_dim=1536, layer_scale=1.),
        'dinov2_vitb14': dict(patch_size=14, layer_scale=1.),
        'dinov2_vitl14': dict(patch_size=14, dim=1024, depth=24, heads=16, mlp_dim=4096, layer_scale=1.),
        'dinov2_vits14_reg': dict(patch_size=14, dim=384, heads=6, mlp_dim=1536, layer_scale=1., registers=4),
        'dinov2_vitb14_reg': dict(patch_size=14, layer_scale=1., registers=4),
        'dinov2_vitl14_reg': dict(patch_size=14, dim=1024, depth=24, heads=16, mlp_dim=4096, layer_scale=1., registers=4)})}


def library_state(cfg, fmt):
    "Names and shapes of our model as a library keeps them, on the meta device."
    from vit_course.tools.load_plan import empty_model
    from vit_course.tools.weight_files import LAYOUTS, locate_tensor
    state = {}
    for key, w in empty_model(cfg).state_dict().items():
        names, layout = locate_tensor(fmt, key)
        for name, part in zip(names, w.chunk(len(names))): state[name] = LAYOUTS[layout][1](part, cfg.heads)
    return state | ({'mask_token': torch.empty(1, cfg.dim, device='meta')} if fmt == 'dinov2' else {})


def published(folder):
    "The rows of the table: models of one library with the same signature and the same fields are one row."
    from vit_course.tools.weight_config import signature_of
    from vit_course.tools.weight_files import open_checkpoint, recognise
    from vit_course.vit import ViTConfig
    rows = {}
    def add(name, source, state, facts):
        if not facts: return
        with open_checkpoint(sparse_file(state, folder/'model.safetensors')) as file:
            recognise(file)
            key = dict(source=source) | signature_of(file) | {f: facts[f] for f in HIDDEN}
        rows.setdefault(json.dumps(key), []).append(name)
    for library, models, meta, facts in (('timm', timm_models, timm_meta, timm_facts),
                                         ('torchvision', torchvision_models, torchvision_meta, torchvision_facts)):
        for name in models('vit_' if library == 'torchvision' else ''):
            try: model = meta(name)
            except Exception: continue
            if found := facts(model):
                try: add(name, f'{library} {version(library)}', model.state_dict(), found)
                except CheckpointError: continue
    for fmt, (source, ours) in OURS.items():
        for names, kw in ours.items():
            cfg = ViTConfig(num_classes=0, **kw)
            for name in names.split(): add(name, source, library_state(cfg, fmt), {f: getattr(cfg, f) for f in HIDDEN})
    return [json.loads(key) | dict(names=names) for key, names in rows.items()]


def write_published(path):
    with tempfile.TemporaryDirectory() as folder: rows = published(Path(folder))
    about = dict(made_by='python benchmarks/families.py --published', timm=version('timm'), torchvision=version('torchvision'))
    lines = ',\n'.join(json.dumps(row) for row in rows)
    Path(path).write_text(f'{{"about": {json.dumps(about)},\n"models": [\n{lines}\n]}}\n', encoding='utf-8')
    print(f'{path}: {len(rows)} rows, {sum(len(r["names"]) for r in rows)} models')


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--library', choices=LIBRARIES, nargs='+', default=list(LIBRARIES))
    p.add_argument('--match', default='', help='a regular expression for names')
    p.add_argument('--sample', type=int, help='so many of each library alone')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--published', action='store_true', help='write the table of published models instead')
    p.add_argument('--out', type=Path, default=ROOT/'report'/'results'/'families.json')
    args = p.parse_args()
    if args.published: sys.exit(write_published(ROOT/'vit_course'/'tools'/'published.json'))
    results, start = {}, time.perf_counter()
    for library in args.library:
        results[library] = []
        for row in sweep(library, args.match, sample=args.sample, seed=args.seed):
            results[library].append(row)
            print(f"{time.perf_counter() - start:6.0f} s  {library:12} {row['name']:50} {row.get('alone', ''):10}{row.get('with_config', '')}", flush=True)
    found = {library: dict(models=len(rows), vits=sum(r.get('vit', False) for r in rows), **counts(rows)) for library, rows in results.items()}
    print(json.dumps(found, indent=1))
    versions = {library: version(library) for library in args.library}
    write_result(args.out, libraries=versions, counts=found, rows=results)
    bad = [r['name'] for rows in results.values() for r in rows if {'different', 'broken'} & {r.get('alone'), r.get('with_config')}]
    if bad: print('different or broken:', ', '.join(bad))
    sys.exit(bool(bad))
