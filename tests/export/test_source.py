"""A file to be converted: what it does not say is taken from the options, else from its tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lptool.checkpoints.reading import load_ticket
from lptool.errors import ArchError
from lptool.evaluation.setting import SettingOptions
from lptool.export.source import complete, with_masks_of

SAYS = SettingOptions(device="cpu")


@pytest.fixture
def silent(tickets: list[Path], tmp_path: Path) -> Path:
    """The weights alone, as another program writes them."""
    save_file(load_file(tickets[3]), tmp_path / "silent.safetensors")
    return tmp_path / "silent.safetensors"


def test_what_the_file_says_stays(tickets: list[Path]) -> None:
    ticket, _, warnings = complete(tickets[3], SAYS, needs_arch=True)
    assert ticket.metadata == load_ticket(tickets[3]).metadata
    assert warnings == ()


def test_an_architecture_is_guessed_only_where_it_is_needed(silent: Path) -> None:
    ticket, _, warnings = complete(silent, SAYS, needs_arch=False)
    assert (ticket.metadata.arch, warnings) == (None, ())
    ticket, _, (warning,) = complete(silent, SAYS, needs_arch=True)
    assert (ticket.metadata.arch, ticket.metadata.arch_kwargs["num_classes"]) == ("resnet8_cifar", 10)
    assert "guessed resnet8_cifar" in warning
    with pytest.raises(ArchError, match="does not fit"):
        complete(silent, replace(SAYS, arch="resnet20_cifar"), needs_arch=False)


def test_what_is_prunable_is_read_off_the_zeros(tickets: list[Path], silent: Path) -> None:
    ticket, _, _ = complete(silent, SAYS, needs_arch=False)
    assert sorted(ticket.metadata.prunable) == sorted(load_ticket(tickets[3]).metadata.prunable)


def test_named_data_are_described_but_not_how_they_were_split(silent: Path) -> None:
    ticket, _, warnings = complete(silent, replace(SAYS, dataset="digits"), needs_arch=False)
    assert (ticket.metadata.data.name, "split" in ticket.metadata.dataset) == ("digits", False)
    assert "normalised as measured" in warnings[0]


def test_masks_of_other_tensors_go(tickets: list[Path]) -> None:
    ticket = load_ticket(tickets[3])
    name, *others = ticket.mask
    less = with_masks_of((name,), ticket)
    assert list(less.mask) == [name]
    assert others
    assert all(torch.equal(less.state[n], ticket.state[n]) for n in ticket.state)
