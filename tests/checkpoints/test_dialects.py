"""Files laid out exactly as other programs write them, made with the same public calls, never with our writer.

Every dialect holds the same network with the same mask, so every one has to give the same ticket.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.ao.pruning import WeightNormSparsifier
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import prune

from lptool.checkpoints.containers import open_file
from lptool.checkpoints.dialects import Entry, layout_of, unwrapped
from lptool.checkpoints.finding import find_checkpoints
from lptool.checkpoints.reading import load_ticket, open_checkpoint
from lptool.errors import CheckpointError
from lptool.networks.architecture import load_model
from lptool.networks.building import build_model
from lptool.networks.matching import fit_names
from lptool.pooling.job import pool_target
from lptool.pooling.setup import PoolOptions, open_bench


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("resnet8_cifar", num_classes=10, in_chans=1)


def masks(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.weight": torch.rand(module.weight.shape, generator=generator) < 0.4
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }


def pruned(model: nn.Module, mask: dict[str, Tensor]) -> nn.Module:
    """As the published code does it: `custom_from_mask` on every convolution."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            prune.custom_from_mask(module, "weight", mask[f"{name}.weight"].float())
    return model


def zeroed(model: nn.Module, mask: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t * mask[name] if name in mask else t for name, t in model.state_dict().items()}


def write_prune(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    torch.save(pruned(model, mask).state_dict(), folder / "a.pt")
    return folder / "a.pt"


class NormalizeByChannelMeanStd(nn.Module):
    """The published networks normalise inside, with buffers of this name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3]))
        self.register_buffer("std", torch.tensor([0.37]))


def write_published(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    wrapped = pruned(model, mask)
    wrapped.add_module("normalize", NormalizeByChannelMeanStd())
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1, momentum=0.9)
    content = {
        "result": {"train_ta": [np.float64(71.5), 80.0], "val_ta": [np.float32(70.0)], "test_ta": []},
        "epoch": 182,
        "state_dict": wrapped.state_dict(),
        "best_sa": np.float64(91.2),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [91, 136]).state_dict(),
        "init_weight": model.state_dict(),
    }
    torch.save(content, folder / "3model_SA_best.pth.tar")
    torch.save({**content, "state_dict": {}}, folder / "3checkpoint.pth.tar")
    return folder / "3model_SA_best.pth.tar"


def write_openlth(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    place = folder / "level_3" / "main"
    place.mkdir(parents=True)
    torch.save({name: kept.int() for name, kept in mask.items()}, place / "mask.pth")
    torch.save(network(5).state_dict(), place / "model_ep0_it0.pth")
    torch.save(model.state_dict(), place / "model_ep160_it0.pth")  # unmasked on disk
    return place / "model_ep160_it0.pth"


def write_turboprune(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_buffer("mask", mask[f"{name}.weight"].float())
    torch.save(model.state_dict(), folder / "model_level_3.pt")
    torch.save(model.state_dict(), folder / "model_init.pt")
    return folder / "model_level_3.pt"


def write_lightning(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    module = nn.Module()
    module.model = pruned(model, mask)
    module.register_buffer("class_weight", torch.ones(10))
    content = {
        "epoch": 3,
        "global_step": 99,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": module.state_dict(),
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.9)}},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": argparse.Namespace(lr=0.1, arch="resnet8"),
    }
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def write_parallel(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    torch.save({"net": nn.DataParallel(pruned(model, mask)).state_dict()}, folder / "a.pth")
    return folder / "a.pth"


def write_compiled(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    compiled = nn.DataParallel(torch.compile(pruned(model, mask)))  # type: ignore[arg-type]
    torch.save({"model": compiled.state_dict(), "args": argparse.Namespace(lr=0.1)}, folder / "a.bin")
    return folder / "a.bin"


def write_parts_wrapped(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    """Parts compiled, checkpointed and spread over devices by themselves."""
    model = pruned(model, mask)
    model.layer1 = checkpoint_wrapper(model.layer1)
    model.layer2[0] = torch.compile(model.layer2[0])  # type: ignore[index, operator]
    model.layer3 = nn.DataParallel(model.layer3)  # type: ignore[arg-type]
    state = {name.replace("layer1.", "layer1._checkpoint_wrapped_module."): t for name, t in model.state_dict().items()}
    torch.save(state, folder / "a.pt")
    return folder / "a.pt"


def write_sparsifier(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    """torch.ao.pruning before `squash_mask()`: a parametrization of every weight, masks in the sparsifier's state."""
    model, sparsifier = copy.deepcopy(model), WeightNormSparsifier()
    sparsifier.prepare(model, [{"tensor_fqn": name} for name in mask])
    for group in sparsifier.groups:
        group["module"].parametrizations.weight[0].mask.copy_(mask[group["tensor_fqn"]])
    masks = {name: {"mask": state["mask"]} for name, state in sparsifier.state_dict()["state"].items()}
    state = {"model": model.state_dict(), "sparsifier": {"state": masks}}
    assert any(name.endswith("parametrizations.weight.original") for name in state["model"])
    torch.save(state, folder / "a.pt")
    return folder / "a.pt"


def write_dictionary(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    torch.save({"model": model.state_dict(), "masks": mask}, folder / "a.pt")
    return folder / "a.pt"


def write_without_counters(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    """As torch before 0.4.1 did, and programs that drop what is not float; torch's own strict load takes it."""
    state = {name: t for name, t in zeroed(model, mask).items() if not name.endswith("num_batches_tracked")}
    copy.deepcopy(model).load_state_dict(state, strict=True)
    torch.save(state, folder / "a.pt")
    return folder / "a.pt"


def write_within(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    """A module of a user's own around the network, with the state of metrics and a loss beside it."""
    state = {f"net.{name}": t for name, t in pruned(model, mask).state_dict().items()}
    metrics = {f"train_acc.{name}": torch.zeros(100, dtype=torch.long) for name in ("tp", "fp", "tn", "fn")}
    beside = {
        "criterion.weight": torch.ones(100),
        "criterion.log_vars": torch.ones(30),
        "ema.n_averaged": torch.tensor(3),
    }
    confusion = {"confusion.confmat": torch.zeros(100, 100, dtype=torch.long)}
    torch.save({"state_dict": {**state, **metrics, **beside, **confusion}}, folder / "a.pt")
    return folder / "a.pt"


def write_safetensors_zeros(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    save_file(zeroed(model, mask), folder / "a.safetensors")
    return folder / "a.safetensors"


def write_safetensors_masks(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    save_file({**model.state_dict(), **{f"{n}_mask": m for n, m in mask.items()}}, folder / "a.safetensors")
    return folder / "a.safetensors"


def write_hugging_face(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    save_file(zeroed(model, mask), folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "resnet8_cifar", "num_classes": 10}')
    return folder / "model.safetensors"


def write_shards(folder: Path, model: nn.Module, mask: dict[str, Tensor]) -> Path:
    tensors = {**model.state_dict(), **{f"{n}.mask": m.to(torch.uint8) for n, m in mask.items()}}
    shards = {f"model-{i:05}-of-00002.safetensors": list(tensors)[i - 1 :: 2] for i in (1, 2)}
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / shard)
    places = {name: shard for shard, names in shards.items() for name in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(str({"metadata": {"total_size": 1}, "weight_map": places}).replace("'", '"'))
    return index


COUNTERS = {name for name in network().state_dict() if name.endswith("num_batches_tracked")}
Writer = Callable[[Path, nn.Module, dict[str, Tensor]], Path]
WRITERS: list[Writer] = [
    write_prune,
    write_published,
    write_openlth,
    write_turboprune,
    write_lightning,
    write_parallel,
    write_compiled,
    write_sparsifier,
    write_dictionary,
    write_without_counters,
    write_safetensors_zeros,
    write_safetensors_masks,
    write_hugging_face,
    write_shards,
]


@pytest.mark.parametrize("write", WRITERS)
def test_every_dialect_gives_the_same_ticket(tmp_path: Path, write: Writer) -> None:
    model = network()
    mask = masks(model)
    file = write(tmp_path, model, mask)
    ticket = load_ticket(file)
    assert ticket.mask.keys() == mask.keys()
    assert all(torch.equal(ticket.mask[name], kept) for name, kept in mask.items())
    expected = zeroed(model, mask)
    assert expected.keys() - ticket.state.keys() <= COUNTERS
    assert all(torch.equal(ticket.state[name], expected[name]) for name in expected.keys() & ticket.state.keys())
    assert find_checkpoints([tmp_path]) == [file]
    assert open_checkpoint(file).summary.mask_source == {
        write_safetensors_zeros: "zeros",
        write_hugging_face: "zeros",
        write_without_counters: "zeros",
        write_openlth: "mask.pth",
        write_dictionary: "masks",
        write_sparsifier: "masks",
    }.get(write, "mask tensors")


# Whose plain names are not the network's.
OTHERS: list[Writer] = [write_parts_wrapped, write_within]


@pytest.mark.parametrize("write", [*WRITERS, *OTHERS])
def test_the_pooled_file_goes_back_under_the_names_it_came_with(tmp_path: Path, write: Writer) -> None:
    """Two tickets of one network that differ by little, so that a pool is found; the names are what counts."""
    files = []
    for level, noise in enumerate((0.0, 0.01)):
        (tmp_path / str(level)).mkdir()
        model = network()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(noise)
        files.append(write(tmp_path / str(level), model, masks(model)))
    options = PoolOptions(method="greedy", dataset="digits", alphas=(0.5,), bn_images="none", device="cpu")
    result = pool_target(open_bench(files, options), 0, tmp_path / "out.safetensors")
    origin = open_checkpoint(files[0])
    written = open_file(result.output).tensors
    assert set(written) == set(origin.own_names.values())
    carried = origin.own_names.keys() - fit_names(network(), origin.summary.shapes, "resnet8_cifar", "a").of.keys()
    assert all(torch.equal(written[origin.own_names[name]], origin.tensor(name)) for name in carried)
    again = load_ticket(result.output)
    assert again.metadata.arch == "resnet8_cifar"
    assert set(again.mask) == set(origin.prunable)
    assert len(again.mask) == len(masks(network()))
    load_model(result.output)


def test_a_normalising_module_in_the_file_sets_the_normalisation(tmp_path: Path) -> None:
    files = []
    for level in (0, 1):
        (tmp_path / str(level)).mkdir()
        files.append(write_published(tmp_path / str(level), network(level), masks(network())))
    bench = open_bench(files, PoolOptions(dataset="digits", arch="resnet8_cifar", device="cpu"))
    assert bench.data.mean == pytest.approx((0.3,))
    assert bench.data.std == pytest.approx((0.37,))


def test_layouts_of_names() -> None:
    names = ["a.bias", "a.weight_orig", "a.weight_mask", "b.weight", "b.mask", "c.weight", "c.weight_mask", "attn_mask"]
    assert layout_of(names) == {
        "a.bias": Entry("a.bias"),
        "a.weight": Entry("a.weight_orig", "a.weight_mask"),
        "b.weight": Entry("b.weight", "b.mask"),
        "c.weight": Entry("c.weight", "c.weight_mask"),
        "attn_mask": Entry("attn_mask"),  # a buffer of attention, no mask of a weight
    }


def test_a_tensor_that_is_called_orig_and_has_no_mask_keeps_its_name(tmp_path: Path) -> None:
    state = {"a.weight_orig": torch.ones(2, 2), "b.weight_orig": torch.ones(2, 2), "b.weight_mask": torch.eye(2)}
    save_file(state, tmp_path / "a.safetensors")
    ticket = load_ticket(tmp_path / "a.safetensors")
    assert ticket.state.keys() == {"a.weight_orig", "b.weight"}
    assert ticket.mask.keys() == {"b.weight"}


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["module.a", "module.b"], ["a", "b"]),
        (["module._orig_mod.model.a", "module._orig_mod.model.b"], ["a", "b"]),
        (["model.a", "model.b", "loss"], ["a", "b", "loss"]),
        (["a", "b", "model.c"], ["a", "b", "model.c"]),
        (["model.a", "model.b", "a"], ["model.a", "model.b", "a"]),  # two would become one
        (["a._orig_mod.b", "c._fsdp_wrapped_module._checkpoint_wrapped_module.d", "e"], ["a.b", "c.d", "e"]),
        (["a._orig_mod.b", "a.b"], ["a._orig_mod.b", "a.b"]),
        (["my_orig_mod.b", "a"], ["my_orig_mod.b", "a"]),
    ],
)
def test_wrappers_come_off_where_most_names_bear_them(names: list[str], plain: list[str]) -> None:
    assert unwrapped(names) == dict(zip(plain, names, strict=True))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 3), r"mask w_mask is \[2, 3\], expected \[2, 2\] as w is"),
        (torch.ones(4), r"mask w_mask is \[4\], expected \[2, 2\] as w is"),
        (torch.ones(4, 1), r"mask w_mask is \[4, 1\], expected \[2, 2\] as w is"),
        (torch.full((2, 2), 0.5), r"mask w_mask has 4 values other than 0 and 1, such as 0\.5"),
    ],
)
def test_masks_that_are_none(tmp_path: Path, mask: Tensor, message: str) -> None:
    save_file({"w": torch.ones(2, 2), "w_mask": mask}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_ticket(tmp_path / "a.safetensors")


def test_a_files_own_masks_go_before_those_of_the_file_beside_it(tmp_path: Path) -> None:
    own, beside = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    weights = {"v": torch.full((2, 2), 3.0), "w": torch.full((2, 2), 5.0)}
    torch.save({**weights, "w_mask": own}, tmp_path / "model_ep1_it0.pth")
    torch.save({"v": beside, "w": beside}, tmp_path / "mask.pth")
    ticket = load_ticket(tmp_path / "model_ep1_it0.pth")
    assert torch.equal(ticket.state["w"], 5 * own)
    assert torch.equal(ticket.state["v"], 3 * beside)
    assert torch.equal(ticket.mask["w"], own.bool())


def test_a_mask_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "model_ep1_it0.pth")
    torch.save({"v": torch.ones(2, 2)}, tmp_path / "mask.pth")
    with pytest.raises(CheckpointError, match=r"has masks for v, which model_ep1_it0.pth lacks"):
        load_ticket(tmp_path / "model_ep1_it0.pth")
