"""Coefficients found by gradient: what each group of tensors takes of each ticket.

    model = prune(Σ cᵢ·ticketᵢ), c = softmax(l), with a logit lᵢ for each ticket and group of tensors
    l ← l − Adam(∂ loss(model on training images) / ∂l), from the windowed mean that is best on val (`window`)

Cf. trainable weight averaging (Li et al. 2023) and learned soups (Wortsman et al. 2022, appendix I). The mask is
refreshed as the coefficients move, so the result is pruned as it was when it was learned. Coefficients add up to one,
because tickets fit their training images: free ones grow, and make the model surer of itself and not better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lptool.checkpoints.masks import Mask, State
from lptool.errors import PoolError
from lptool.pooling.outcome import Coefficients, Incumbent, Outcome, Progress, Step
from lptool.pooling.search import Search
from lptool.pooling.window import best_ratio, coefficients, score_ratios


def learned(search: Search, start: Incumbent) -> Outcome:
    """Learn the coefficients on training images, then score the result on val.

    All tickets are in memory meanwhile. The gradient by a coefficient is the inner product of the gradient by the
    weights with the ticket, so it costs one backward pass per step however many tickets there are.
    """
    scores = score_ratios(search, start)
    (begin,) = coefficients(search, best_ratio(search, scores)).values
    tickets = _Stacked(search)
    values = search.ranks.on_first(lambda: _descend(search, tickets, begin, start)).softmax(dim=1)
    search.done = len(scores) + search.learning.steps  # the first rank counted its steps; the others saw none
    state, mask = search.prune(tickets.mixed(values))
    score = search.score_once(state, None, None, start.score)
    finite = math.isfinite(score.nll)
    steps = tuple(Step(place, None, finite, None, ()) for place in search.order)
    found = Coefficients(tickets.groups, tuple(tuple(row) for row in values.tolist()))
    best = Incumbent(state, mask, score, recalibrated=True) if finite else start
    return Outcome("learned", best, steps, found, ranked=(*scores.values(), score))


class _Stacked:
    """All tickets of a pool, each tensor of theirs stacked, and which row of the coefficients each tensor goes by."""

    def __init__(self, search: Search) -> None:
        states = [search.pool[place].state for place in range(len(search.pool))]
        self._like = states[search.target]
        self._floats = {
            name: torch.stack([state[name].flatten().float() for state in states])
            for name, t in self._like.items()
            if t.is_floating_point()
        }
        group_of = {name: group(name, search.learning.per) for name in self._floats}
        self.groups = tuple(dict.fromkeys(group_of.values()))
        self._row = {name: self.groups.index(of) for name, of in group_of.items()}

    def mixed(self, values: Tensor) -> State:
        """The sum of the tickets with these coefficients [groups, tickets]; integer tensors are the target's."""
        return {
            name: (values[self._row[name]].to(t.device) @ self._floats[name]).view_as(t).to(t.dtype)
            if name in self._floats
            else t
            for name, t in self._like.items()
        }

    def project(self, gradient: State, mask: Mask, values: Tensor) -> Tensor:
        """The gradient by the coefficients [groups, tickets], from that by the weights; pruned ones have none."""
        found = torch.zeros_like(values)
        for name, by_weight in gradient.items():
            kept = by_weight * mask[name] if name in mask else by_weight
            found[self._row[name]] += (self._floats[name] @ kept.flatten().float()).to(found.device)
        return found


def _descend(search: Search, tickets: _Stacked, begin: Sequence[float], start: Incumbent) -> Tensor:
    """The logits [groups, tickets] after all steps. Raises PoolError where the loss has no finite gradient."""
    assert search.gradient is not None
    # The logarithms of shares are logits whose softmax gives these shares again.
    logits = torch.tensor(begin).log().repeat(len(tickets.groups), 1)
    optimizer = torch.optim.Adam([logits], lr=search.learning.lr)
    for step in range(search.learning.steps):
        values = logits.softmax(dim=1)
        state, mask = search.prune(tickets.mixed(values))
        by_value = tickets.project(search.gradient(state, step), mask, values)
        # Through the softmax: ∂loss/∂lᵢ = cᵢ·(gᵢ − Σⱼ cⱼ·gⱼ), where gᵢ = ∂loss/∂cᵢ.
        logits.grad = values * (by_value - (values * by_value).sum(dim=1, keepdim=True))
        if not bool(logits.grad.isfinite().all()):
            raise PoolError(f"learned: the gradient of step {step} is not finite; try a lower --learning-rate")
        optimizer.param_groups[0]["lr"] = search.learning.lr * (1 - step / search.learning.steps)
        optimizer.step()
        search.done += 1
        search.on_progress(Progress((), start.score, search.done, search.total))
    return logits


def group(name: str, per: str) -> str:
    """The name of the group that a tensor shares its coefficients with.

    By `tensor` that is its own name, by `global` it is `all`, and by `block` it is its name up to the first number,
    or its module where there is none.

    >>> group("layer1.0.conv1.weight", "block"), group("fc.bias", "block"), group("fc.bias", "global")
    ('layer1.0', 'fc', 'all')
    """
    if per != "block":
        return name if per == "tensor" else "all"
    parts: Sequence[str] = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1] or parts)
