"""What a search is judged on: the right network, the right images, the right normalisation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import ArchError, DataError, PoolError
from lptool.pooling.job import pool_target
from lptool.pooling.setup import PoolOptions, open_bench

OPTIONS = PoolOptions(device="cpu", calibration_size=100)


def test_the_bench_is_what_the_tickets_say(tickets: list[Path]) -> None:
    bench = open_bench(tickets, OPTIONS)
    assert (bench.arch, bench.arch_kwargs) == ("resnet8_cifar", {"num_classes": 10, "in_chans": 1})
    described = bench.pool.summaries[0].metadata.dataset
    assert bench.data.describe() == described
    assert bench.warnings == ()


def test_what_reconstruct_leaves_out_is_said_once_as_a_pool_is_opened(
    tickets: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "import timm, torch\n"
        "def net(**kwargs):\n"
        "    model = timm.create_model('resnet8_cifar', **kwargs)\n"
        "    model.conv1.register_forward_hook(lambda module, given, made: 2 * made)\n"
        "    return model\n"
    )
    (tmp_path / "net.py").write_text(code)
    own = replace(OPTIONS, arch=f"{tmp_path / 'net.py'}:net")
    bench, window = open_bench(tickets, own), open_bench(tickets, replace(own, method="window"))
    said = [line for line in bench.warnings if "conv1.weight; it fits" in line]
    assert len(said) == 1
    assert "reconstruct cannot fit 1 of " in said[0]
    assert not [line for line in window.warnings if "reconstruct" in line]
    assert "conv1" not in {layer.name for layer in bench.rebuilder.layers}
    assert caplog.text == ""


def test_scores_do_not_depend_on_the_order_of_val(tickets: list[Path]) -> None:
    """The search sees the hardest images first; reports see them in order; both count the same images."""
    bench = open_bench(tickets, replace(OPTIONS, precision="fp32"))
    state = bench.pool[1].state
    assert bench.scorer.as_is(state).correct == bench.score(state, bench.data.val).correct


@pytest.mark.parametrize("change", [{"select": "loss"}, {"per": "layer"}, {"learning_steps": 0}, {"learning_rate": 0}])
def test_a_choice_or_learning_that_is_none_is_refused_at_once(tickets: list[Path], change: dict[str, Any]) -> None:
    with pytest.raises(PoolError, match=r"expected|must be"):
        open_bench(tickets, replace(OPTIONS, **change))


def test_the_batch_size_is_probed_unless_it_is_given(tickets: list[Path]) -> None:
    """And what goes into the result, recalibration and reported scores, does not depend on the probe."""
    probed = open_bench(tickets, OPTIONS)
    assert probed.scorer.batch_size.images in (32, 64, 128, 256, 512)
    assert probed.batch_size.images == 256
    given = open_bench(tickets, replace(OPTIONS, batch_size=48))
    assert (given.scorer.batch_size.images, given.batch_size.images) == (48, 48)


def test_a_state_in_the_search_scores_as_it_does_in_the_report(tickets: list[Path]) -> None:
    """Calibrated on all training images, in float32, the search's score is that of the finished model."""
    options = replace(OPTIONS, precision="fp32", calibration_size=10**6, final_calibration_size=10**6)
    bench = open_bench(tickets, options)
    state = bench.pool[2].state
    assert bench.scorer(state).correct == bench.score(bench.recalibrated(state), bench.data.val).correct


def test_the_seed_chooses_the_images_of_calibration(tickets: list[Path]) -> None:
    """So of few of them another seed leaves other statistics behind, and of all of them the same."""

    def statistics(seed: int, size: int, bn_images: str = "plain") -> torch.Tensor:
        options = replace(OPTIONS, precision="fp32", calibration_size=size, seed=seed, bn_images=bn_images)
        bench = open_bench(tickets, options)
        bench.scorer(bench.pool[2].state)
        return next(t for name, t in bench.model.state_dict().items() if name.endswith("running_mean")).clone()

    assert torch.equal(statistics(0, 100), statistics(0, 100))
    assert not torch.equal(statistics(0, 100), statistics(1, 100))
    assert torch.equal(statistics(0, 10**6), statistics(1, 10**6))
    # The augmentation is another one, too.
    assert torch.equal(statistics(0, 10**6, "augmented"), statistics(0, 10**6, "augmented"))
    assert not torch.equal(statistics(0, 10**6, "augmented"), statistics(1, 10**6, "augmented"))


def test_a_batch_that_does_not_fit_is_halved(tickets: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    small, large = (open_bench(tickets, replace(OPTIONS, batch_size=size)) for size in (100, 400))

    def forbid(module: torch.nn.Module, images: tuple[torch.Tensor]) -> None:
        if len(images[0]) > 100:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    large.model.register_forward_pre_hook(forbid)
    state = small.pool[1].state
    for part in (small.data.val, small.data.test):
        assert large.score(state, part).correct == small.score(state, part).correct
    assert large.scorer(state).correct == small.scorer(state).correct
    for name, t in small.recalibrated(state).items():
        assert torch.equal(t, large.recalibrated(state)[name])
    assert "400 images at once do not fit in memory; going on with half" in caplog.text


@pytest.mark.parametrize("options", [{"mean": (0.5,), "std": (0.25,)}])
def test_a_normalisation_asked_for_is_used(tickets: list[Path], options: dict[str, tuple[float, ...]]) -> None:
    bench = open_bench(tickets, replace(OPTIONS, **options))  # type: ignore[arg-type]
    assert (bench.data.mean, bench.data.std) == ((0.5,), (0.25,))


def test_a_normalisation_of_other_channels_is_refused(tickets: list[Path]) -> None:
    with pytest.raises(DataError, match=r"have 1 channels, but the normalisation has 3 means and 1 standard"):
        open_bench(tickets, replace(OPTIONS, mean=(0.5, 0.5, 0.5), std=(0.2,)))


def test_an_architecture_of_the_users_own(tmp_path: Path, tickets: list[Path]) -> None:
    """A class that wraps the network, so that all its names begin with `model.`; the file's do not."""
    code = (
        "import timm, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.model = timm.create_model('resnet8_cifar', num_classes=num_classes, in_chans=1)\n"
        "    def forward(self, x):\n"
        "        return self.model(x)\n"
    )
    (tmp_path / "net.py").write_text(code)
    own = open_bench(tickets, replace(OPTIONS, arch=f"{tmp_path / 'net.py'}:Net"))
    plain = open_bench(tickets, OPTIONS)
    assert own.pool.prunable == tuple(f"model.{name}" for name in plain.pool.prunable)
    scores = [b.score(b.pool[2].state, b.data.test) for b in (own, plain)]
    assert scores[0] == scores[1]


def test_a_network_that_nothing_fits_has_to_be_named(tmp_path: Path) -> None:
    for level in (0, 1):
        save_file({"strange.weight": torch.full((3, 3), float(level))}, tmp_path / f"{level}.safetensors")
    with pytest.raises(ArchError, match="none known has its tensors; name it with --arch"):
        open_bench(sorted(tmp_path.iterdir()), replace(OPTIONS, dataset="digits"))


def test_the_file_that_names_the_architecture_is_blamed(tmp_path: Path, tickets: list[Path]) -> None:
    """Also where it is not the first of the pool."""
    save_file(load_file(tickets[0]), tmp_path / "bare.safetensors")
    ticket = load_ticket(tickets[1])
    save_ticket(replace(ticket, metadata=replace(ticket.metadata, arch="resnet7")), tmp_path / "odd.safetensors")
    with pytest.raises(ArchError, match=r"odd\.safetensors: unknown architecture 'resnet7'"):
        open_bench([tmp_path / "bare.safetensors", tmp_path / "odd.safetensors"], PoolOptions())


def test_duplicates_are_dropped_with_a_warning(tmp_path: Path, tickets: list[Path]) -> None:
    save_file(load_file(tickets[1]), tmp_path / "again.safetensors")
    bench = open_bench([*tickets, tmp_path / "again.safetensors"], OPTIONS)
    assert len(bench.pool) == len(tickets)
    assert "again.safetensors: has the same weights as" in bench.warnings[0]


def test_whatever_is_odd_about_a_pool_is_said_and_accepted(tmp_path: Path, tickets: list[Path]) -> None:
    """No dense ticket, and masks that keep other weights than the denser ones do."""
    files = []
    for level, seed in ((1, 0), (2, 1)):
        state = load_file(tickets[level])
        noise = torch.Generator().manual_seed(seed)
        state = {n: t * (torch.rand(t.shape, generator=noise) < 0.5) if "conv" in n else t for n, t in state.items()}
        files.append(tmp_path / f"{level}.safetensors")
        save_file(state, files[-1])
    bench = open_bench(files, replace(OPTIONS, dataset="digits", arch="resnet8_cifar"))
    said = "\n".join(bench.warnings)
    assert "no dense ticket" in said
    assert "2.safetensors: not nested in" in said
    assert "every exact zero counts as pruned" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tickets_give_a_half_precision_file(
    tmp_path: Path, tickets: list[Path], dtype: torch.dtype
) -> None:
    files = []
    for path in tickets[:2]:
        state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in load_file(path).items()}
        files.append(tmp_path / path.name)
        save_file(state, files[-1])
    bench = open_bench(files, replace(OPTIONS, dataset="digits", alphas=(0.5,)))
    result = pool_target(bench, 1, tmp_path / "out.safetensors")
    written = load_file(result.output)
    assert {t.dtype for t in written.values()} == {dtype, torch.int64}
    bench.model.load_state_dict(written)
    assert bench.score(written, bench.data.test) == result.test["pooled"]
