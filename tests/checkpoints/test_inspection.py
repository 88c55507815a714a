"""What inspect finds, against numbers worked out by hand."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lptool.checkpoints.inspection import inspect_files, not_nested
from lptool.checkpoints.reading import load_pool


def write(path: Path, weight: list[list[float]]) -> Path:
    save_file({"w": torch.tensor(weight), "bn.running_mean": torch.zeros(5)}, path)
    return path


def test_two_by_two(tmp_path: Path) -> None:
    dense = write(tmp_path / "dense.safetensors", [[1.0, 2.0], [3.0, 0.0]])
    sparse = write(tmp_path / "sparse.safetensors", [[0.0, 2.0], [0.0, 7.0]])
    found = inspect_files([sparse, dense])
    first, second = found.findings
    assert found.problems == ()
    assert [f.summary.file for f in (first, second)] == [str(dense), str(sparse)]
    assert first.neighbours is None
    assert second.neighbours is not None
    assert not second.neighbours.nested
    assert second.neighbours.overlap == 0.5
    assert second.neighbours.distance == pytest.approx((1 + 9 + 49) ** 0.5)
    assert (second.parameters, second.nonzero) == (4, 2)
    assert second.layers == [("w", (2, 2), 0.5)]
    assert "not nested in" in second.warnings[0]
    assert any("every exact zero counts as pruned" in line for line in found.warnings)


def test_two_runs_without_headers_are_told_by_their_densities(tmp_path: Path) -> None:
    weights = torch.arange(1.0, 9.0).reshape(2, 4)
    kept = {"a": [0, 1, 2, 3], "b": [0, 5, 6, 7]}  # of each run, the last to go first
    files = {
        run: [
            write(tmp_path / f"{run}{count}.safetensors", _only(weights + len(run) * count, places[:count]))
            for count in (4, 2)
        ]
        for run, places in kept.items()
    }
    for dense in ([], [write(tmp_path / "dense.safetensors", weights.tolist())]):
        both = [*dense, *files["a"], *files["b"]]
        (line,) = [line for line in inspect_files(both).warnings if "these look like 2 runs" in line]
        assert line in not_nested(load_pool(both).summaries)
        for alone in ([*dense, *files["a"]], [*both[:-1]]):
            assert not any("look like" in line for line in inspect_files(alone).warnings)
            assert not any("look like" in line for line in not_nested(load_pool(alone).summaries))


def _only(weights: torch.Tensor, places: list[int]) -> list[list[float]]:
    mask = torch.zeros(weights.numel()).index_fill(0, torch.tensor(places), 1)
    found: list[list[float]] = (weights * mask.reshape(weights.shape)).tolist()
    return found


def test_a_matrix_that_layers_share_counts_once(tmp_path: Path) -> None:
    one, other = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    state = {"a.w": one, "b.w": one.clone(), "c.w": other, "a.bias": torch.ones(2), "c.bias": torch.ones(2)}
    save_file(state | {"zero": torch.zeros(2, 2), "again": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    (finding,) = inspect_files([tmp_path / "a.safetensors"]).findings
    assert (finding.parameters, finding.nonzero) == (4 + 4 + 2 + 2 + 4 + 4, 3 + 2 + 2 + 2)


def test_a_real_run_is_nested(tickets: list[Path]) -> None:
    found = inspect_files(tickets)
    assert (found.problems, found.warnings) == ((), ())
    findings = found.findings
    assert [f.summary.metadata.level for f in findings] == [0, 1, 2, 3]
    for finding in findings[1:]:
        assert finding.neighbours is not None
        assert finding.neighbours.nested
        assert finding.neighbours.overlap == 1.0
        assert finding.warnings == ()
    state = load_file(tickets[2])
    conv = [t for name, t in state.items() if "conv" in name]
    kept = sum(int(t.count_nonzero()) for t in conv)
    assert findings[2].summary.density() == kept / sum(t.numel() for t in conv)


def test_problems_are_reported_and_not_raised(tmp_path: Path) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"w": torch.tensor([[0.0, 1.0]])}, a)
    save_file({"v": torch.tensor([[float("inf"), 1.0]])}, b)
    found = inspect_files([a, b])
    findings, problems = found.findings, found.problems
    assert len(findings) == 2
    assert any("inf" in warning for finding in findings for warning in finding.warnings)
    assert any("lacks" in problem for problem in problems)
    assert any(": has" in problem for problem in problems)


def test_one_file_is_no_pool_and_no_problem(tickets: list[Path]) -> None:
    found = inspect_files(tickets[:1])
    assert (len(found.findings), found.problems) == (1, ())
