"""Images per second of the input path beside those of the model, and of the homework's way (PIL, one at a time), in one run."""
import statistics, time

import torch
from common import table
from torchvision import transforms as T
from vit_course.data import ImageSet, TrainBatches
from vit_course.vit import create_vit

device = 'cuda' if torch.cuda.is_available() else 'cpu'


def rate(f, images, repeat=5):
    f(0); times = []
    for i in range(repeat):
        if device == 'cuda': torch.cuda.synchronize()
        start = time.perf_counter(); f(i)
        if device == 'cuda': torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return images / statistics.median(times)


rows = []
for name, stored, bs in (('ViT-digits', 8, 64), ('ViT-tiny_4', 32, 64), ('ViT-B_16', 32, 64 if device == 'cuda' else 8)):
    model = create_vit(name).to(device)
    size = model.cfg.img_size
    x = torch.randint(0, 256, (1024, 3, stored, stored), dtype=torch.uint8)
    loader = TrainBatches(ImageSet(x, torch.zeros(len(x), dtype=torch.long)), bs, size, ['a']).to(device)
    one = T.Compose([T.RandomResizedCrop(size, (.05, 1)), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize([.5]*3, [.5]*3)])
    pil_images = [T.functional.to_pil_image(i) for i in x[:bs]]
    images, labels = loader.batch(0)

    def train_step(_):
        torch.nn.functional.cross_entropy(model(images), labels).backward(); model.zero_grad()

    ours, theirs, net = rate(loader.batch, bs), rate(lambda i: torch.stack([one(p) for p in pil_images]), bs), rate(train_step, bs)
    rows.append({'model': name, 'pixels': f'{stored} to {size}', 'batch': bs, 'input img/s': ours, 'PIL img/s': theirs, 'model img/s': net,
                 'input / PIL': ours/theirs, 'input / model': ours/net})
print(f'device: {device}, {torch.get_num_threads()} threads'); table(rows)
