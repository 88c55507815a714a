#!/usr/bin/env bash
# Six tickets of a small ResNet on scikit-learn's digits, pooled into one model at the sparsity of the last.
set -euo pipefail
runs=${1:-runs/quickstart}

lptool train -o "$runs" --preset quickstart
lptool inspect "$runs"
lptool pool "$runs" -o "$runs/pooled/pooled.safetensors" --overwrite
lptool inspect "$runs/pooled/pooled.safetensors"
