"""Whether a network fits a file: its names against those of the file."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import nn
from torch.nn.parameter import is_lazy

from lptool.checkpoints.dialects import unwrapped
from lptool.checkpoints.names import Names
from lptool.checkpoints.summary import Summary
from lptool.checkpoints.ticket import Ticket
from lptool.errors import ArchError, first_ten
from lptool.networks.building import Shapes
from lptool.scoring.weights import COUNTER, names_of, parts_of


def fit_names(model: nn.Module, shapes: Shapes, arch: str, file: str) -> Names:
    """What a network calls the tensors of a file.

    Names are compared without the prefixes of wrappers on either side, and without a prefix that one side alone has. Of
    a tensor that layers share one name is enough, masks that the network keeps are made from those of the file, and a
    count of batches may be absent. Small tensors of a module that the network lacks, such as the mean and standard
    deviation of a normalising layer, and what a loss or a metric keeps, are left out; they are the file's own.

    Args:
        model: the network.
        shapes: plain name → shape, of the file.
        arch: its name, for the message. file: likewise.

    Raises:
        ArchError: lists what differs, ten at most.
    """
    parts, own = parts_of(model), names_of(model)
    plain = unwrapped(parts.tensors)
    short = {name: plain for plain, name in plain.items()}
    # Without what `torch.nn.utils.prune` adds to the name of a weight, as the file has it too.
    ours = {_unhooked(short[name], plain): name for name in parts.first}
    in_file = _translation({plain: parts.first[name] for plain, name in ours.items()}, shapes)
    ours = {in_file(plain): name for plain, name in ours.items()}
    there = {parts.first[name] for plain, name in ours.items() if plain in shapes}
    problems = [
        f"{plain}: missing in the file"
        for plain, name in ours.items()
        if name == parts.first[name] and name not in there and not _may_be_absent(plain, shapes)
    ]
    foreign = [name for name in shapes if name not in ours]
    carried = _carried({name: shapes[name] for name in foreign}, {name.partition(".")[0] for name in ours})
    problems += [f"{name}: unexpected in the file" for name in foreign if name not in carried]
    wrong = [
        (name, tuple(tensor.shape), shape)
        for name, shape in shapes.items()
        if name in ours and not is_lazy(tensor := parts.tensors[ours[name]]) and tuple(tensor.shape) != shape
    ]
    problems += [f"{name}: expected {list(expected)}, found {list(found)}" for name, expected, found in wrong]
    if problems:
        count = f"{len(problems)} tensor{'s' * (len(problems) > 1)}"
        raise ArchError(
            f"{file}: does not fit architecture {arch!r} ({count}); name the right one with --arch:\n  "
            + first_ten(problems)
            + _other_classes(problems, wrong)
            + _SQUASH * any(".parametrizations." in name for name in foreign)
        )
    found = {plain: parts.first[ours[plain]] for plain in shapes if plain in ours}
    copies = {name: first for name, first in own.copies.items() if first in there}
    plain_in_file = {name: in_file(plain) for name, plain in short.items()}
    return Names(_last_copy_last(found, ours), copies, own.mask_names, plain_in_file)


_SQUASH = "\n(torch.ao.pruning parametrizes weights so: call sparsifier.squash_mask() before saving)"


def _other_classes(problems: Sequence[str], wrong: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> str:
    """What to do where nothing differs but the rows of one layer: the data set has other classes than the file."""
    layers = {name.rpartition(".")[0] for name, _, _ in wrong}
    rows = {(ours[:1], theirs[:1]) for _, ours, theirs in wrong}
    alike = all(ours and theirs and ours[1:] == theirs[1:] for _, ours, theirs in wrong)
    if not alike or len(problems) > len(wrong) or len(rows) != 1 or len(layers) != 1:
        return ""
    (((ours,), (theirs,)),) = rows
    return (
        f"\n(the file tells {theirs} classes apart, the network {ours}: name the data set it was trained on, "
        f"or add --arch-kwargs num_classes={theirs})"
    )


def _translation(ours: Mapping[str, str], shapes: Shapes) -> Callable[[str], str]:
    """What turns a plain name of the network into the file's: nothing, where all tensors pair or none makes them.

    Args:
        ours: plain name in the network → first name of the tensor.
        shapes: of the file.
    """

    def complete(names: Mapping[str, str]) -> bool:
        found = {ours[plain] for plain, name in names.items() if name in shapes}
        return all(first in found for plain, first in ours.items() if not plain.endswith(COUNTER))

    theirs = {_without_module(name): name for name in shapes}
    inner = list(map(_without_module, ours))
    if complete({plain: plain for plain in ours}) or len(theirs) < len(shapes) or len(set(inner)) < len(inner):
        return str
    for mine, other in _prefixes(inner, list(theirs)):

        def translated(name: str, mine: str = mine, other: str = other) -> str:
            bare = other + _without_module(name).removeprefix(mine)
            return theirs.get(bare, bare)

        if complete({plain: translated(plain) for plain in ours}):
            return translated
    return str


def _without_module(name: str) -> str:
    """Without the wrapper of a part of the network: DataParallel calls what it wraps `module`."""
    return ".".join(part for part in name.split(".") if part != "module")


_TRIED = 5  # prefixes; more than one or two are there only by chance


def _prefixes(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[str, str]]:
    """What may stand before names of the network alone, and of the file alone: by the network's first tensor."""
    first = ours[0] if ours else ""
    longer = [name.removesuffix(first) for name in theirs if name.endswith(f".{first}")]
    shorter = [first.removesuffix(name) for name in theirs if first.endswith(f".{name}")]
    return [("", ""), *(("", prefix) for prefix in longer[:_TRIED]), *((prefix, "") for prefix in shorter[:_TRIED])]


def _may_be_absent(plain: str, shapes: Shapes) -> bool:
    """Whether it is the count of batches of a layer whose other statistics are there."""
    return plain.endswith(COUNTER) and plain.removesuffix(COUNTER) + "running_mean" in shapes


def _unhooked(name: str, names: Collection[str]) -> str:
    base = name.removesuffix("_orig")
    return base if f"{base}_mask" in names else name


def _last_copy_last(found: dict[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """The same, but copies of one tensor at the end, in the order in which torch would load them."""
    several = {name for name, count in Counter(found.values()).items() if count > 1}
    copies = {plain: found[plain] for plain in ours if found.get(plain) in several}
    return {plain: name for plain, name in found.items() if plain not in copies} | copies


def differing_copies(summaries: Sequence[Summary], names: Names) -> list[str]:
    """A line where files hold another tensor under each name of one that layers of the network share."""
    winner = {name: plain for plain, name in names.of.items()}

    def lost(summary: Summary) -> list[str]:
        digests = {plain: tally.digest for plain, tally in summary.tensors.items()}
        return [plain for plain, name in names.of.items() if digests[plain] != digests[winner[name]]]

    found = [(summary.file, plain) for summary in summaries for plain in lost(summary)[:1]]
    if not found:
        return []
    file, plain = found[0]
    return [
        f"{file}: {plain} and {winner[names.of[plain]]} are one tensor of the network and differ in the file; the "
        "latter counts, as torch loads it last" + (f" (and {len(found) - 1} more files)" if found[1:] else "")
    ]


# What trainers keep beside a network, by a word of the module's name or by the last word of the tensors'.
_BESIDE = re.compile(r"(.*_)?(criterion|loss|losses|metrics?|acc|accuracy|ema)(_.*|\d*)")
_COUNTED = {"tp", "fp", "tn", "fn", "confmat", "correct", "total", "n_averaged", "preds", "target"}


def _carried(foreign: Shapes, modules: Collection[str]) -> set[str]:
    """Of the tensors that a network lacks, those that cannot be weights of one of its layers, and so may be left out.

    Such tensors belong to a module that the network lacks altogether. They are all small, as the mean and standard
    deviation of a normalising layer are, or a single vector, as the class weights of a loss are, or are called what
    trainers call losses, metrics and their counts.
    """
    of_module: dict[str, list[str]] = defaultdict(list)
    for name in foreign:
        of_module[name.partition(".")[0]].append(name)
    found: set[str] = set()
    for module, names in of_module.items():
        small = all(math.prod(foreign[name]) <= 16 for name in names)
        vector = len(names) == 1 and len(foreign[names[0]]) == 1
        beside = _BESIDE.fullmatch(module) or all(name.rpartition(".")[2] in _COUNTED for name in names)
        if module not in modules and (small or vector or beside):
            found.update(names)
    return found


def fitted_ticket(model: nn.Module, ticket: Ticket, arch: str) -> Ticket:
    """A ticket under the names of a network of the architecture `arch`. Raises ArchError."""
    return ticket.renamed(fit_names(model, ticket.shapes, arch, ticket.file))
