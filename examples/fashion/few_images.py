"""Fashion-MNIST cut small: 6,000 images to train on, 6,000 for val, its own 10,000 for test. few_images.py OUT.npz

The files come from Debian's package dataset-fashion-mnist where that is installed, else torchvision downloads them.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from torchvision.datasets import FashionMNIST

TRAIN, VAL = 6_000, 6_000
debian = Path("/usr/share/datasets/fashion-mnist")
if not debian.is_dir():
    FashionMNIST("fashion-mnist", download=True)
folder = debian if debian.is_dir() else Path("fashion-mnist/FashionMNIST/raw")


def array(name: str, header: int) -> np.ndarray:
    """The bytes of an IDX file after its header."""
    return np.frombuffer(gzip.decompress((folder / f"{name}.gz").read_bytes()), np.uint8, offset=header)


images = {part: array(f"{part}-images-idx3-ubyte", 16).reshape(-1, 28, 28) for part in ("train", "t10k")}
labels = {part: array(f"{part}-labels-idx1-ubyte", 8) for part in ("train", "t10k")}
order = np.random.default_rng(0).permutation(len(images["train"]))
train, val = order[:TRAIN], order[TRAIN : TRAIN + VAL]
np.savez(
    sys.argv[1],
    train_images=images["train"][train],
    train_labels=labels["train"][train],
    val_images=images["train"][val],
    val_labels=labels["train"][val],
    test_images=images["t10k"],
    test_labels=labels["t10k"],
)
