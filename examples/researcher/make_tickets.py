"""For readers without tickets: IMP in plain torch on scikit-learn's digits, saved as the published code saves it.

    python make_tickets.py runs/mine digits.npz [SEED]

Writes the images, split into train, val and test, and eight tickets `0model_SA_best.pth.tar`, …
The tickets see train alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from net import Net
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import prune

LEVELS, RATE, EPOCHS, REWIND = 8, 0.3, 5, 1
MEAN, STD = 0.3, 0.4


def save_images(file: Path) -> None:
    """The arrays that `--dataset npz:FILE` reads: images uint8 [N, H, W], labels integers [N]."""
    digits = load_digits()
    images, labels = np.round(digits.images / 16 * 255).astype(np.uint8), digits.target
    order = np.random.default_rng(0).permutation(len(labels))
    parts = {"test": order[:500], "val": order[500:900], "train": order[900:]}
    arrays = {f"{part}_images": images[chosen] for part, chosen in parts.items()}
    np.savez(file, **arrays, **{f"{part}_labels": labels[chosen] for part, chosen in parts.items()})


def train(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Train for all epochs; the weights as they were after epoch `REWIND`."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 4])
    early: dict[str, Tensor] = {}
    model.train()
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        schedule.step()
        if epoch + 1 == REWIND:
            early = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return early


def main(folder: Path, file: Path, seed: int = 0) -> None:
    """Save the images and the tickets."""
    torch.manual_seed(seed)
    save_images(file)
    with np.load(file) as arrays:
        images = (torch.from_numpy(arrays["train_images"])[:, None] / 255 - MEAN) / STD
        labels = torch.from_numpy(arrays["train_labels"])
    folder.mkdir(parents=True, exist_ok=True)
    model = Net()
    early: dict[str, Tensor] = {}
    pruned = [(module, "weight") for module in model.modules() if isinstance(module, nn.Conv2d)]
    for level in range(LEVELS):
        if level:
            prune.global_unstructured(pruned, prune.L1Unstructured, amount=RATE)
            with torch.no_grad():
                for name, tensor in model.state_dict().items():  # rewind everything but the masks
                    if not name.endswith("_mask"):
                        tensor.copy_(early[name.removesuffix("_orig")])
        then = train(model, images, labels)
        early = early or then
        saved = {"state_dict": model.state_dict(), "epoch": EPOCHS, "result": {}, "init_weight": early}
        torch.save(saved, folder / f"{level}model_SA_best.pth.tar")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
