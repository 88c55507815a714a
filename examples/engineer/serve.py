"""Classifies picture files with any form of the model, without lptool.

python serve.py model/config.json MODEL PICTURE…

MODEL is the folder, a dense or packed .safetensors, an .onnx or a .pt2. How pictures are prepared and what the classes
are called is read from config.json. An .onnx needs neither torch nor timm, a .pt2 needs torch alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Array = np.ndarray[Any, Any]


def prepared(picture: str | Path, config: dict[str, Any]) -> Array:
    """One picture as the network takes it: float32 [C, H, W]; upright, the shorter side scaled, cut out."""
    said = config["pretrained_cfg"]
    channels, height, width = said["input_size"]
    if height != width or said["crop_pct"] != 1 or said["interpolation"] != "bilinear":
        raise ValueError("this service knows square images, bilinear, without a margin")
    with Image.open(picture) as opened:
        image = eight_bits(ImageOps.exif_transpose(opened)).convert("L" if channels == 1 else "RGB")
    scale = min(image.size)
    image = image.resize((width * image.width // scale, height * image.height // scale), Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
    normalised = (pixels - np.float32(said["mean"])) / np.float32(said["std"])
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def eight_bits(image: Image.Image) -> Image.Image:
    """A picture of 16 bits with its whole range in 8, as lptool reads it; Pillow alone makes all above 255 white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))


def opened_model(path: Path, config: dict[str, Any]) -> Callable[[Array], Array]:
    """A function from float32 images [B, C, H, W] to logits [B, classes]."""
    if path.suffix == ".onnx":
        return _onnx(path)
    import torch

    model = torch.export.load(path).module() if path.suffix == ".pt2" else _network(path, config).eval()

    def logits(images: Array) -> Array:
        with torch.inference_mode():
            found: Array = model(torch.from_numpy(images)).numpy()
        return found

    return logits


def _onnx(path: Path) -> Callable[[Array], Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def logits(images: Array) -> Array:
        (found,) = session.run(["logits"], {"images": images})
        return np.asarray(found)

    return logits


def _network(path: Path, config: dict[str, Any]) -> Any:
    import timm
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    if path.is_dir():
        return timm.create_model(f"local-dir:{path}", pretrained=True)
    with safe_open(path, "np") as file:
        packed = "lptool_packed" in (file.metadata() or {})
    if packed:
        from read_packed import read_packed  # the file beside this one

        state = {name: torch.from_numpy(array.copy()) for name, array in read_packed(path).items()}
    else:
        state = load_file(path)
    model = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config.get("model_args", {}))
    model.load_state_dict(state)
    return model


def main(config_file: str, model: str, *pictures: str) -> None:
    """Print a line of JSON for each picture."""
    config = json.loads(Path(config_file).read_text(encoding="utf-8"))
    logits = opened_model(Path(model), config)
    names = config.get("label_names") or [str(number) for number in range(config["num_classes"])]
    for picture in pictures:
        (found,) = logits(prepared(picture, config)[None])
        print(json.dumps({"file": picture, "label": names[int(found.argmax())], "logits": found.tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
