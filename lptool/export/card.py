"""The model card of a ticket: the README.md of a folder or a Hub repository, front matter and plain words.

A header may come from another program and lack any part, or hold what nobody expects there: such a part is left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from lptool.checkpoints.masks import density
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Sizes
from lptool.export.front_matter import front_matter, title
from lptool.export.header import arch_name, are_numbers, base_name, data_name, dicts_in, is_number, score_in, utf8
from lptool.export.markdown import block, code
from lptool.export.timm_config import is_timm, timm_loads
from lptool.networks.cifar import OWN_ARCHS
from lptool.scoring.metrics import wilson_interval
from lptool.tables import Table, markdown, percent

_ROWS = {"ticket": "ticket", "ticket_bn": "ticket + BN", "pooled": "pooled"}

_FILES = {
    "model.safetensors": "the weights, dense, pruned ones exactly 0; its header holds everything that made it",
    "config.json": "the architecture and how images are prepared, as timm reads them",
    "README.md": "this card",
    "report.html": "figures and tables of the search, one self-contained page",
    "trace.json": "the search step by step, with every score",
}

_CITATION = """\
@inproceedings{yin2023lottery,
  title     = {Lottery Pools: Winning More by Interpolating Tickets without Increasing Training or Inference Cost},
  author    = {Yin, Lu and Liu, Shiwei and Fang, Meng and Huang, Tianjin and Menkovski, Vlado and Pechenizkiy, Mykola},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2023}
}"""


def model_card(ticket: Ticket, *, command: str | None, sizes: Sizes | None, files: Collection[str]) -> str:
    """The text of README.md: YAML front matter as the Hub reads it, then Markdown.

    Folders that the ticket's header names are cut off. The command stands there as it is given.

    Args:
        ticket: as it is written.
        command: what made it, ready for a shell.
        sizes: of the files that it makes.
        files: names of what lies in the folder.
    """
    metadata = ticket.metadata
    sections = {
        "Results": _results(metadata.scores, metadata.trace),
        "How it was made": _method(metadata.trace),
        "Load it": _loading(ticket),
        "Data": _data(metadata.dataset),
        "Sparsity by layer": _layers(ticket),
        "Size": _sizes(sizes),
        "Command": block(utf8(command), "bash") if command else "",
        "Files": _list_of_files(files),
        "Limits": _limits(metadata),
        "Citation": block(_CITATION, "bibtex"),
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items() if text)
    return f"---\n{front_matter(ticket)}\n---\n\n# {title(ticket)}\n\n{_summary(ticket)}\n\n{body}\n"


# What it is


def _summary(ticket: Ticket) -> str:
    metadata, data = ticket.metadata, data_name(ticket.metadata.dataset)
    arch = f" of the architecture {code(arch_name(metadata.arch))}" if metadata.arch else ""
    network = f"sparse network{arch}" + (f", trained on {code(data)}" if data else "")
    level = f" (level {metadata.level})" if metadata.level is not None else ""
    if metadata.kind != "pooled":
        return f"One lottery ticket{level}: a {network}, made by iterative magnitude pruning.{_kept(ticket)}"
    return (
        f"One {network}, made by pooling the tickets of a run of iterative magnitude pruning around one of them{level} "
        f"([Lottery Pools](https://arxiv.org/abs/2208.10842)). It costs no more to run than one ticket.{_kept(ticket)}"
    )


def _kept(ticket: Ticket) -> str:
    total = sum(mask.numel() for mask in ticket.mask.values())
    if not total:
        return ""
    kept = sum(int(mask.count_nonzero()) for mask in ticket.mask.values())
    return f" {kept:,} of its {total:,} prunable weights are kept; the others are exactly 0."


# Results, and how they came about


def _results(scores: Mapping[str, Any], trace: Mapping[str, Any]) -> str:
    rows = [_result_row(scores, row, label) for row, label in _ROWS.items()]
    found = [row for row in rows if row]
    if not found:
        return ""
    head = ("", "val accuracy", "val NLL", "test accuracy [95 %]", "test NLL", "test images")
    words = [
        "Every choice was made on val, so the accuracy there flatters what was chosen. Test was read once, at the end. "
        "The interval is Wilson's.",
        "*ticket* is the target as it was, *ticket + BN* the same with its BatchNorm statistics measured again, and "
        "*pooled* what this file holds.",
    ]
    shipped = trace.get("shipped")
    if shipped in ("ticket", "ticket_bn"):
        words.append(f"Pooling scored no better on val than *{_ROWS[shipped]}*, so that is what this file holds.")
    return "\n\n".join([markdown(Table("", head, found)), *words])


def _result_row(scores: Mapping[str, Any], row: str, label: str) -> list[str] | None:
    val, test = score_in(scores, "val", row), score_in(scores, "test", row)
    if val is None and test is None:
        return None
    val_cells = [percent(val["accuracy"]), _nll(val)] if val else ["–", "–"]
    return [label, *val_cells, *([_interval(test), _nll(test), f"{test['n']:,}"] if test else ["–"] * 3)]


def _interval(score: Mapping[str, Any]) -> str:
    low, high = wilson_interval(round(score["accuracy"] * score["n"]), score["n"])
    return f"{percent(score['accuracy'])} [{100 * low:.2f}, {100 * high:.2f}]"


def _nll(score: Mapping[str, Any]) -> str:
    return f"{score['nll']:.4f}" if is_number(score.get("nll")) else "–"


def _method(trace: Mapping[str, Any]) -> str:
    parts = [_method_words(trace), _members(trace), _coefficients(trace)]
    return "\n\n".join(part for part in parts if part)


def _method_words(trace: Mapping[str, Any]) -> str:
    method, chosen, target = trace.get("method"), trace.get("chosen"), trace.get("target")
    words = []
    if isinstance(method, str):
        of = f", which chose {code(chosen)}" if isinstance(chosen, str) and chosen != method else ""
        words.append(f"Method: {code(method)}{of}.")
    if isinstance(target, dict) and isinstance(target.get("file"), str):
        words.append(f"Target: {code(base_name(target['file']))}, level {_cell(target.get('level'))}.")
    if type(trace.get("evaluations")) is int:
        words.append(f"{trace['evaluations']:,} states were scored on val.")
    if trace.get("bn_recalibration") is True:
        words.append("BatchNorm statistics were measured again on training images.")
    return " ".join(words)


def _members(trace: Mapping[str, Any]) -> str:
    """The candidates in the order in which the search took them."""
    found = dicts_in(trace.get("members"))
    if not found:
        return ""
    head = ("file", "level", "alpha", "accepted")
    return markdown(
        Table("", head, [[_file(m), _cell(m.get("level")), _alpha(m), _yes(m.get("accepted"))] for m in found])
    )


def _file(member: Mapping[str, Any]) -> str:
    file = member.get("file")
    return code(base_name(file)) if isinstance(file, str) else "–"


def _alpha(member: Mapping[str, Any]) -> str:
    alpha = member.get("alpha")
    return f"{alpha:g}" if is_number(alpha) else "–"


def _yes(value: Any) -> str:
    return "–" if not isinstance(value, bool) else "yes" if value else "no"


def _coefficients(trace: Mapping[str, Any]) -> str:
    """What each group of tensors takes of each ticket, densest first."""
    found = trace.get("coefficients")
    groups, values = (found.get("groups"), found.get("values")) if isinstance(found, dict) else (None, None)
    if not isinstance(groups, list) or not isinstance(values, list) or not values or len(groups) != len(values):
        return ""
    if not all(isinstance(row, list) and len(row) == len(values[0]) and all(map(is_number, row)) for row in values):
        return ""
    head = ("group", *_ticket_names(trace, len(values[0])))
    rows = [[code(str(g)), *(f"{v:.3f}" for v in row)] for g, row in zip(groups, values, strict=True)]
    return "Coefficients of the tickets, densest first, for each group of tensors:\n\n" + markdown(
        Table("", head, rows)
    )


def _ticket_names(trace: Mapping[str, Any], count: int) -> list[str]:
    """The pool's tickets by level, where the search names them all; else by place."""
    told = [trace.get("target"), *dicts_in(trace.get("members"))]
    levels = {told["level"] for told in dicts_in(told) if type(told.get("level")) is int}
    return [f"level {n}" for n in sorted(levels)] if len(levels) == count else [str(n + 1) for n in range(count)]


# What a user needs


def _loading(ticket: Ticket) -> str:
    arch = ticket.metadata.arch or ""
    first = _with_timm(arch) if timm_loads(ticket) else _with_safetensors(arch)
    if (
        arch and ":" not in arch and not is_timm(arch)
    ):  # of a network that nothing here knows, nothing here can build it
        return f"DIR is this folder.\n\n{first}"
    named = f", arch={json.dumps(arch_name(arch))}" if ":" in arch else ""  # its file may lie elsewhere here
    with_lptool = block(f'import lptool\n\nmodel = lptool.load_model("DIR"{named})', "python")
    return f"DIR is this folder.\n\n{first}\n\nOr with lptool:\n\n{with_lptool}"


def _with_timm(arch: str) -> str:
    ours = "import lptool.networks  # registers the architecture with timm\n" if arch in OWN_ARCHS else ""
    lines = (
        f"{ours}import timm\n\n"
        'model = timm.create_model("local-dir:DIR", pretrained=True).eval()  # this folder\n'
        'model = timm.create_model("hf-hub:USER/NAME", pretrained=True).eval()  # the same from the Hub\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"
    )
    return block(lines, "python")


def _with_safetensors(arch: str) -> str:
    network = f"  # {arch_name(arch)}" if arch else ""
    lines = (
        "import safetensors.torch\n\n"
        f"model = ...{network}\n"
        'model.load_state_dict(safetensors.torch.load_file("DIR/model.safetensors"))'
    )
    return block(lines, "python")


def _data(dataset: Mapping[str, Any]) -> str:
    name, classes, shape = data_name(dataset), dataset.get("num_classes"), dataset.get("image_shape")
    said = {
        "Name": code(name) if name else "",
        "Classes": f"{classes:,}" if type(classes) is int else "",
        "Images": "×".join(map(str, shape)) + " (channels, height, width)" if are_numbers(shape) else "",
        "Mean": _channels(dataset.get("mean")),
        "Standard deviation": _channels(dataset.get("std")),
    }
    return "\n".join(f"- {label}: {text}" for label, text in said.items() if text)


def _channels(values: Any) -> str:
    if not are_numbers(values):
        return ""
    return ", ".join(f"{value:.4f}" for value in values) + " per channel, of images scaled to [0, 1]"


def _layers(ticket: Ticket) -> str:
    if not ticket.mask:
        return ""
    rows = [
        [
            code(name),
            "×".join(map(str, mask.shape)),
            f"{int(mask.count_nonzero()):,} / {mask.numel():,}",
            percent(1 - density({name: mask})),
        ]
        for name, mask in ticket.mask.items()
    ]
    return markdown(Table("", ("tensor", "shape", "kept / total", "sparsity"), rows))


def _sizes(sizes: Sizes | None) -> str:
    if sizes is None:
        return ""
    rows = [
        ["dense, as here", f"{sizes.dense:,}"],
        ["dense, through gzip", f"{sizes.gzip:,}"],
        ["packed: kept weights and their positions", f"{sizes.packed:,}"],
    ]
    return markdown(Table("", ("file", "bytes"), rows))


def _list_of_files(files: Collection[str]) -> str:
    order = [*(name for name in _FILES if name in files), *sorted(set(files) - set(_FILES))]
    return "\n".join(f"- {code(name)}" + (f": {_FILES[name]}" if name in _FILES else "") for name in order)


def _limits(metadata: Metadata) -> str:
    limits = ["Sparsity saves storage and transfer. On dense kernels, which are the usual ones, it saves no time."]
    if metadata.kind == "pooled":
        limits.append("Selection on val is noisy: part of a gain there is chance, and test shows what is left of it.")
    return "\n".join(f"- {limit}" for limit in limits)


def _cell(value: Any) -> str:
    """A number of the header, or a dash."""
    return str(value) if is_number(value) else "–"
