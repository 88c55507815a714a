"""`lptool predict` as a person or a script meets it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.writing import save_packed
from tests.helpers.commands import lptool, refused, refused_last, refused_usage


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(load_digits().images[:5]):
        Image.fromarray((image * 255 / 16).astype("uint8")).save(folder / f"{number}.png")
    return folder


def test_predict_shows_what_its_document_says(tickets: list[Path], pictures: Path) -> None:
    result = lptool("predict", tickets[0], pictures, "--top", 2, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [Path(entry["file"]).name for entry in document["pictures"]] == [f"{number}.png" for number in range(5)]
    shown = lptool("predict", tickets[0], pictures, "--top", 2, "--device", "cpu")
    assert shown.exit_code == 0, shown.output
    for entry in document["pictures"]:
        assert len(entry["top"]) == 2
        assert f"{100 * entry['top'][0]['probability']:.2f} %" in shown.stdout
    assert shown.stderr.count("does not say what its classes are called; they have numbers") == 1


def test_any_form_predicts_the_same(tickets: list[Path], pictures: Path, tmp_path: Path) -> None:
    save_packed(load_ticket(tickets[3]), tmp_path / "packed.safetensors")
    for output in ("folder", "prune.pt"):
        assert lptool("convert", tickets[3], tmp_path / output).exit_code == 0
    found = []
    for file in (tickets[3], tmp_path / "packed.safetensors", tmp_path / "folder", tmp_path / "prune.pt"):
        result = lptool("predict", file, pictures, "--json", "--device", "cpu", "--batch-size", 2)
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout)["pictures"])
    assert all(one == found[0] for one in found)


def test_pictures_that_cannot_be_read_are_told_at_the_end(tickets: list[Path], pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("x")
    words = ["predict", tickets[0], tmp_path / "bad.jpg", "--device", "cpu"]
    result = lptool(*words, pictures / "3.png", tmp_path / "none.jpg", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert [Path(entry["file"]).name for entry in document["pictures"]] == ["3.png"]
    assert [Path(entry["file"]).name for entry in document["unreadable"]] == ["bad.jpg", "none.jpg"]
    assert f"Error: 2 of 3 pictures are left out:\n  {tmp_path}/bad.jpg: no picture that Pillow can" in result.stderr
    alone = lptool(*words)
    assert refused_last(alone) == f"Error: {tmp_path}/bad.jpg: no picture that Pillow can read"


def test_wrong_usage_of_predict(tickets: list[Path]) -> None:
    assert "Missing argument 'PICTURE...'" in refused_usage(lptool("predict", tickets[0]))
    assert "'--top'" in refused_usage(lptool("predict", tickets[0], "a.png", "--top", 0))


def test_what_predict_cannot_work_with_is_one_clear_line(tickets: list[Path], pictures: Path, tmp_path: Path) -> None:
    assert "cannot be read" in refused(lptool("predict", tmp_path / "none.safetensors", pictures))
    assert "holds 4 checkpoints, expected one" in refused(lptool("predict", tickets[0].parent, pictures))
    assert "device 'abacus' cannot be used here" in refused(
        lptool("predict", tickets[0], pictures, "--device", "abacus")
    )
