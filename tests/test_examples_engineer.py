"""The engineer's example, run as it stands: every form of the model gives the same labels."""

from __future__ import annotations

import importlib.util
import io
import json
import runpy
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image

from tests.helpers.commands import lptool
from tests.helpers.pages import ROOT, blocks_of, commands_in

HERE = ROOT / "examples" / "engineer"
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
Line = dict[str, Any]


@pytest.fixture(scope="module")
def served(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Line]]]:
    """The folder of the example's output, and what `serve.py` prints for each form."""
    out = tmp_path_factory.mktemp("engineer")
    script = f"set -- '{image_folder}' '{out}'\n" + (HERE / "engineer.sh").read_text(encoding="utf-8")
    answers: dict[str, list[Line]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        for program, *words in commands_in(script, out):
            if words[0] == "-c" or (not HAS_ONNX and any(word.endswith(".onnx") for word in words)):
                continue
            if program == "lptool":
                result = lptool(*words)
                assert result.exit_code == 0, result.output
            else:
                answers[Path(words[2]).name] = _answers(*words[1:])
    return out, answers


def _answers(*words: str) -> list[Line]:
    printed = io.StringIO()
    with redirect_stdout(printed):
        runpy.run_path(str(HERE / "serve.py"))["main"](*words)
    return [json.loads(line) for line in printed.getvalue().splitlines()]


def logits_of(lines: list[Line]) -> Any:
    return np.stack([line["logits"] for line in lines])


def test_all_forms_give_the_same(served: tuple[Path, dict[str, list[Line]]]) -> None:
    _, answers = served
    packed = {f"{name}.safetensors" for name in ("packed", "bf16", "int8")}
    assert {"model", "dense.safetensors", *packed, "model.pt2"} <= answers.keys()
    assert ("model.onnx" in answers) == HAS_ONNX
    expected = answers["model"]
    assert len(expected) == 24
    for name, lines in answers.items():
        scale = np.abs(logits_of(expected)).max()
        tolerance = 0.03 * scale if name in ("bf16.safetensors", "int8.safetensors") else 1e-4
        np.testing.assert_allclose(logits_of(lines), logits_of(expected), atol=tolerance, rtol=0, err_msg=name)
        margin = np.diff(np.sort(logits_of(expected), 1)[:, -2:], axis=1)[:, 0]
        sure = margin > 2 * tolerance
        same = [a["label"] == b["label"] for a, b in zip(lines, expected, strict=True)]
        assert all(np.asarray(same)[sure]), name


def test_each_form_is_smaller_than_the_one_before(served: tuple[Path, dict[str, list[Line]]]) -> None:
    out, _ = served
    dense, packed, bf16, int8 = ((out / f"{n}.safetensors").stat().st_size for n in ("dense", "packed", "bf16", "int8"))
    assert int8 < bf16 < packed < dense / 2


def test_pictures_are_prepared_as_timm_does(served: tuple[Path, dict[str, list[Line]]], image_folder: Path) -> None:
    out, _ = served
    model = timm.create_model(f"local-dir:{out / 'model'}", pretrained=True)
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    prepared = runpy.run_path(str(HERE / "serve.py"))["prepared"]
    config = json.loads((out / "model" / "config.json").read_text(encoding="utf-8"))
    for file in sorted(image_folder.glob("test/*/*")):
        with Image.open(file) as picture:
            expected = transform(picture.convert("RGB")).numpy()
        np.testing.assert_allclose(prepared(file, config), expected, atol=1e-5, rtol=0, err_msg=str(file))


def test_timm_knows_the_names_of_the_classes(served: tuple[Path, dict[str, list[Line]]]) -> None:
    out, _ = served
    model: Any = timm.create_model(f"local-dir:{out / 'model'}", pretrained=True)
    assert list(model.pretrained_cfg["label_names"]) == ["flower", "sky", "temple"]


def test_the_reader_is_the_one_of_the_page_on_files() -> None:
    (reader,) = [b.text for b in blocks_of(ROOT / "docs" / "format.md") if b.language == "python"]
    _, _, code = (HERE / "read_packed.py").read_text(encoding="utf-8").partition("\n\n")
    assert code == reader
