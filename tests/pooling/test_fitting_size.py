"""What a pooled file weighs is reckoned before it is made, and val chooses among what fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lptool.checkpoints.writing import Form, forms_from_whole
from lptool.errors import OutputError
from lptool.pooling.fitting_size import fitting_target, most_bytes
from lptool.pooling.job import pool_target
from lptool.pooling.setup import Bench, PoolOptions, open_bench
from lptool.scoring.score import Score

QUICK = PoolOptions(method="greedy", alphas=(0.5,), calibration_size=64, final_calibration_size=64, device="cpu")
PACKED = Form(packed=True)
FORMS = forms_from_whole(PACKED)


@pytest.fixture(scope="module")
def bench(tickets: list[Path]) -> Bench:
    return open_bench(tickets, QUICK)


def level_and_values(found: tuple[int, Form, str]) -> tuple[int, str | None]:
    return found[0], found[1].values


@pytest.mark.parametrize(
    "changes",
    [{"method": "greedy"}, {"method": "learned", "learning_steps": 2}, {"method": "auto", "fit_images": 64}],
    ids=lambda changes: changes["method"],
)
@pytest.mark.parametrize("form", [PACKED, Form(packed=True, values="int8")], ids=str)
def test_a_pooled_file_is_no_larger_and_not_much_smaller(
    tickets: list[Path], tmp_path: Path, changes: dict[str, object], form: Form
) -> None:
    bench = open_bench(tickets, replace(QUICK, **changes))
    for target in (1, 3):
        result = pool_target(bench, target, tmp_path / f"{target}.safetensors", form=form)
        most, found = most_bytes(bench, target, form), result.output.stat().st_size
        assert found <= most < 1.05 * found + 10_000


@pytest.mark.parametrize("target", [0, 3])
def test_the_bound_holds_for_the_tickets_themselves(bench: Bench, target: int) -> None:
    for form in FORMS:
        assert form.size(bench.pool[target]) <= most_bytes(bench, target, form)


def test_of_what_fits_the_best_on_val_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 1 fits in float32, level 0 in 16 bits alone; of equals the less shortened, then the sparser."""
    bound = most_bytes(bench, 1, PACKED)
    assert most_bytes(bench, 0, FORMS[1]) <= bound < most_bytes(bench, 0, PACKED)
    for correct, expected in (
        ((50, 51, 49, 48), (1, None)),
        ((52, 51, 49, 48), (0, "fp16")),
        ((51, 51, 49, 48), (1, None)),
        ((51, 51, 51, 48), (2, None)),
    ):
        scores = iter([Score(right, 1.0, 100) for right in correct])
        monkeypatch.setattr(Bench, "score", lambda *_, scores=scores: next(scores))
        found = fitting_target(bench, range(4), PACKED, bound)
        assert level_and_values(found) == expected
        assert found[1].most == bound
        assert f"chosen to fit {bound:,} bytes: level {expected[0]}, " in found[2]


def test_val_is_asked_and_test_is_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    own = Bench.score

    def score(self: Bench, state: object, images: object) -> Score:
        seen.append(images)
        return own(self, state, images)  # type: ignore[arg-type]

    monkeypatch.setattr(Bench, "score", score)
    fitting_target(bench, range(4), PACKED, 10**9)
    assert len(seen) == 4
    assert all(images is bench.data.val for images in seen)


def test_what_is_given_is_not_chosen(bench: Bench) -> None:
    assert level_and_values(fitting_target(bench, [2], PACKED, 10**9)) == (2, None)
    assert level_and_values(fitting_target(bench, [2], Form(True, "int8"), 10**9)) == (2, "int8")
    bound = most_bytes(bench, 2, Form(True, "int8"))
    assert level_and_values(fitting_target(bench, [2], PACKED, bound)) == (2, "int8")


def test_the_smallest_is_named_where_nothing_fits(bench: Bench) -> None:
    least = most_bytes(bench, 3, Form(True, "int8"))
    with pytest.raises(OutputError, match=rf"that of level 3 as packed, int8 has {least:,} at most: allow so many"):
        fitting_target(bench, range(4), PACKED, least - 1)
    assert level_and_values(fitting_target(bench, range(4), PACKED, least)) == (3, "int8")


def test_a_sparsity_between_two_tickets_is_reckoned_with(tickets: list[Path]) -> None:
    between = open_bench(tickets, replace(QUICK, sparsity=0.6))
    own = open_bench(tickets, QUICK)
    assert most_bytes(own, 2, PACKED) < most_bytes(between, 1, PACKED) < most_bytes(own, 1, PACKED)
    assert "level 1, 60.00 % sparse, as packed" in fitting_target(between, [1], PACKED, 10**9)[2]
