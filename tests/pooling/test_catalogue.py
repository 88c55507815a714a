"""The rows of the methods: their functions, what they count and use, and the table of the page that is made of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from lptool.errors import PoolError
from lptool.pooling.catalogue import (
    AUTO,
    METHODS,
    NAMES,
    PAPER_ALPHAS,
    Method,
    alphas_of,
    methods_of,
    mixes_at_most,
    users_of,
)
from lptool.pooling.methods import function_of
from lptool.pooling.setup import PoolOptions

PAGE = Path(__file__).parents[2] / "docs" / "method.md"
ALPHAS = (0.25, 0.5, 0.75)


def scorings(method: Method) -> str:
    """How many, for a person: of n tickets, with the alphas of the paper."""
    each = method.per_candidate * max(1, len(method.tried(PAPER_ALPHAS)))
    varying = {0: "", 1: "n − 1"}.get(each, f"{each}·(n − 1)") + " a pass" * ("passes" in method.options)
    return " + ".join([varying] * (each > 0) + [str(method.once)] * (method.once > 0))


def table() -> str:
    """The table of docs/method.md: where it differs, put this in its place."""
    chain = ", then ".join(f"`{name}`" for name in AUTO)
    rows = [
        *((f"`{name}`", m.formula, scorings(m), m.source) for name, m in METHODS.items()),
        ("`auto`", f"{chain} from what that gives, each where it is better on val", "the sum of theirs", "own"),
    ]
    head = ["| `--method` | formula | scorings of mixes | source |", "|---|---|--:|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def test_the_page_has_the_table_that_is_made_of_the_rows() -> None:
    page = PAGE.read_text()
    assert [line for line in table().splitlines() if line not in page] == []
    assert table() in page


@pytest.mark.parametrize("name", METHODS)
def test_a_row_has_its_function_and_options_that_there_are(name: str) -> None:
    assert function_of(name).__name__ == name
    assert function_of(name).__doc__
    assert set(METHODS[name].options) <= {field.name for field in fields(PoolOptions)}


def test_names_and_alphas() -> None:
    assert set(METHODS) == {"greedy", "average", "swa", "ema", "uniform", "window", "soup", "learned", "reconstruct"}
    assert (*METHODS, "auto") == NAMES
    assert methods_of("soup") == ("soup",)
    assert methods_of("auto") == AUTO
    assert AUTO == ("window", "reconstruct")
    assert methods_of("auto", given=()) == ("window",)
    assert [alphas_of(method, ALPHAS) for method in ("greedy", "auto", "average", "swa", "learned")] == [
        ALPHAS,
        (),
        (0.5,),
        (),
        (),
    ]
    with pytest.raises(PoolError, match=r"unknown method 'mean': expected greedy, .*reconstruct or auto"):
        methods_of("mean")


def test_what_uses_an_option() -> None:
    found = {option: users_of(option) for option in ("alphas", "passes", "decay", "learning_rate", "nothing")}
    assert found == {
        "alphas": ("greedy",),
        "passes": ("greedy", "average"),
        "decay": ("ema",),
        "learning_rate": ("learned",),
        "nothing": (),
    }


def test_how_many_mixes_there_are_at_most() -> None:
    """Of five tickets with three alphas in two passes."""
    once = {"swa": 1, "ema": 1, "uniform": 1}
    counts = once | {"greedy": 24, "average": 8, "window": 7, "soup": 8, "learned": 8, "reconstruct": 2, "auto": 9}
    assert {method: mixes_at_most(methods_of(method), 5, ALPHAS, 2) for method in counts} == counts


def test_the_rows_do_not_wait_for_torch() -> None:
    code = "import sys, lptool.pooling.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
