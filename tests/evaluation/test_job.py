"""Files scored, corrupted and compared, beside plain loops over the same images."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn

import lptool
from lptool.checkpoints.masks import kept_count
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_packed, save_ticket
from lptool.data.corruptions import EXTRA, KINDS, SEVERITIES, STANDARD, Corrupted, standard
from lptool.errors import SetupError
from lptool.evaluation import job as evaluation
from lptool.evaluation import setup as subjects
from lptool.evaluation.job import Evaluation, carry_out, evaluate_files
from lptool.evaluation.setup import EvaluateOptions, plan_evaluation
from lptool.pooling.setup import PoolOptions, open_bench
from lptool.ranks import ALONE, Ranks

CPU = EvaluateOptions(device="cpu")


def logits_of(path: Path, images: Tensor) -> Tensor:
    """A plain pass over uint8 images, normalised as the file says."""
    dataset = lptool.load_ticket(path).metadata.dataset
    with torch.no_grad():
        return lptool.load_model(path)((images.float() / 255 - dataset["mean"][0]) / dataset["std"][0])


@pytest.fixture(scope="module")
def two(tickets: list[Path]) -> Evaluation:
    return evaluate_files([tickets[0], tickets[3]], CPU)


@pytest.fixture(scope="module")
def digits(tickets: list[Path]) -> tuple[Tensor, Tensor]:
    test = plan_evaluation(tickets[:1], CPU).data.test
    (batch,) = test.raw([torch.arange(len(test))], torch.device("cpu"))
    return batch


def test_scores_are_those_of_a_plain_loop(two: Evaluation, tickets: list[Path], digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    for result, path in zip(two.files, (tickets[0], tickets[3]), strict=True):
        logits = logits_of(path, images)
        assert result.summary.file == str(path)
        assert result.test.score.accuracy == accuracy_score(labels, logits.argmax(1))
        assert result.test.score.nll == pytest.approx(log_loss(labels, logits.double().softmax(1)), rel=1e-4)
        assert torch.equal(result.test.right, logits.argmax(1) == labels)
    assert (two.dataset, two.num_classes, two.source, two.device) == ("digits", 10, None, "cpu")


def test_scores_are_those_that_pooling_reports(two: Evaluation, tickets: list[Path]) -> None:
    bench = open_bench(tickets, PoolOptions(device="cpu"))
    score = bench.score(bench.pool[3].state, bench.data.test)
    assert two.files[1].test.score == score
    assert two.files[1].test.score.nll == pytest.approx(score.nll, abs=1e-6)


def test_outputs_that_are_no_numbers_are_wrong_and_told(two: Evaluation, tickets: list[Path], tmp_path: Path) -> None:
    ticket = lptool.load_ticket(tickets[0])
    weights = {name: torch.full_like(ticket.state[name], 3e38) for name in ("conv1.weight", "fc.weight")}
    save_ticket(replace(ticket, state={**ticket.state, **weights}), tmp_path / "a.safetensors")
    found = evaluate_files([tmp_path / "a.safetensors", tickets[0]], EvaluateOptions(device="cpu"))
    assert found.files[0].test.score.correct < 359 // 20  # all NaN would be right for each image of class 0
    assert len(found.warnings) == 1
    assert "a.safetensors: logits of test images are not finite" in found.warnings[0]
    assert two.warnings == []


def test_every_two_files_are_compared(tickets: list[Path]) -> None:
    found = evaluate_files(tickets[:3], CPU)
    assert list(found.comparisons) == [(0, 1), (0, 2), (1, 2)]
    for (i, j), comparison in found.comparisons.items():
        a, b = found.files[i].test.right, found.files[j].test.right
        assert comparison.a_only == sum(x and not y for x, y in zip(a.tolist(), b.tolist(), strict=True))
        assert comparison.b_only == sum(y and not x for x, y in zip(a.tolist(), b.tolist(), strict=True))


def test_costs_are_those_of_the_files_own_masks(two: Evaluation, tickets: list[Path], tmp_path: Path) -> None:
    dense, sparse = (result.cost for result in two.files)
    assert dense.kept == dense.parameters
    assert dense.flops_kept == dense.flops_dense == sparse.flops_dense
    mask = lptool.load_ticket(tickets[3]).mask
    pruned = sum(kept.numel() for kept in mask.values()) - kept_count(mask)
    assert sparse.parameters - sparse.kept == pruned > 0
    assert sparse.bytes_dense == tickets[3].stat().st_size
    save_packed(lptool.load_ticket(tickets[3]), tmp_path / "packed")
    assert sparse.bytes_kept == (tmp_path / "packed").stat().st_size < sparse.bytes_dense
    assert sparse.flops_kept < dense.flops_kept


def test_the_flops_of_a_network_are_counted_once(tickets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[nn.Module] = []
    count = subjects.count_flops
    monkeypatch.setattr(subjects, "count_flops", lambda model, shape: counted.append(model) or count(model, shape))
    evaluate_files(tickets[:2], CPU)
    assert len(counted) == 1


def test_under_corruptions(tickets: list[Path], digits: tuple[Tensor, Tensor], two: Evaluation) -> None:
    files = [tickets[0], tickets[3]]
    told: list[tuple[int, int]] = []
    options = replace(CPU, corruptions=True)
    found = evaluate_files(files, options, lambda done, total, text: told.append((done, total)))
    kinds = [kind for kind in KINDS if kind != "saturation"]
    assert found.source == "C-style, torchvision v2"
    assert told == [(i + 1, 2 + 2 * 5 * len(kinds)) for i in range(2 + 2 * 5 * len(kinds))]
    test, places = plan_evaluation(files, CPU).data.test, torch.arange(359)
    for path, result, plain in zip(files, found.files, two.files, strict=True):
        assert [(row.name, row.severity) for row in result.corrupted] == [(k, s) for k in kinds for s in SEVERITIES]
        assert result.test == plain.test
        accuracies = {s: [r.metrics.score.accuracy for r in result.corrupted if r.severity == s] for s in SEVERITIES}
        assert sum(accuracies[5]) < sum(accuracies[1])
        assert result.mean_corruption_accuracy == pytest.approx(np.mean(list(accuracies.values())))
        (images, labels), *_ = Corrupted(test, places, "elastic", 5).raw([places], torch.device("cpu"))
        expected = accuracy_score(labels, logits_of(path, images).argmax(1))
        assert result.corrupted[-1].metrics.score.accuracy == expected
    again = evaluate_files(files[:1], replace(options, batch_size=50)).files[0]
    assert [r.metrics.score for r in again.corrupted] == [r.metrics.score for r in found.files[0].corrupted]


ROWS = 6


@pytest.fixture
def cifar(tmp_path: Path) -> tuple[Path, Path]:
    """A data set of CIFAR's shape with its standard corruptions, and a network of random weights for it."""
    rng = np.random.default_rng(0)
    parts = {f"{part}_images": rng.integers(0, 256, (20, 32, 32, 3), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "a.npz", **parts, **{f"{part}_labels": np.arange(20) % 10 for part in ("train", "test")})
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    for name in (*STANDARD, EXTRA[0]):
        np.save(folder / f"{name}.npy", rng.integers(0, 256, (5 * ROWS, 32, 32, 3), np.uint8))
    np.save(folder / "labels.npy", np.arange(5 * ROWS) % 10)
    torch.manual_seed(0)
    state = timm.create_model("resnet8_cifar", num_classes=10).state_dict()
    dataset = {"name": f"npz:{tmp_path / 'a.npz'}", "mean": [0.5] * 3, "std": [0.5] * 3}
    kwargs = {"num_classes": 10, "in_chans": 3}
    save_ticket(
        Ticket(state, {}, Metadata(arch="resnet8_cifar", arch_kwargs=kwargs, dataset=dataset)),
        tmp_path / "a.safetensors",
    )
    return tmp_path / "a.safetensors", folder


def test_the_standard_corruptions(cifar: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = cifar
    monkeypatch.setattr(subjects, "standard", partial(standard, rows=ROWS))
    found = evaluate_files([path], replace(CPU, corruptions=True, data_dir=folder))
    rows = found.files[0].corrupted
    assert found.source == "CIFAR-10-C"
    assert len(rows) == 16 * 5
    row = next(r for r in rows if (r.name, r.severity) == ("fog", 3))
    images = torch.from_numpy(np.load(folder / "fog.npy")[2 * ROWS : 3 * ROWS]).permute(0, 3, 1, 2)
    labels = np.load(folder / "labels.npy")[2 * ROWS : 3 * ROWS]
    assert row.metrics.score.n == ROWS
    assert row.metrics.score.accuracy == accuracy_score(labels, logits_of(path, images).argmax(1))
    standard_rows = [r.metrics.score.accuracy for r in rows if r.name != EXTRA[0]]
    assert found.files[0].mean_corruption_accuracy == pytest.approx(np.mean(standard_rows))
    perfect = replace(row.metrics, score=replace(row.metrics.score, correct=ROWS))
    better = [replace(r, metrics=perfect) if r.name == EXTRA[0] else r for r in rows]
    assert replace(found.files[0], corrupted=better).mean_corruption_accuracy == pytest.approx(np.mean(standard_rows))


def test_a_batch_that_does_not_fit_is_halved(
    tickets: list[Path], two: Evaluation, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_evaluation([tickets[3]], CPU)

    def forbid(module: nn.Module, images: tuple[Tensor]) -> None:
        if len(images[0]) > 100:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    plan.subjects[0].network.model.register_forward_pre_hook(forbid)
    assert carry_out(plan).files[0].test.score == two.files[1].test.score
    assert "going on with half" in caplog.text


def test_networks_stay_in_the_mode_they_were_in(tickets: list[Path]) -> None:
    plan = plan_evaluation(tickets[:1], CPU)
    model = plan.subjects[0].network.model.train()
    evaluation.measured(plan, plan.subjects[0], plan.data.test, ALONE)
    assert model.training


def test_latency_is_measured_of_each_file_where_it_is_asked_for(
    tickets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000))
    timed = partial(evaluation.measure_latency, clock=lambda: float(next(ticks)))
    monkeypatch.setattr(evaluation, "measure_latency", timed)
    for size, images in ((None, 32), (6, 6)):
        options = replace(CPU, latency=True, batch_size=size)
        for result in evaluate_files(tickets[:2], options).files:
            assert result.latency is not None
            assert (result.latency.one.images, result.latency.batch.images) == (1, images)
            assert result.latency.one.median == result.latency.batch.q95 == 1
    assert evaluate_files(tickets[:1], CPU).files[0].latency is None


def test_latency_of_several_processes_is_refused(tickets: list[Path]) -> None:
    plan = plan_evaluation(tickets[:1], replace(CPU, latency=True))
    with pytest.raises(SetupError, match="one process alone; leave out --latency, or torchrun"):
        carry_out(plan, ranks=Ranks(0, 2))
