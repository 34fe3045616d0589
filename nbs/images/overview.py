"Draw overview.png, the picture of README and landing page: `python nbs/images/overview.py`."
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, torch
from skimage.data import chelsea
from torch.nn import functional as F
from vit_course.patches import patchify, unpatchify

P, grid = 28, (8, 8)
photo = torch.from_numpy(chelsea()[:, 75:375]).permute(2, 0, 1)[None].float() / 255
photo = F.interpolate(photo, size=(P*grid[0], P*grid[1]), mode='bilinear', antialias=True)
tokens = patchify(photo, P)
query = 3*8 + 3                                             # a patch on the cat
kernel = torch.stack([t.reshape(3, P, P).mean((1, 2)) for t in tokens[0]])
near = (-(kernel - kernel[query]).square().sum(1) * 30).exp().reshape(grid)

fig, axes = plt.subplots(1, 4, figsize=(11, 3), width_ratios=[1, 1.08, 1.2, 1], layout='constrained')
for ax in axes: ax.axis('off')
axes[0].imshow(photo[0].permute(1, 2, 0)); axes[0].set_title('an image')

gap, canvas = 4, torch.ones(8*(P+4), 8*(P+4), 3)
for i, t in enumerate(tokens[0]):
    r, c = divmod(i, 8)
    canvas[r*(P+gap):r*(P+gap)+P, c*(P+gap):c*(P+gap)+P] = t.reshape(3, P, P).permute(1, 2, 0)
axes[1].imshow(canvas); axes[1].set_title('64 patches = 64 tokens')

ax = axes[2]; ax.set(xlim=(0, 10), ylim=(0, 10)); ax.set_title('the Vision Transformer')
def box(x, y, w, h, text, colour): ax.add_patch(plt.Rectangle((x, y), w, h, fc=colour, ec='k', lw=.8)); ax.text(x + w/2, y + h/2, text, ha='center', va='center', fontsize=9)
box(.5, .4, 9, 1.2, 'linear map of each patch + position', '0.92')
box(.5, 2.6, 9, 4.4, '', '0.97')
box(1.2, 3.0, 7.6, 1.4, 'LayerNorm · attention · add', '0.85'); box(1.2, 5.2, 7.6, 1.4, 'LayerNorm · MLP · add', '0.85')
ax.text(9.7, 4.8, '× L', ha='left', va='center', fontsize=9)
box(.5, 8.0, 9, 1.2, 'class token → linear head → logits', '0.92')
for y0, y1 in ((1.6, 2.6), (4.4, 5.2), (7.0, 8.0)): ax.annotate('', (5, y1), (5, y0), arrowprops=dict(arrowstyle='->', lw=.9))

ax = axes[3]; ax.imshow(photo[0].permute(1, 2, 0).mean(-1), cmap='gray')
ax.imshow(near, cmap='magma', alpha=.55, extent=(-.5, 223.5, 223.5, -.5), interpolation='nearest')
r, c = divmod(query, 8); ax.add_patch(plt.Rectangle((c*P, r*P), P, P, fill=False, ec='w', lw=2))
ax.set_title('one patch, compared with all others')
fig.savefig(Path(__file__).parent/'overview.png', dpi=90)
