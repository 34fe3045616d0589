"The same Vision Transformer from four libraries, with random weights, taking images (B,3,H,W) and giving logits (B,K)."
from dataclasses import replace

import torch
from vit_course.vit import CONFIGS, VisionTransformer

PEERS = ('this', 'timm', 'torchvision', 'Hugging Face')


class Logits(torch.nn.Module):
    def __init__(self, model): super().__init__(); self.model = model
    def forward(self, x): return self.model(x).logits


def make(peer, name='ViT-B_16', num_classes=10):
    "One of the `PEERS` in the sizes of a name in `CONFIGS`; on every peer's default attention, which is fused."
    torch.manual_seed(0)
    c = replace(CONFIGS[name], num_classes=num_classes)
    if peer == 'this': return VisionTransformer(c)
    if peer == 'timm':
        from timm.models.vision_transformer import VisionTransformer as V
        return V(c.img_size, c.patch_size, 3, num_classes, embed_dim=c.dim, depth=c.depth, num_heads=c.heads, mlp_ratio=c.mlp_dim/c.dim)
    if peer == 'torchvision':
        from torchvision.models import VisionTransformer as V
        return V(c.img_size, c.patch_size, c.depth, c.heads, c.dim, c.mlp_dim, num_classes=num_classes)
    from transformers import ViTConfig, ViTForImageClassification
    return Logits(ViTForImageClassification(ViTConfig(hidden_size=c.dim, num_hidden_layers=c.depth, num_attention_heads=c.heads, intermediate_size=c.mlp_dim, image_size=c.img_size,
                                                      patch_size=c.patch_size, num_labels=num_classes, hidden_dropout_prob=0., attention_probs_dropout_prob=0.)))
