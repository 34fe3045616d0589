"""What each process of test_distributed.py runs, and the test itself as a single one: `together.py FOLDER` trains the `RUNS` in float64, and one
step of a sharded model when there are several processes."""
import json, sys
from pathlib import Path

import torch
from torch import distributed as dist
from vit_course.finetune import FinetuneConfig, finetune, get_learner
from vit_course.tools.distributed import current_group
from vit_course.vit import create_vit

RUNS = {'sgd': dict(optimizer='sgd', learning_rate=0.1, train_batch_size=8),
        'unequal': dict(optimizer='sgd', learning_rate=0.1, train_batch_size=7),                                    # slices of 4 and 3
        'parts': dict(optimizer='sgd', learning_rate=0.1, train_batch_size=7, gradient_accumulation_steps=3),       # 2, 1, 1 and 1, 1, 1
        'adamw': dict(optimizer='adamw', learning_rate=1e-2, train_batch_size=7, gradient_accumulation_steps=2)}
DROPOUT = dict(model_type='testing', device='cpu', num_steps=80, eval_every=20, set=dict(drop=0.1))


def double(cfg):
    "A learner that computes in float64."
    learn = get_learner(cfg)
    learn.model.double()
    torch.manual_seed(1); torch.nn.init.normal_(learn.model.head.weight, std=0.02)
    for dl in learn.dls.loaders: dl.prepare = lambda *a, prepare=dl.prepare: (lambda x, y: (x.double(), y))(*prepare(*a))
    return learn


def sharded_loss(shard):
    "Losses of two steps of AdamW, the model whole or in shards over all processes."
    from torch.distributed.fsdp import fully_shard
    torch.manual_seed(0)
    model = create_vit('testing')
    torch.nn.init.normal_(model.head.weight, std=0.1)
    x, y = torch.randn(8, 3, 16, 16), torch.arange(8)
    if shard:
        mesh = dist.init_device_mesh('cpu', (dist.get_world_size(),))
        for block in model.encoder.blocks: fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        x, y = x.tensor_split(dist.get_world_size())[dist.get_rank()], y.tensor_split(dist.get_world_size())[dist.get_rank()]
    opt, losses = torch.optim.AdamW(model.parameters(), 1e-2), []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward(); opt.step(); opt.zero_grad()
        losses.append(current_group().all_reduce(loss)[0] / current_group().world_size)
    return losses


def main(folder):
    for name, kw in RUNS.items():
        finetune(FinetuneConfig(name, model_type='testing', device='cpu', num_steps=6, eval_every=4, eval_batch_size=20, warmup_steps=0, output_dir=folder, **kw), learner=double, progress=False)
    losses = sharded_loss(dist.is_initialized())
    if current_group().rank == 0: (folder/'losses.json').write_text(json.dumps(losses))


if __name__ == '__main__':
    dist.init_process_group('gloo')
    main(Path(sys.argv[1]))
    finetune(FinetuneConfig('whole', output_dir=sys.argv[1], **DROPOUT), progress=False)
    dist.destroy_process_group()
