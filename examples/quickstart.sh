#!/usr/bin/env bash
# Six tickets of a small ResNet on scikit-learn's digits, pooled into one model at the sparsity of the last.
set -euo pipefail
runs=${1:-runs/quickstart}
mkdir -p "$runs" && cd "$runs"

lptool train
lptool pool ckpts/*.safetensors
lptool inspect
