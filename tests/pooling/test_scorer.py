"""The score of a search, against plain loops over all images: it may save work, but no decision may change."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lptool.checkpoints.masks import State
from lptool.errors import DataError
from lptool.pooling import scorer as scorer_module
from lptool.pooling.choice import BY_ACCURACY, Choice
from lptool.pooling.scorer import Marks, Scorer, hardest_first, name_of
from lptool.scoring.batching import BatchSize
from lptool.scoring.score import Batch, Score

TOTAL = 25
INF = math.inf
CLASSES = 4


def network(seed: int = 0) -> nn.Sequential:
    """A small BatchNorm network with dropout; another seed gives other weights and statistics."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, CLASSES)
    )
    net(torch.randn(32, 1, 4, 4))
    return net


def random_network(seed: int) -> nn.Sequential:
    """Of a random width and depth, with or without BatchNorm."""
    torch.manual_seed(seed)
    width, depth, norm = (int(torch.randint(*ends, ())) for ends in ((2, 9), (1, 4), (0, 3)))
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(16, width)]
    for _ in range(depth):
        layers += [*[nn.BatchNorm1d(width)] * bool(norm), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def random_state(net: nn.Module, spread: float) -> State:
    """The network's weights and statistics, shaken."""
    return {n: t + spread * torch.rand_like(t) if t.is_floating_point() else t for n, t in net.state_dict().items()}


def labelled_images(seed: int = 1, total: int = TOTAL) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(total, 1, 4, 4, generator=generator)
    return images, torch.randint(CLASSES, (total,), generator=generator)


class Part:
    """The batches of one part of the data; keeps the sizes that were asked for, and the places handed out."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.sizes, self.places = list[int](), list[int]()

    def __call__(self, batch_size: int, *, order: Tensor | None = None) -> Iterator[Batch]:
        self.sizes.append(batch_size)
        order = torch.arange(len(self.labels)) if order is None else order
        for chunk in order.split(batch_size) if len(order) else ():
            self.places += chunk.tolist()
            yield self.images[chunk], self.labels[chunk]


def val_and_calibration() -> tuple[Part, Part]:
    return Part(*labelled_images(1)), Part(*labelled_images(2, 24))


def in_batches_of(size: int, part: Part) -> list[Tensor]:
    return [images for images, _ in Part(part.images, part.labels)(size)]


def plain_loop(net: nn.Module, state: Mapping[str, Tensor], part: Part) -> tuple[int, float]:
    """Images right and mean negative log-likelihood, one image at a time, in Python floats."""
    net = deepcopy(net).eval()
    net.load_state_dict(state)
    correct, losses = 0, []
    for image, label in zip(part.images, part.labels.tolist(), strict=True):
        logits = net(image[None])[0].tolist()
        best = max(logits)
        correct += logits.index(best) == label
        losses.append(best - logits[label] + math.log(sum(math.exp(x - best) for x in logits)))
    return correct, sum(losses) / len(losses)


def by_update_bn(net: nn.Module, state: Mapping[str, Tensor], images: list[Tensor]) -> State:
    """`state` with the statistics of torch's own update_bn, with dropout taken out."""
    awake = deepcopy(net).train()
    awake.load_state_dict(state)
    for module in awake.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    update_bn(images, awake)
    return awake.state_dict()


def assert_complete(score: Score, correct: int, nll: float) -> None:
    assert (score.correct, score.n, score.complete) == (correct, TOTAL, True)
    assert score.nll == pytest.approx(nll, rel=1e-5)


def assert_same(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(state) == list(expected)
    assert all(torch.equal(t, expected[name]) for name, t in state.items())


class Table(nn.Module):
    """One logit per image against 0: an image is right where its margin is not negative, so states are made to order.

    What it says of an image does not depend, to the last bit, on the images beside it.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self.margins = nn.Parameter(torch.zeros(total))

    def forward(self, places: Tensor) -> Tensor:
        mine = self.margins[places]
        return torch.stack([mine, torch.zeros_like(mine)], dim=1)


def table(margins: list[float] | Tensor) -> State:
    return {"margins": torch.as_tensor(margins, dtype=torch.float32)}


def random_table(seed: int, total: int = TOTAL) -> State:
    return table(torch.randn(total, generator=torch.Generator().manual_seed(seed)))


def table_scorer(total: int = TOTAL, batch_size: int = 1) -> tuple[Scorer, Part]:
    """A scorer of tables, and its val, whose images are their own places."""
    val = Part(torch.arange(total), torch.zeros(total, dtype=torch.long))
    return Scorer(Table(total), val, total, None, batch_size=BatchSize(batch_size)), val


# Decisions and scores


@pytest.mark.parametrize("seed", range(12))
def test_stopping_early_never_changes_a_decision(seed: int) -> None:
    """`complete and correct ≥ bar` is true exactly where the full score reaches the bar.

    One scorer for random states, as they are or recalibrated, and random bars, most of them near the full score. Most
    of val is labelled by one of the states, so that some are good and some are bad.
    """
    net, generator = random_network(seed), torch.Generator().manual_seed(seed)
    states = [random_state(net, spread) for spread in (0.0, 0.1, 0.5, 1.0)]
    val, calibration = val_and_calibration()
    net.load_state_dict(states[0])
    by_the_first = deepcopy(net).eval()(val.images).argmax(dim=1)
    val.labels = torch.where(torch.rand(TOTAL, generator=generator) < 0.8, by_the_first, val.labels)
    renewed = [by_update_bn(net, state, in_batches_of(12, calibration)) for state in states]
    full = [[plain_loop(net, s, val) for s in states], [plain_loop(net, s, val) for s in renewed]]

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    batch_size, calibration_batch = BatchSize(pick(1, TOTAL + 1)), BatchSize(12)
    scorer = Scorer(net, val, TOTAL, calibration, batch_size=batch_size, calibration_batch=calibration_batch)
    for _ in range(40):
        recalibrate, i = pick(0, 1), pick(0, 3)
        correct, nll = full[recalibrate][i]
        bar = correct + pick(-2, 3) if pick(0, 2) else pick(0, TOTAL + 2)
        score = scorer(states[i], bar) if recalibrate else scorer.as_is(states[i], bar)
        assert (score.complete and score.correct >= bar) == (correct >= bar)
        if score.complete:
            assert_complete(score, correct, nll)
        else:
            assert score.n < TOTAL


@pytest.mark.parametrize("batch_size", [1, 4, TOTAL])
def test_errors_told_one_batch_late_change_no_decision(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU tells them."""

    class Late(Marks):
        before = 0.0

        def lost(self) -> float:
            told, self.before = self.before, super().lost()
            return told

    monkeypatch.setattr(scorer_module, "Marks", Late)
    scorer, _ = table_scorer(TOTAL, batch_size)
    for seed in range(5):
        state = random_table(seed)
        full = int((state["margins"] >= 0).sum())
        for bar in range(TOTAL + 1, -1, -3):
            score = scorer(state, bar)
            assert BY_ACCURACY.answers(score, bar, TOTAL)
            assert (score.complete and score.correct >= bar) == (full >= bar)


@pytest.mark.parametrize("bar", [0, 10, 15, 19, 22, TOTAL, TOTAL + 1])
@pytest.mark.parametrize("batch_size", [1, 7, TOTAL])
def test_scoring_stops_after_the_first_batch_that_puts_the_bar_out_of_reach(bar: int, batch_size: int) -> None:
    state = random_table(0)
    scorer, _ = table_scorer(TOTAL, batch_size)
    right = (state["margins"] >= 0).tolist()
    ends = [*range(batch_size, TOTAL, batch_size), TOTAL]
    expected = next((sum(right[:n]), n) for n in ends if sum(right[:n]) + TOTAL - n < bar or n == TOTAL)
    score = scorer(state, bar)
    assert (score.correct, score.n) == expected
    assert score.complete == (score.n == TOTAL)
    losses = [math.log1p(math.exp(-margin)) for margin in state["margins"].tolist()]
    assert score.nll == pytest.approx(sum(losses[: score.n]) / score.n, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_complete_score_does_not_depend_on_what_was_scored_before_nor_on_the_batch_size(seed: int) -> None:
    """To the last bit: losses are summed in the order of val, whatever the order of forwarding."""
    state = random_table(seed)
    state["margins"] *= 10.0 ** (torch.arange(TOTAL) % 11)  # so that the order of a sum shows in its last bits
    first = table_scorer()[0](state)
    for batch_size in (1, 4, 7, TOTAL, 999):
        scorer, val = table_scorer(TOTAL, batch_size)
        for other in range(3):
            scorer(random_table(100 + 10 * seed + other))
        val.places.clear()
        assert scorer(state) == first
        assert val.places != sorted(val.places)
        assert sorted(val.places) == list(range(TOTAL))


@pytest.mark.parametrize("batch_size", [1, 6, 25, 999])
def test_so_it_is_of_a_network_but_for_rounding(batch_size: int) -> None:
    val, calibration = val_and_calibration()
    fresh = Scorer(network(), val, TOTAL, calibration)
    worn = Scorer(network(), val, TOTAL, calibration, batch_size=BatchSize(batch_size))
    for seed in range(5):
        state = network(seed).state_dict()
        for score, again in ((fresh(state), worn(state)), (fresh.as_is(state), worn.as_is(state))):
            assert (again.correct, again.n, again.complete) == (score.correct, TOTAL, True)
            assert again.nll == pytest.approx(score.nll, rel=1e-6)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_val_and_calibration_are_computed_in_the_type_asked_for(compute: torch.dtype) -> None:
    val, calibration = val_and_calibration()
    net, state, seen = network(), network(1).state_dict(), list[torch.dtype]()
    net.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    score = Scorer(net, val, TOTAL, calibration, compute)(state)
    assert seen == [compute, compute]
    correct, nll = plain_loop(network(), by_update_bn(network(), state, [calibration.images]), val)
    assert score.nll == pytest.approx(nll, rel=0.02)
    assert abs(score.correct - correct) <= 1


@pytest.mark.parametrize("bar", [0, TOTAL + 1])
@pytest.mark.parametrize("training", [True, False])
def test_modes_are_restored_and_no_state_changes(training: bool, bar: int) -> None:
    val, calibration = val_and_calibration()
    net, state = network().train(training), network(1).state_dict()
    net[1].train(not training)
    modes, before = [module.training for module in net.modules()], deepcopy(state)
    scorer = Scorer(net, val, TOTAL, calibration)
    scorer(state, bar)
    scorer.as_is(state, bar)
    assert [module.training for module in net.modules()] == modes
    assert_same(state, before)


def test_modes_are_restored_after_an_exception() -> None:
    val, _ = val_and_calibration()
    val.labels[9] = 99
    net = network().train()
    with pytest.raises(IndexError):
        Scorer(net, val, TOTAL, None)(net.state_dict())
    assert all(module.training for module in net.modules())
    assert torch.is_grad_enabled()


def test_switched_off_gradients_do_not_leak() -> None:
    """The model can be trained afterwards."""
    net, (val, calibration) = network(), val_and_calibration()
    Scorer(net, val, TOTAL, calibration)(network(1).state_dict())
    assert torch.is_grad_enabled()
    assert not any(t.is_inference() for t in net.state_dict().values())
    net(torch.randn(8, 1, 4, 4)).sum().backward()
    assert net[0].weight.grad.abs().sum() > 0


def test_val_without_images_is_refused() -> None:
    with pytest.raises(DataError, match="no image to score on"):
        Scorer(network(), Part(*labelled_images(total=0)), 0, None)


@pytest.mark.parametrize("batches", [[], [labelled_images(total=0)]], ids=["no batch", "an empty batch"])
def test_batches_that_hold_no_image_are_refused(batches: list[Batch]) -> None:
    scorer = Scorer(network(), lambda batch_size, *, order=None: batches, 2, None)
    with pytest.raises(DataError, match="expected 2 images to score on, but the batches hold none"):
        scorer(network().state_dict())
    assert not scorer.known


# Recalibration


@pytest.mark.parametrize("batch_size", [4, 8, 24, 999])
def test_recalibration_is_that_of_update_bn_whatever_was_scored_before(batch_size: int) -> None:
    val, calibration = val_and_calibration()
    net = network()
    scorer = Scorer(net, val, TOTAL, calibration, calibration_batch=BatchSize(batch_size))
    for seed in range(3):
        state = network(seed).state_dict()
        expected = by_update_bn(net, state, in_batches_of(batch_size, calibration))
        assert_complete(scorer(state), *plain_loop(net, expected, val))
        torch.testing.assert_close(net.state_dict(), expected)
        assert_complete(scorer.as_is(state), *plain_loop(net, state, val))
        assert_same(net.state_dict(), state)


def test_without_calibration_statistics_are_taken_as_they_are() -> None:
    val, calibration = val_and_calibration()
    scorer, state = Scorer(network(), val, TOTAL, None), network(1).state_dict()
    assert not scorer.recalibrates
    assert Scorer(network(), val, TOTAL, calibration).recalibrates
    assert scorer(state) is scorer.as_is(state)
    assert_complete(scorer(state), *plain_loop(network(), state, val))


def test_a_model_without_batch_norm_is_scored_as_it_is() -> None:
    """And says so: calibration images are not asked for."""
    net, (val, calibration) = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)), val_and_calibration()
    scorer = Scorer(net, val, TOTAL, calibration)
    assert not scorer.recalibrates
    assert_complete(scorer(net.state_dict()), *plain_loop(net, net.state_dict(), val))
    assert not calibration.sizes


def test_images_forwarded_are_counted() -> None:
    val, calibration = val_and_calibration()
    scorer = Scorer(network(), val, TOTAL, calibration, batch_size=BatchSize(10), calibration_batch=BatchSize(7))
    state = network(1).state_dict()
    scorer(state)
    assert scorer.images == {"val": TOTAL, "calibration": 24}
    scorer.as_is(state, TOTAL + 1)
    assert scorer.images == {"val": TOTAL + 10, "calibration": 24}
    assert (set(val.sizes), set(calibration.sizes)) == ({10}, {7})


# What is known already


def test_an_equal_state_is_not_scored_again() -> None:
    val, calibration = val_and_calibration()
    net, passes = network(), list[None]()
    net.register_forward_hook(lambda *_: passes.append(None))
    scorer, state = Scorer(net, val, TOTAL, calibration), network(1).state_dict()
    score, images, before = scorer(state), dict(scorer.images), len(passes)
    for bar in (0, score.correct, TOTAL + 1):
        assert scorer(deepcopy(state), bar) is score
    assert (scorer.images, len(passes)) == (images, before)
    assert scorer.known == {score.state: score}


def test_a_state_told_of_is_not_scored_at_all() -> None:
    """As of a search that goes on from its journal."""
    scorer, val = table_scorer()
    state = random_table(1)
    score = Score(7, 0.5, TOTAL, state=name_of(state))
    scorer.known[score.state] = score
    assert scorer(state) is score
    assert not val.places


def test_a_score_as_it_is_and_a_recalibrated_one_are_kept_apart() -> None:
    val, calibration = val_and_calibration()
    net, state = network(), random_state(network(1), 2.0)
    oracles = [plain_loop(net, by_update_bn(net, state, [calibration.images]), val), plain_loop(net, state, val)]
    assert oracles[0] != oracles[1]
    for swapped in (False, True):
        scorer = Scorer(net, val, TOTAL, calibration)
        score_functions = [scorer, scorer.as_is]
        for i in (1, 0, 1, 0) if swapped else (0, 1, 0, 1):
            assert_complete(score_functions[i](state), *oracles[i])
        assert len(scorer.known) == 2
        assert scorer.images == {"val": 2 * TOTAL, "calibration": 24}


@pytest.mark.parametrize("first", range(0, TOTAL + 2, 3))
def test_an_incomplete_score_serves_every_bar_it_answers(first: int) -> None:
    """And for a lower bar the state is scored again; then the longer score is the one that is known."""
    state = random_table(3)
    full = int((state["margins"] >= 0).sum())
    for bar in range(TOTAL + 2):
        scorer, val = table_scorer(TOTAL, 4)
        score = scorer(state, first)
        val.places.clear()
        again = scorer(state, bar)
        if score.complete or score.correct + TOTAL - score.n < bar:
            assert again is score
            assert not val.places
        else:
            assert again.n == len(val.places) > score.n
            assert BY_ACCURACY.answers(again, bar, TOTAL)
        assert (again.complete and again.correct >= bar) == (full >= bar)
        assert scorer.known == {again.state: again}
        assert scorer(state, first) is again


def test_names_are_equal_for_equal_states_alone() -> None:
    state = network(1).state_dict()
    assert name_of(state) == name_of(deepcopy(state)) == name_of(dict(reversed(state.items())))
    renamed = {f"x{name}": t for name, t in state.items()}
    weight = state["5.weight"]
    others = [
        network(2).state_dict(),
        {**state, "5.weight": weight.double()},
        {**state, "5.weight": weight.T},
        {**state, "5.weight": weight + torch.eye(4, 12) * 1e-6},
        {**state, "1.running_var": state["1.running_var"] + 1e-6},
        renamed,
        dict(list(state.items())[:-1]),
        {**state, "1.weight": state["1.bias"], "1.bias": state["1.weight"]},
    ]
    assert len({name_of(s) for s in (state, *others)}) == 9


def test_scores_with_and_without_recalibration_and_of_other_calibration_batches_are_kept_apart() -> None:
    val, calibration = val_and_calibration()
    scorer = Scorer(network(), val, TOTAL, calibration)
    state = network(1).state_dict()
    scorer(state)
    scorer._calibration_batch.images //= 2  # as where memory ran out in another scoring
    scorer(state)
    scorer.as_is(state)
    assert [key.removeprefix(name_of(state)) for key in scorer.known] == ["+bn256", "+bn128", ""]


# The order that is learned


def test_the_hardest_images_come_first() -> None:
    """Most models wrong, then the largest loss, then the order given."""
    errors = torch.tensor([0, 2, 1, 2, 0, 1, 1])
    losses = torch.tensor([0.5, 3.0, 9.0, 4.0, 0.7, 2.0, 9.0])
    assert hardest_first(errors, losses).tolist() == [3, 1, 2, 6, 5, 4, 0]


@pytest.mark.parametrize("seed", range(10))
def test_each_image_has_one_place_and_none_is_harder_than_the_one_before(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    errors = torch.randint(3, (40,), generator=generator)
    losses = torch.randint(4, (40,), generator=generator).float()
    order = hardest_first(errors, losses).tolist()
    assert order == sorted(range(40), key=lambda i: (-int(errors[i]), -float(losses[i]), i))


def test_the_next_state_meets_the_hardest_images_first() -> None:
    """Errors and losses add up over complete scores; an incomplete one teaches nothing."""
    scorer, val = table_scorer(5, 1)
    scorer(table([1.0, 4.0, -2.0, 3.0, -1.0]))
    assert val.places == [0, 1, 2, 3, 4]
    val.places.clear()
    scorer(table([5.0, -9.0, -1.0, 2.0, -1.5]))  # both err on 2 and 4, one on 1, neither on 3 and 0
    assert val.places == [2, 4, 0, 3, 1]
    val.places.clear()
    assert not scorer(table([-1.0] * 5), 5).complete
    assert val.places == [2]
    val.places.clear()
    scorer(table([9.0] * 5))
    assert val.places == [2, 4, 1, 0, 3]


def test_a_worse_state_is_found_out_sooner_than_in_natural_order() -> None:
    """It errs on the last image as the first state does, and on the one before, where that was nearly wrong."""
    good, worse = table([1.0] * 23 + [0.1, -1.0]), table([1.0] * 23 + [-1.0, -2.0])
    natural, learned = table_scorer()[0], table_scorer()[0]
    bar = learned(good).correct
    assert natural(worse, bar).n == TOTAL
    assert learned(worse, bar).n == 2


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_state_that_errs_where_the_first_did_and_more_is_found_out_no_later(seed: int, batch_size: int) -> None:
    """For bars that the first one misses: as early as can be, for every image up to then is wrong."""
    generator = torch.Generator().manual_seed(seed)
    margins = torch.randn(TOTAL, generator=generator)
    worse = table(margins - torch.rand(TOTAL, generator=generator))
    wrong = int((margins < 0).sum())
    for bar in range(TOTAL - wrong + 1, TOTAL + 2):
        natural, learned = (table_scorer(TOTAL, batch_size)[0] for _ in range(2))
        learned(table(margins))
        least = math.ceil((TOTAL - bar + 1) / batch_size) * batch_size
        assert learned(worse, bar).n == min(max(least, batch_size), TOTAL) <= natural(worse, bar).n


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_told_and_does_not_disturb_the_order(value: float) -> None:
    scorer, val = table_scorer(5, 2)
    scorer(table([1.0, 4.0, -2.0, 3.0, -1.0]))
    before = scorer(table([1.0, 4.0, -2.0, 3.0, -1.5]))
    val.places.clear()
    broken = scorer(table([1.0, value, 1.0, -value, 1.0]))
    assert not math.isfinite(broken.nll)
    assert broken.complete
    assert sorted(val.places) == [0, 1, 2, 3, 4]
    val.places.clear()
    after = scorer(table([1.0, 4.0, -2.0, 3.0, -1.25]))
    assert val.places == [2, 4, 0, 3, 1]
    assert (after.correct, math.isfinite(after.nll)) == (before.correct, True)


def test_a_network_of_nan_weights_gives_a_loss_of_nan() -> None:
    val, calibration = val_and_calibration()
    state = network(1).state_dict()
    state["5.weight"] = torch.full_like(state["5.weight"], math.nan)
    scorer = Scorer(network(), val, TOTAL, calibration)
    assert math.isnan(scorer(state).nll)
    assert scorer(state).to_json()["nll"] is None
    good = network(2).state_dict()
    assert_complete(scorer.as_is(good), *plain_loop(network(), good, val))


# By likelihood


@pytest.mark.parametrize("seed", range(12))
def test_by_nll_too_stopping_early_never_changes_a_decision(seed: int) -> None:
    """`complete and −nll ≥ bar` is true exactly where the full score reaches the bar, by more than rounding."""
    net, generator = random_network(seed), torch.Generator().manual_seed(seed)
    states = [random_state(net, spread) for spread in (0.0, 0.1, 0.5, 1.0)]
    val, _ = val_and_calibration()
    full = [plain_loop(net, state, val) for state in states]
    stopped = 0

    def pick(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    batch_size = BatchSize(int(pick(1, 9)))
    scorer = Scorer(net, val, TOTAL, None, choice=Choice("nll"), batch_size=batch_size)
    for _ in range(40):
        i = int(pick(0, 4))
        correct, nll = full[i]
        if pick(-1, 1) > 0:
            scorer.known.clear()
        bar = -nll * (1 + math.copysign(pick(5e-4, 0.5), pick(-1, 1)))
        score = scorer(states[i], bar)
        assert (score.complete and -score.nll >= bar) == (-nll >= bar)
        if score.complete:
            assert_complete(score, correct, nll)
        else:
            assert score.n < TOTAL
            stopped += 1
    assert stopped


@pytest.mark.parametrize("batch_size", [1, 7, TOTAL])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999, 1.0, 1.1])
def test_by_nll_scoring_stops_after_the_first_batch_that_puts_the_bar_out_of_reach(
    share: float, batch_size: int
) -> None:
    """The bar is the mean of a `share` of this state's own losses."""
    state, losses = random_table(0), losses_of(random_table(0))
    val = Part(torch.arange(TOTAL), torch.zeros(TOTAL, dtype=torch.long))
    scorer = Scorer(Table(TOTAL), val, TOTAL, None, choice=Choice("nll"), batch_size=BatchSize(batch_size))
    allowed = share * sum(losses)
    score = scorer(state, -allowed / TOTAL)
    ends = [*range(batch_size, TOTAL, batch_size), TOTAL]
    expected = next(n for n in ends if sum(losses[:n]) > allowed * (1 + 1e-4) or n == TOTAL)
    assert (score.n, score.complete, len(val.places)) == (expected, expected == TOTAL, expected)
    assert score.nll == pytest.approx(sum(losses[:expected]) / expected, rel=1e-5)
    again = scorer(state, -INF)
    assert (again.n, again.complete) == (TOTAL, True)


def losses_of(state: State) -> list[float]:
    return [math.log1p(math.exp(-margin)) for margin in state["margins"].tolist()]


def test_by_nll_the_images_of_the_largest_loss_come_first_whether_right_or_not() -> None:
    """The second image is always wrong, by little; the last one wrong once, by much."""
    val = Part(torch.arange(4), torch.zeros(4, dtype=torch.long))
    scorer = Scorer(Table(4), val, 4, None, choice=Choice("nll"), batch_size=BatchSize(1))
    scorer(table([9.0, -0.1, 3.0, 2.0]))
    scorer(table([9.0, -0.1, 3.0, -8.0]))
    val.places.clear()
    scorer(table([9.0, -0.1, 2.9, 2.0]))
    assert val.places == [3, 1, 2, 0]


def test_a_score_within_rounding_of_the_bar_is_taken_to_the_end() -> None:
    """A mix as likely as the incumbent, summed in another order."""
    for seed in range(20):
        scorer = Scorer(
            Table(TOTAL),
            Part(torch.arange(TOTAL), torch.zeros(TOTAL, dtype=torch.long)),
            TOTAL,
            None,
            choice=Choice("nll"),
            batch_size=BatchSize(1),
        )
        first = scorer(random_table(seed))
        scorer(random_table(seed + 100))
        scorer.known.clear()
        again = scorer(random_table(seed), -first.nll)
        assert again == first
        assert scorer.choice.replaces(again, first)


# Marks


def test_marks_are_put_back_in_the_order_of_val() -> None:
    marks = Marks(torch.tensor([3, 0, 4, 1, 2]))
    marks.add(torch.tensor([True, False]), torch.tensor([0.5, 2.0]))
    assert (marks.seen, marks.lost()) == (2, 1)
    marks.add(torch.tensor([False]), torch.tensor([4.0]))
    assert (marks.seen, marks.lost(), marks.lost()) == (3, 2, 2)
    right, loss = marks.in_order_of_val()
    assert right.tolist() == [False, False, False, True, False]
    assert loss.tolist() == [2.0, 0.0, 0.0, 0.5, 4.0]
    assert marks.score("x") == Score(1, 6.5 / 3, 3, complete=False)
    assert marks.score("x").state == "x"
    marks.add(torch.tensor([True, True]), torch.tensor([0.25, 0.25]))
    right, loss = marks.in_order_of_val()
    assert right.tolist() == [False, True, True, True, False]
    assert loss.tolist() == [2.0, 0.25, 0.25, 0.5, 4.0]
    assert marks.score("x") == Score(3, 1.4, 5)


@pytest.mark.parametrize("seed", range(5))
def test_errors_are_those_so_far(seed: int) -> None:
    right = torch.rand(20, generator=torch.Generator().manual_seed(seed)) < 0.5
    marks, told = Marks(torch.arange(20)), list[int]()
    for batch in right.split(3):
        marks.add(batch, torch.zeros(len(batch)))
        told.append(marks.lost())
    assert told == [int((~right[:n]).sum()) for n in (3, 6, 9, 12, 15, 18, 20)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_errors_are_told_one_batch_late() -> None:
    """And what is put back in order has all of them."""
    marks, told = Marks(torch.arange(20)), list[int]()
    right = (torch.rand(20, generator=torch.Generator().manual_seed(0)) < 0.5).cuda()
    for batch in right.split(3):
        marks.add(batch, torch.zeros(len(batch), device="cuda"))
        told.append(marks.lost())
    assert told == [0, *(int((~right[:n]).sum()) for n in (3, 6, 9, 12, 15, 18))]
    assert marks.in_order_of_val()[0].tolist() == right.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("batch_size", [1, 4, TOTAL])
def test_decisions_on_a_gpu_are_those_of_the_full_score(batch_size: int) -> None:
    scorer = Scorer(
        Table(TOTAL).cuda(),
        Part(torch.arange(TOTAL).cuda(), torch.zeros(TOTAL, dtype=torch.long).cuda()),
        TOTAL,
        None,
        batch_size=BatchSize(batch_size),
    )
    for seed in range(5):
        state = random_table(seed)
        full = int((state["margins"] >= 0).sum())
        for bar in range(TOTAL + 1, -1, -3):
            score = scorer(state, bar)
            assert (score.complete and score.correct >= bar) == (full >= bar)


# Memory


def refuse(net: nn.Module, room: list[int]) -> None:
    """Let `net` take at most so many images at once: one number for each pass, the last for all that follow."""

    def pre_hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        at_most = room.pop(0) if len(room) > 1 else room[0]
        if len(inputs[0]) > at_most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    net.register_forward_pre_hook(pre_hook)


@pytest.mark.parametrize("room", [[5], [20, 2], [20, 8, 8, 1], [1], [12, 3, 3, 3, 1]])
@pytest.mark.parametrize("bar", [0, 12, 20])
def test_memory_that_runs_out_on_val_changes_nothing(
    room: list[int], bar: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Even midway: it goes on with the images not seen yet, and no image counts twice."""
    state = random_table(4)
    full = int((state["margins"] >= 0).sum())
    scorer, _ = table_scorer(TOTAL, 12)
    refuse(scorer.model, room)
    with caplog.at_level(logging.WARNING):
        score = scorer(state, bar)
    assert caplog.records
    assert scorer.batch_size.images <= 6
    assert scorer.images["val"] == score.n
    assert (score.complete and score.correct >= bar) == (full >= bar)
    right = (state["margins"] >= 0).tolist()
    assert score.correct == sum(right[: score.n])
    if score.complete:
        assert score == table_scorer()[0](state)


def test_the_order_learned_is_kept_to_where_memory_runs_out() -> None:
    state, last = random_table(4), random_table(6)
    plain, cramped = table_scorer()[0], table_scorer(TOTAL, 12)[0]
    plain(state)
    cramped(state)
    refuse(cramped.model, [12, 3])
    assert cramped(last) == plain(last)
    assert cramped.batch_size.images == 3


@pytest.mark.parametrize(("room", "fits"), [([12], 12), ([24, 7], 6), ([1], 1)], ids=["first", "midway", "one image"])
def test_memory_that_runs_out_on_calibration_is_as_if_batches_had_been_smaller(room: list[int], fits: int) -> None:
    """Statistics are taken anew, none from the pass that failed."""
    val, state = Part(*labelled_images(1)), network(1).state_dict()
    images, labels = labelled_images(2, 48)
    calibration = Part(images * torch.linspace(1, 3, 48).view(-1, 1, 1, 1), labels)  # so that batches differ

    def scorer(net: nn.Module, calibration_batch: int) -> Scorer:
        sizes = {"batch_size": BatchSize(1), "calibration_batch": BatchSize(calibration_batch)}
        return Scorer(net, val, TOTAL, calibration, **sizes)

    cramped, roomy = network(), network()
    refuse(cramped, list(room))
    before, expected = scorer(network(), 24)(state), scorer(roomy, fits)(state)
    calibration.sizes.clear()
    short = scorer(cramped, 24)
    assert short(state) == expected != before
    assert calibration.sizes[0] == 24
    assert calibration.sizes[-1] == fits
    assert short.images == {"val": TOTAL, "calibration": 48}
    assert_same(cramped.state_dict(), roomy.state_dict())
    calibration.sizes.clear()
    short(network(2).state_dict())
    assert calibration.sizes == [fits]


@pytest.mark.parametrize("where", ["val", "calibration"])
def test_other_errors_of_a_network_pass_through(where: str) -> None:
    sound, broken = Part(*labelled_images(total=8)), Part(torch.zeros(8, 7, 4, 4), torch.zeros(8, dtype=torch.long))
    val, calibration = (broken, None) if where == "val" else (sound, broken)
    scorer = Scorer(network(), val, 8, calibration)
    with pytest.raises(RuntimeError, match="channels"):
        scorer(network().state_dict())
    assert not scorer.known
