"""Small documents of `pool` and `evaluate` for the tests of the pages, every part of them present or absent by seed."""

from __future__ import annotations

import random
from typing import Any

ALPHAS = [0.05, 0.5, 0.95]
HOSTILE = "a/<script>alert('x')</script> & \"$x$\" _ü彩\x07\udc80.pt"
SEEDS = range(5)


def score(rng: random.Random, n: int = 1000) -> dict[str, Any]:
    """Right over n, with or without an NLL."""
    return {"accuracy": rng.randint(1, n - 1) / n, "nll": rng.choice([None, round(rng.random(), 6)]), "n": n}


def pool_document(seed: int) -> dict[str, Any]:
    """A document of one target, or of several."""
    rng = random.Random(seed)
    targets = [one_target(rng, place) for place in range(rng.choice([1, 1, 2, 3]))]
    if len(targets) == 1:
        return targets[0]
    together = {"word": "helped", "gain": 0.01, "p": 0.003, "levels": len(targets), "n_test": 1000}
    return {
        "targets": targets,
        "combined": together,
        "command": "lptool pool <a> && 'b'",
        "versions": {"lptool": "1<2"},
    }


def one_target(rng: random.Random, place: int = 0) -> dict[str, Any]:
    """Steps with attempts or without, several methods or one, references or none, and so on."""
    level = rng.choice([None, place, 11])
    file = rng.choice([HOSTILE, f"runs/level_{place}.safetensors", "_hidden.pt"])
    steps = [
        _step(rng, lap, number) for lap in range(1, rng.choice([1, 2, 3]) + 1) for number in range(rng.randint(0, 4))
    ]
    with_bn = rng.random() < 0.6
    method = rng.choice(["greedy", "swa", "learned", "auto"])
    names = [rng.choice(["greedy", "ema", "<b>"]) for _ in range(rng.randint(0, 3))]
    layers = [_layer(rng, i) for i in range(rng.choice([0, 1, 7, 40]))]
    return {
        "output": HOSTILE,
        "sha256": "0f" * 32,
        "method": method,
        "target": {"file": file, "level": level, "sparsity": (sparsity := rng.choice([0.0, 0.5, 0.9312]))},
        "sparsity": sparsity,
        "members": [{key: step[key] for key in ("file", "level", "alpha", "accepted")} for step in steps],
        "improved": rng.random() < 0.6,
        "shipped": rng.choice(["pooled", "ticket", *(["ticket_bn"] if with_bn else [])]),
        "evaluations": 12,
        "not_finite": rng.choice([0, 3]),
        "seconds": 1.25,
        "val": _scores(rng, with_bn),
        "test": _scores(rng, with_bn),
        "select": rng.choice(["accuracy", "accuracy", "nll"]),
        "passes": 1,
        "verdict": _verdict(rng, with_bn),
        "warnings": rng.choice([[], ["val has <b>9</b> images"]]),
        "search": {"alphas": ALPHAS, "start": score(rng) | {"nll": 0.5}, "steps": steps},
        "coefficients": rng.choice(
            [None, {"groups": ["a", "<g>"], "members": [0, 1], "values": [[0.1, -0.9], [1, 0.25]]}]
        ),
        "methods": {name: {"val": score(rng), "test": rng.choice([None, score(rng)])} for name in names},
        "references": _references(rng) if rng.random() < 0.6 else None,
        "layers": layers,
        "command": f"lptool pool {HOSTILE}",
        "versions": {"lptool": "0.1.0", "torch": "2.9"},
        "device": "cpu",
    }


def _scores(rng: random.Random, with_bn: bool) -> dict[str, Any]:
    return {"ticket": score(rng), "ticket_bn": score(rng) if with_bn else None, "pooled": score(rng)}


def _verdict(rng: random.Random, with_bn: bool) -> dict[str, Any]:
    return {
        "word": rng.choice(["helped", "hurt", "within chance"]),
        "against": "ticket_bn" if with_bn else "ticket",
        "gain": rng.uniform(-0.1, 0.1),
        "p": rng.choice([1.0, 0.03, 1e-9]),
        "n_val": 719,
        "n_test": 1000,
        "nll_rise": 0.1,
        "nll_error": 0.01,
    }


def _step(rng: random.Random, lap: int, number: int) -> dict[str, Any]:
    attempts = [
        {"alpha": alpha, **score(rng), "complete": rng.random() < 0.6}
        for alpha in rng.choice([ALPHAS, ALPHAS[:1], [], [None]])
    ]
    whole = [a["alpha"] for a in attempts if a["complete"] and a["nll"] is not None and a["alpha"] is not None]
    alpha = rng.choice([*whole, None])
    accepted = alpha is not None or not attempts
    file = rng.choice([HOSTILE, f"runs/{number}.pt"])
    return {
        "pass": lap,
        "file": file,
        "level": rng.choice([None, number]),
        "alpha": alpha,
        "accepted": accepted,
        "attempts": attempts,
    }


def _references(rng: random.Random) -> dict[str, Any]:
    members = [
        {"file": f"runs/{i}.pt", "level": i, "sparsity": 1 - 0.8**i, "val": score(rng), "test": score(rng)}
        for i in range(rng.randint(0, 4))
    ]
    return {"ensemble": {"val": score(rng), "test": score(rng)}, "members": members}


def _layer(rng: random.Random, number: int) -> dict[str, Any]:
    name = rng.choice([f"layer{number}.weight", f"<{number}>"])
    return {"name": name, "shape": [4, 3], "before": rng.choice([0.0, 0.25, 1.0]), "after": rng.uniform(0.01, 1)}


def evaluate_document(seed: int, files: int | None = None) -> dict[str, Any]:
    """One file or many, with and without corruptions, pooled and not."""
    rng = random.Random(seed)
    found = [_file(rng, number) for number in range(files or rng.choice([1, 2, 3, 6]))]
    pairs = [(a["file"], b["file"]) for i, a in enumerate(found) for b in found[i + 1 :]]
    compared = [
        {"a": a, "b": b, "a_only": rng.randint(0, 9), "b_only": rng.randint(0, 9), "p": rng.choice([1.0, 0.03, 1e-9])}
        for a, b in pairs
    ]
    return {
        "dataset": "digits<1>",
        "n": 1000,
        "classes": 10,
        "files": found,
        "comparisons": compared,
        "seconds": 3.2,
        "command": f"lptool evaluate {HOSTILE}",
        "versions": {"lptool": "0.1.0"},
        "device": "cpu",
    }


def _file(rng: random.Random, number: int) -> dict[str, Any]:
    accuracy = rng.randint(1, 999) / 1000
    rows = [
        {"name": name, "severity": severity, **score(rng), "ece": rng.random()}
        for name in ["fog", "<snow>"]
        for severity in rng.choice([range(1, 6), range(2, 4)])
    ]
    kind = rng.choice(["ticket", "pooled"])
    return {
        "file": f"{number}/{rng.choice([HOSTILE, 'level.safetensors'])}",
        "sha256": f"{number:064x}",
        "kind": kind,
        "arch": rng.choice(["resnet20_cifar", "<arch>"]),
        "level": rng.choice([None, number]),
        "method": rng.choice([None, "greedy", "ema"]) if kind == "pooled" else None,
        "sparsity": rng.choice([0.0, 0.5, 0.93]),
        "test": {
            "accuracy": accuracy,
            "interval": [max(0.0, accuracy - 0.02), min(1.0, accuracy + 0.03)],
            "nll": rng.choice([None, 0.75]),
            "ece": rng.random() / 3,
            "top5": rng.choice([None, 0.99]),
            "n": 1000,
        },
        "cost": {
            "parameters": 2000,
            "kept": rng.choice([0, 150, 2000]),
            "flops_dense": 4.1e7,
            "flops_kept": 3.2e6,
            "bytes_dense": 8000,
            "bytes_kept": 700,
        },
        "layers": [
            {"name": f"layer{i}<w>", "shape": [2, 2], "density": rng.random()} for i in range(rng.randint(0, 3))
        ],
        "corruptions": {"source": "CIFAR-10-C", "rows": rows, "mean_accuracy": 0.5} if rng.random() < 0.6 else None,
    }
