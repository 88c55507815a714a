"""Peak memory of `lptool pool` and `lptool inspect` with few and with many tickets of one network.

    python benchmarks/memory.py [--tickets 4 32] [--arch resnet18_cifar] [--json FILE]
    python benchmarks/memory.py --rebuild 224 --arch resnet18 --tickets 3 6 [--images 64] [--json FILE]

Writes tickets with random weights and nested masks to a temporary folder, runs each command in a process of its own,
and prints the process's peak resident set. Memory must not grow with the number of tickets: the bar is that the
difference stays under the size of one ticket.

With `--rebuild SIZE` the sparsest ticket is rebuilt as `reconstruct` does, to random images of that many pixels, with
one ridge and one step of conjugate gradients: more of them take time, and no memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lptool.checkpoints.masks import magnitude_mask
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import load_pool
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.networks.building import build_model, prunable_weights
from lptool.pooling.layers import find_layers
from lptool.pooling.reconstruction import Reconstruction

MIB = 1 << 20
BATCH = 64  # images at once


def write_tickets(folder: Path, count: int, arch: str) -> list[Path]:
    """Tickets of one network: the same weights with a little noise, each level with 10 % fewer of them."""
    torch.manual_seed(0)
    model = build_model(arch, num_classes=10, in_chans=1)
    names = prunable_weights(model, "conv")
    state, mask, files = model.state_dict(), None, []
    for level in range(count):
        state = {n: t + 1e-3 * torch.randn_like(t) if t.is_floating_point() else t for n, t in state.items()}
        state |= {n: t.abs() for n, t in state.items() if n.endswith("running_var")}
        keep = round(0.9**level * sum(state[name].numel() for name in names))
        mask = magnitude_mask({name: state[name] for name in names}, keep, within=mask)
        metadata = Metadata(arch=arch, arch_kwargs={"num_classes": 10, "in_chans": 1}, level=level, prunable=names)
        files.append(folder / f"level_{level:02d}.safetensors")
        save_ticket(Ticket(state, mask, metadata), files[-1])
    return files


def peak(arguments: list[str]) -> int:
    """Peak resident set of `python ARGUMENTS`, in bytes."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(arguments[:3])} … failed")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(folder: Path, counts: list[int], arch: str) -> dict[str, dict[int, int]]:
    """Peak bytes per command and number of tickets."""
    files = [str(path) for path in write_tickets(folder, max(counts), arch)]
    data = ["--dataset", "digits", "--device", "cpu"]
    search = [
        *data,
        "--method",
        "greedy",
        "--alphas",
        "0.5",
        "--calibration-size",
        "64",
        "-o",
        str(folder / "out.safetensors"),
        "--overwrite",
    ]
    return {
        "inspect": {n: peak(["-m", "lptool", "inspect", *files[:n]]) for n in counts},
        "pool": {n: peak(["-m", "lptool", "pool", *files[:n], *search]) for n in counts},
    }


def measure_rebuilding(folder: Path, counts: list[int], arch: str, size: int, images: int) -> dict[str, dict[int, int]]:
    """Peak bytes of rebuilding and, for comparison, of a forward pass alone, by the number of tickets."""
    files = [str(path) for path in write_tickets(folder, max(counts), arch)]
    child = [__file__, "--child", arch, str(size), str(images)]
    return {"forward": dict.fromkeys(counts, peak(child))} | {
        "reconstruct": {n: peak([*child, *files[:n]]) for n in counts}
    }


def rebuild(arch: str, size: int, images: int, files: list[str]) -> None:
    """What is measured: rebuild the last of these tickets to the mean of all; without any, one forward pass."""
    torch.manual_seed(0)
    model = build_model(arch, num_classes=10, in_chans=1).to(memory_format=torch.channels_last)
    pictures = torch.randn(images, 1, size, size).contiguous(memory_format=torch.channels_last).split(BATCH)
    with torch.inference_mode():
        model.eval()(pictures[0])
    if not files:
        return
    pool = load_pool(files)
    layers, _ = find_layers(model, pool.prunable, pictures[0][:2])
    rebuilding = Reconstruction(model, layers, lambda: pictures, ridges=(0.1,), steps=1)
    teacher = rebuilding.teach((1 / len(pool), pool[place].state) for place in range(len(pool)))
    target = pool[len(pool) - 1]
    rebuilding.rebuild(rebuilding.recalibrated(target.state), target.mask, teacher)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        arch, size, images, *files = sys.argv[2:]
        rebuild(arch, int(size), int(images), files)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickets", type=int, nargs=2, default=[4, 32])
    parser.add_argument("--arch", default="resnet18_cifar")
    parser.add_argument("--rebuild", type=int, metavar="SIZE")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder), options.tickets, options.arch
        peaks = measure_rebuilding(*given, options.rebuild, options.images) if options.rebuild else measure(*given)
        ticket = (Path(folder) / "level_00.safetensors").stat().st_size
    few, many = options.tickets
    table = Table("command", f"{few} tickets", f"{many} tickets", "difference", "one ticket", title="peak memory, MiB")
    for command, found in peaks.items():
        cells = (found[few], found[many], found[many] - found[few], ticket)
        table.add_row(command, *(f"{value / MIB:.1f}" for value in cells))
    Console().print(table)
    if options.json:
        machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        document = {"arch": options.arch, "ticket_bytes": ticket, "peak_bytes": peaks, **machine}
        if options.rebuild:
            document |= {"size": options.rebuild, "images": options.images, "batch": BATCH}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
