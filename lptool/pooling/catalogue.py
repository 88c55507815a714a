"""The methods of pooling, one row each, readable without torch.

`--help`, completion, the checks of options, `auto` and the table of docs/method.md are made of these rows. The function
of a method bears its name and lies in the `module` of its row; `lptool.pooling.methods` runs it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lptool.errors import PoolError

# Yin et al. 2023, section 3.2: the coefficients of the search.
PAPER_ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TEACHERS = (0.5, 1.0)  # ratios by which `reconstruct` weighs the tickets that teach, as `window` does
# How strongly `reconstruct` may draw weights to what they were; each layer takes what suits it.
RIDGES = (3.0, 1.0, 0.3, 0.1, 0.03)
MASKS = ("start", "refit")  # of `reconstruct`: whose weights it fits
RATIOS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)  # that `window` tries; with 1 all tickets count the same


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row.

    Attributes:
        help: what it does, in a few words behind its name.
        formula, source: as docs/method.md has them.
        options: of the search, that it goes by; beside it the command line refuses the others.
        alphas: that it tries, where they are not those asked for (`alphas` among its options).
        once: mixes that it scores at most, however many candidates there are.
        per_candidate: mixes for each candidate, in each pass (`passes` among its options) and with each alpha.
        in_auto: whether `auto` runs it, where it is given what it needs; each from the best model so far.
        needs: the argument of `pool_tickets` that it cannot do without.
        module: of `lptool.pooling`, where its function lies.
    """

    help: str
    formula: str
    source: str
    options: tuple[str, ...] = ()
    alphas: tuple[float, ...] = ()
    once: int = 0
    per_candidate: int = 0
    in_auto: bool = False
    needs: str | None = None
    module: str = "methods"

    def tried(self, asked: Sequence[float]) -> tuple[float, ...]:
        """The alphas that it tries where `asked` are asked for."""
        return tuple(asked) if "alphas" in self.options else self.alphas

    def mixes(self, candidates: int, alphas: Sequence[float], passes: int) -> int:
        """How many mixes it scores at most."""
        repeated = passes if "passes" in self.options else 1
        # A method without alphas makes each of its mixes once.
        return self.once + self.per_candidate * candidates * max(1, len(self.tried(alphas))) * repeated


# In the order in which `auto` runs those in it.
METHODS = {
    "greedy": Method(
        help="takes in one ticket after the other, each with the alpha that is best on val (the paper's)",
        formula="as above",
        source="Yin et al. 2023, Algorithm 2",
        options=("alphas", "alpha_search", "passes"),
        per_candidate=1,
    ),
    "average": Method(
        help="greedy with alpha 0.5 alone (the paper's)",
        formula="`greedy` with alpha 0.5 alone",
        source="Yin et al. 2023, section 3.2",
        options=("passes",),
        alphas=(0.5,),
        per_candidate=1,
    ),
    "window": Method(
        help="a mean in which tickets of further levels count less",
        formula="prune(Σ wᵢθᵢ / Σ wᵢ), wᵢ = ratio^dᵢ; "
        f"the ratio of {', '.join(f'{ratio:g}' for ratio in RATIOS)} that is best on val",
        source="own",
        once=len(RATIOS),
        module="window",
        in_auto=True,
    ),
    "soup": Method(
        help="the mean of the tickets that make it no worse",
        formula="candidates by their own score, each pruned like the target; "
        "the uniform mean of the target and those that make it no worse",
        source="Wortsman et al. 2022, recipe 1",
        per_candidate=2,
    ),
    "swa": Method(
        help="the running mean, pruned at each step",
        formula="θ ← prune((kθ + θᵢ) / (k + 1)), outwards from the target, k tickets in so far",
        source="Izmailov et al. 2018, algorithm 1",
        once=1,
    ),
    "ema": Method(
        help="the running average with --decay, pruned at each step",
        formula="θ ← prune(decay·θ + (1 − decay)·θᵢ), outwards from the target",
        source="baseline of Yin et al. 2023",
        options=("decay",),
        once=1,
    ),
    "uniform": Method(
        help="the mean of all, pruned once",
        formula="prune(Σ θᵢ / n)",
        source="Wortsman et al. 2022, section 2",
        once=1,
    ),
    "learned": Method(
        help="coefficients found by gradient on training images",
        formula="prune(Σ cᵢθᵢ), c = softmax(l), l by Adam on the loss of training images",
        source="cf. Li et al. 2023; Wortsman et al. 2022, appendix I",
        options=("per", "learning_steps", "learning_rate"),
        once=len(RATIOS) + 1,
        needs="gradient",
        module="learned",
    ),
    "reconstruct": Method(
        help="the target, its kept weights fitted layer by layer to the mean activations of the tickets",
        formula="per layer min ‖Zw − U‖² + ridge·‖w − θₜ‖² over the kept weights, U the tickets' mean activations",
        source="own; cf. Hubara et al. 2021, Jin et al. 2023",
        options=("mask", "fit_images", "fit_positions"),
        once=len(TEACHERS),
        needs="rebuilder",
        module="reconstruct",
        in_auto=True,
    ),
}
AUTO = tuple(name for name, method in METHODS.items() if method.in_auto)
NAMES = (*METHODS, "auto")
NEEDS = tuple(method.needs for method in METHODS.values() if method.needs)


def methods_of(name: str, given: Collection[str] = NEEDS) -> tuple[str, ...]:
    """The methods to run for the one asked for; of `auto` those whose needs are `given`. Raises PoolError."""
    if name not in NAMES:
        raise PoolError(f"unknown method {name!r}: expected {', '.join(METHODS)} or auto")
    if name == "auto":
        return tuple(each for each in AUTO if METHODS[each].needs in (None, *given))
    needed = METHODS[name].needs
    if needed not in (None, *given):
        raise PoolError(f"method {name!r} needs a {needed}")
    return (name,)


def needs(name: str, need: str) -> bool:
    """Whether something that is needed by some methods is needed by the one asked for."""
    return any(METHODS[each].needs == need for each in methods_of(name))


def users_of(option: str) -> tuple[str, ...]:
    """What can be asked for that goes by an option of the search."""
    return tuple(name for name in NAMES if any(option in METHODS[each].options for each in methods_of(name)))


def alphas_of(method: str, asked: Sequence[float]) -> tuple[float, ...]:
    """The alphas that a method tries where `asked` are asked for; of `auto` those of its first."""
    return METHODS[methods_of(method)[0]].tried(asked)


def mixes_at_most(names: Sequence[str], tickets: int, alphas: Sequence[float], passes: int) -> int:
    """How many mixes some methods score at most."""
    return sum(METHODS[name].mixes(tickets - 1, alphas, passes) for name in names)
