"""Plug a mechanism into a network, fine-tune it in a plain loop, look at the gates, and save it.

    python examples/plug_and_fine_tune.py

About 15 seconds on two cores. The host is a small ResNet that is trained here first; in practice it is
``timm.create_model("resnet50", pretrained=True)``.
"""

from __future__ import annotations

import tempfile
import time

import timm
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import saccade
import saccade.models  # registers resnet10_small with timm
from saccade.data import open_data
from saccade.recipe import Data


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: DataLoader) -> float:
    """Train for one epoch; return the mean loss."""
    model.train()
    total = 0.0
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(batches)


@torch.no_grad()
def accuracy(model: torch.nn.Module, batches: DataLoader) -> float:
    """Return the top-1 accuracy in %."""
    model.eval()
    correct = [(model(images).argmax(1) == labels).float() for images, labels in batches]
    return 100 * torch.cat(correct).mean().item()


def main() -> None:
    """Run the example."""
    torch.manual_seed(0)
    start = time.monotonic()
    scenes = {"clutter": 0, "distractors": 0}  # one digit per image
    digits = open_data(Data(source="digits", size=24, train_images=1000, test_images=400, options=scenes), "label")
    batches, test = DataLoader(digits.train, 32, shuffle=True), DataLoader(digits.test, 200)

    options = {"num_classes": 10, "in_chans": digits.channels, "stem_stride": 2, "zero_init_last": False}
    model = timm.create_model("resnet10_small", **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=0.1)
    for epoch in range(5):
        print(f"host, epoch {epoch + 1}: loss {train(model, optimizer, batches):.2f}")
    print(f"host: {accuracy(model, test):.1f} %\n")

    images = next(iter(test))[0]
    before = model(images)
    saccade.plug(model, "se", input=images)
    print(f"largest change of a logit by plugging: {(model(images) - before).abs().max().item()}")
    for row in saccade.plugs(model):
        print(f"  {row.mechanism} at {row.site}: {row.channels} channels, {row.parameters} parameters")

    groups = saccade.parameter_groups(model, lr=2e-3, attention_lr=2e-2, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    for epoch in range(2):
        print(f"with attention, epoch {epoch + 1}: loss {train(model, optimizer, batches):.2f}")
    print(f"with attention: {accuracy(model, test):.1f} %\n")

    with torch.no_grad(), saccade.record(model) as gates:
        model(images)
    for site, gate in gates.items():
        print(f"gate at {site}: mean {gate.mean():.2f}, {gate.std(0).mean():.3f} between images")

    with tempfile.TemporaryDirectory() as folder:
        origin = {"timm": "resnet10_small", "options": options}
        saccade.save(model, folder, host=origin, input=tuple(images.shape[1:]))
        print(f"\nsaved and loaded: same logits {torch.equal(saccade.load(folder)(images), model(images))}")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
