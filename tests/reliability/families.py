"""The families of cases by name; in turn, a case of each."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from tests.reliability import checkpoint_cases, data_cases, folder_cases, onnx_cases
from tests.reliability.cases import Case, Material

FAMILIES: dict[str, Callable[[random.Random, Path, Material], Case]] = {
    "safetensors": checkpoint_cases.safetensors,
    "packed": checkpoint_cases.packed,
    "metadata": checkpoint_cases.metadata,
    "headers": checkpoint_cases.header_names,
    "pickles": checkpoint_cases.pickles,
    "objects": checkpoint_cases.objects,
    "openlth": checkpoint_cases.openlth,
    "folders": checkpoint_cases.hugging_face,
    "onnx": onnx_cases.onnx_file,
    "kinds": checkpoint_cases.kinds,
    "runs": folder_cases.run_folder,
    "journals": folder_cases.journals,
    "documents": folder_cases.documents,
    "outputs": folder_cases.outputs,
    "npz": data_cases.npz,
    "idx": data_cases.idx,
    "pictures": data_cases.picture_folder,
    "predicted": data_cases.predicted,
    "shards": data_cases.shards,
    "places": data_cases.kinds,
    "cache": data_cases.cache_file,
}
