"""`lptool train` refuses in one clear line."""

from pathlib import Path

from commands import lptool, refused


def test_errors_of_train_and_inspect(tmp_path: Path) -> None:
    assert "unknown preset 'quick'" in refused(lptool("train", "-o", tmp_path / "r", "--preset", "quick"))
    assert "rate: expected in (0, 1), found 2.0" in refused(lptool("train", "-o", tmp_path / "r", "--rate", 2))
    assert "cannot be read" in refused(lptool("inspect", tmp_path / "none.safetensors"))
    assert "no checkpoint in it" in refused(lptool("inspect", tmp_path))
    assert list(tmp_path.iterdir()) == []
