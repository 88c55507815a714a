"""Packed tickets beside other ways to keep them small: bytes, the bytes that no layout can go under, and speed.

    python benchmarks/pack.py [--classes 1000] [--files TICKET ...] [--rounds 5] [--json FILE]

Prunes a ResNet-18 with random weights of seed 0 by global magnitude over its convolutions, or takes the tickets given,
and writes each one to a temporary folder. Needs `pip install -e '.[bench]'`. What is measured:

- dense, packed, bf16: files of `lptool.checkpoints.writing`. gzip: of the dense file, level 6. zstd: likewise, level 3,
  its default.
- CSR: values, int32 column indices and int32 row pointers of each pruned tensor as [out, in·k·k], the rest dense.
- bound: the kept weights' own bits, and the entropy of a mask pruned at random at each tensor's density; the rest
  dense. Only what compresses the weights themselves goes under it: exponents repeat, and a fresh network's BatchNorm is
  ones and zeros. Bar: packed / bound ≤ 1.15.
- read: dense GB/s of a single thread from a file in the page cache to all tensors in memory; median of the rounds. Bar:
  1 GB/s for packed. write: likewise, from tensors in memory to the bytes of a file in memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
import zstandard

from lptool.checkpoints.containers import open_file
from lptool.checkpoints.masks import magnitude_prune, sparsity
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.packed import pack
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_packed, save_ticket
from lptool.tables import percent

TIMED = ("dense", "packed", "bf16", "gzip", "zstd")
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
GZIP_LEVEL, ZSTD_LEVEL = 6, 3
HIGHEST_RATIO, LOWEST_SPEED = 1.15, 1.0  # the bars: of the bound, and GB/s of dense bytes


def random_tickets(classes: int) -> Iterator[tuple[str, Ticket]]:
    """One network at each sparsity."""
    torch.manual_seed(0)
    state = timm.create_model("resnet18", num_classes=classes).state_dict()
    names = [name for name, tensor in state.items() if tensor.dim() == 4]
    total = sum(state[name].numel() for name in names)
    for share in SPARSITIES:
        pruned, mask = magnitude_prune(state, names, round((1 - share) * total))
        yield percent(share, 0), Ticket(pruned, mask, Metadata(arch="resnet18", prunable=tuple(names)))


def bound(ticket: Ticket) -> float:
    """Bytes that no lossless layout can go under that keeps weights as they are, and knows only tensors' densities."""
    packed = sum(_tensor_bits(ticket.state[name], kept) / 8 for name, kept in ticket.mask.items())
    return packed + sum(t.nbytes for name, t in ticket.state.items() if name not in ticket.mask)


def _tensor_bits(tensor: torch.Tensor, kept: torch.Tensor) -> float:
    density = int(kept.count_nonzero()) / kept.numel()
    entropy = -sum(p * math.log2(p) for p in (density, 1 - density) if p)
    return 8 * tensor.element_size() * int(kept.count_nonzero()) + kept.numel() * entropy


def csr_bytes(ticket: Ticket) -> int:
    """By arithmetic; files would add a header."""
    kept = sum(int(m.count_nonzero()) * (ticket.state[n].element_size() + 4) for n, m in ticket.mask.items())
    pointers = sum(4 * (len(mask) + 1) for mask in ticket.mask.values())
    return kept + pointers + sum(t.nbytes for n, t in ticket.state.items() if n not in ticket.mask)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median of the rounds, after one that warms up."""
    work()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


@dataclass(frozen=True)
class Files:
    """One ticket in all ways."""

    folder: Path

    def write(self, ticket: Ticket) -> dict[str, int]:
        """Bytes of each."""
        save_ticket(ticket, self.folder / "dense")
        save_packed(ticket, self.folder / "packed")
        save_packed(ticket, self.folder / "bf16", "bf16")
        dense = (self.folder / "dense").read_bytes()
        (self.folder / "gzip").write_bytes(gzip.compress(dense, GZIP_LEVEL))
        (self.folder / "zstd").write_bytes(zstandard.ZstdCompressor(ZSTD_LEVEL).compress(dense))
        sizes = {path.name: path.stat().st_size for path in self.folder.iterdir()}
        return {**sizes, "csr": csr_bytes(ticket)}

    def readers(self) -> dict[str, Callable[[], object]]:
        """Each from its file to dense tensors that lie in memory, not mapped from the file."""
        gzipped, zstd = self.folder / "gzip", self.folder / "zstd"
        return {
            "dense": lambda: {
                name: tensor.clone() for name, tensor in open_file(self.folder / "dense").tensors.items()
            },
            "packed": lambda: unpacked(self.folder / "packed"),
            "bf16": lambda: unpacked(self.folder / "bf16"),
            "gzip": lambda: copied(gzip.decompress(gzipped.read_bytes())),
            "zstd": lambda: copied(zstandard.ZstdDecompressor().decompress(zstd.read_bytes())),
        }


def unpacked(file: Path) -> dict[str, torch.Tensor]:
    """All tensors but masks."""
    tensors = open_file(file).tensors
    return {name: tensors[name] for name in tensors if not name.endswith(".mask")}


def copied(content: bytes) -> dict[str, torch.Tensor]:
    """The tensors in the bytes of a file."""
    return safetensors.torch.load(content)


def writers(ticket: Ticket) -> dict[str, Callable[[], object]]:
    """Each from tensors in memory to bytes in memory."""
    tensors = ticket.tensors()
    compressor = zstandard.ZstdCompressor(ZSTD_LEVEL)
    return {
        "dense": lambda: safetensors.torch.save(tensors),
        "packed": lambda: safetensors.torch.save(pack(tensors, ticket.mask)[0]),
        "bf16": lambda: safetensors.torch.save(pack(tensors, ticket.mask, torch.bfloat16)[0]),
        "gzip": lambda: gzip.compress(safetensors.torch.save(tensors), GZIP_LEVEL),
        "zstd": lambda: compressor.compress(safetensors.torch.save(tensors)),
    }


def measure(ticket: Ticket, rounds: int) -> dict[str, Any]:
    """Bytes and GB/s of one ticket."""
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        sizes = files.write(ticket)
        gigabytes = sizes["dense"] / 1e9
        few = {"gzip": 1}  # seconds a round
        read = {way: gigabytes / seconds(work, few.get(way, rounds)) for way, work in files.readers().items()}
        write = {way: gigabytes / seconds(work, few.get(way, rounds)) for way, work in writers(ticket).items()}
    densities = [float(kept.float().mean()) for kept in ticket.mask.values()]
    lowest = bound(ticket)
    return {
        "sparsity": sparsity(ticket.mask),
        "densest_tensor_sparsity": 1 - max(densities),
        "sparsest_tensor_sparsity": 1 - min(densities),
        "bytes": sizes,
        "bound_bytes": round(lowest),
        "packed_over_bound": sizes["packed"] / lowest,
        "read_gb_per_second": read,
        "write_gb_per_second": write,
    }


def as_tables(results: dict[str, dict[str, Any]]) -> str:
    """Two Markdown tables: MB, and GB/s."""
    ways = ("dense", "packed", "bf16", "csr", "gzip", "zstd")
    small = [
        f"| {name} | {' to '.join(percent(found[f'{end}_tensor_sparsity'], 1) for end in ('densest', 'sparsest'))} | "
        + " | ".join(f"{found['bytes'][way] / 1e6:.2f}" for way in ways)
        + f" | {found['bound_bytes'] / 1e6:.2f} | {found['packed_over_bound']:.3f} |"
        for name, found in results.items()
    ]
    fast = [
        f"| {name} | "
        + " | ".join(f"{found[f'{step}_gb_per_second'][way]:.2f}" for step in ("read", "write") for way in TIMED)
        + " |"
        for name, found in results.items()
    ]
    sizes = f"| MB | densest to sparsest tensor | {' | '.join(ways)} | bound | packed / bound |"
    sizes += f"\n|{'--:|' * (len(ways) + 4)}"
    speeds = f"| GB/s | {' | '.join(f'{step} {way}' for step in ('read', 'write') for way in TIMED)} |"
    speeds += f"\n|{'--:|' * (2 * len(TIMED) + 1)}"
    return "\n".join([sizes, *small, "", speeds, *fast])


def missed(results: dict[str, dict[str, Any]]) -> list[str]:
    """What is beyond a bar."""
    ratios = [f"{n}: packed / bound" for n, found in results.items() if found["packed_over_bound"] > HIGHEST_RATIO]
    slow = [f"{n}: read" for n, found in results.items() if found["read_gb_per_second"]["packed"] < LOWEST_SPEED]
    return ratios + slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--files", type=Path, nargs="+", help="tickets to measure in place of random ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = options.files or []
    tickets = ((path.stem, load_ticket(path)) for path in files) if files else random_tickets(options.classes)
    results = {name: measure(ticket, options.rounds) for name, ticket in tickets}
    print(as_tables(results))
    print("beyond a bar:", ", ".join(missed(results)) or "nothing")
    if options.json:
        libraries = {module.__name__: module.__version__ for module in (torch, np, zstandard)}
        machine = {"python": platform.python_version(), "machine": platform.machine(), **libraries}
        network = {"classes": options.classes} if not files else {"files": [path.name for path in files]}
        document = {**network, "rounds": options.rounds, "results": results, **machine}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
