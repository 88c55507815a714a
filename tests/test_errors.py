"""Errors: one base class for the command line to catch, and short texts for long lists."""

from __future__ import annotations

import inspect
import pickle

import pytest

from lptool import errors
from lptool.errors import LptoolError, TrainError, first_ten, near_miss, one_line, printable, said_by


def test_an_error_about_options_names_them_as_whoever_asks_spells_them() -> None:
    both = TrainError("choose one", "pretrained", "init_checkpoint")
    assert str(both) == "pretrained and init_checkpoint: choose one"
    assert both.naming(lambda name: f"<{name}>") == "<pretrained> and <init_checkpoint>: choose one"
    plain = LptoolError("a.pt: damaged")
    assert str(plain) == plain.naming(str.upper) == "a.pt: damaged"
    again = pickle.loads(pickle.dumps(both))  # as it goes from rank to rank
    assert (type(again), str(again), again.options) == (TrainError, str(both), both.options)


def test_every_error_is_an_lptool_error_so_that_the_cli_needs_to_catch_one() -> None:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    found = [kind for kind in found if not issubclass(kind, Warning)]
    assert len(found) > 1
    assert all(issubclass(kind, LptoolError) for kind in found)


@pytest.mark.parametrize("count", [0, 1, 10])
def test_up_to_ten_items_are_all_shown(count: int) -> None:
    items = [f"item{i}" for i in range(count)]
    assert first_ten(items, ", ") == ", ".join(items)


@pytest.mark.parametrize("count", [11, 250])
def test_of_more_than_ten_items_the_first_ten_and_the_count_of_the_rest_are_shown(count: int) -> None:
    shown = first_ten([f"item{i}" for i in range(count)]).split("\n  ")
    assert shown == [f"item{i}" for i in range(10)] + [f"… and {count - 10} more"]


def test_near_miss_names_the_closest_known_word() -> None:
    assert near_miss("fashion-mnits", ["digits", "fashion-mnist", "cifar10"]) == " Did you mean 'fashion-mnist'?"


def test_near_miss_is_silent_where_nothing_is_close() -> None:
    assert near_miss("zzz", ["digits", "cifar10"]) == near_miss("digits", []) == ""


def test_near_miss_takes_an_iterator() -> None:
    assert near_miss("digit", iter(["digits"])) == " Did you mean 'digits'?"


def test_text_can_always_be_written() -> None:
    odd = "a\ud800b\x00c\x1b[0m\x85é→"
    assert printable(odd).encode()
    assert printable(odd).isprintable()
    assert printable("a\n\tb") == "a\n\tb"
    assert one_line(" a\n\r\tb ") == "a b"
    assert one_line(odd).isprintable()


def test_an_error_about_a_header_names_its_file_once() -> None:
    for text, expected in (("unknown", "a.pt: unknown"), ("a.pt: damaged", "a.pt: damaged")):
        with pytest.raises(TrainError) as raised, said_by("a.pt"):
            raise TrainError(text, "rate")
        assert (raised.value.text, raised.value.options) == (expected, ("rate",))
    with pytest.raises(TrainError, match=r"^unknown$"), said_by(None):
        raise TrainError("unknown")
