"""`lptool inspect` as a person or a script meets it."""

import json
from pathlib import Path

from tests.helpers.commands import lptool


def test_inspect_json(tickets: list[Path]) -> None:
    document = json.loads(lptool("inspect", *tickets, "--json").stdout)
    assert [t["level"] for t in document["tickets"]] == [0, 1, 2, 3]
    assert document["pool"]["aligned"] is True


def test_inspect_says_why_it_measures_no_barrier(tickets: list[Path]) -> None:
    assert "no barrier is measured" in lptool("inspect", tickets[0], "--data", "digits").stderr
