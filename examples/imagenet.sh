#!/usr/bin/env bash
# ImageNet on the GPUs of one machine: nine tickets of a ResNet, pooled and evaluated. docs/imagenet.md explains it.
#   DATA=/data/imagenet PROCESSES=8 bash examples/imagenet.sh
#   DATA=pictures PROCESSES=2 TINY=1 bash examples/imagenet.sh   # the same steps in a minute, on a CPU and few pictures
# DATA has train/ and val/ with a folder per class. Further arguments go to `lptool train`.
# After a kill the same command goes on.
set -euo pipefail
data=${DATA:-imagenet} processes=${PROCESSES:-8} runs=${RUNS:-runs} preset=${PRESET:-paper-imagenet-resnet18}

on="--device auto" train="" pool=""
if [[ -n ${TINY:-} ]]; then
  on="--device cpu"
  train="--arch resnet8_cifar --image-size 32 --epochs 2 --rewind-epoch 1 --warmup 1 --batch-size 8 --lr 0.01 --levels 1"
  pool="--method average --calibration-size 64"
fi

for dry in --dry-run ""; do # first the plan, then the tickets
  torchrun --standalone --nproc-per-node "$processes" -m lptool \
    train -o "$runs/imagenet" --preset "$preset" --dataset "folder:$data" $on $train "$@" $dry
done
torchrun --standalone --nproc-per-node "$processes" -m lptool \
  pool "$runs/imagenet" -o "$runs/imagenet.safetensors" --dataset "folder:$data" $on $pool --overwrite
torchrun --standalone --nproc-per-node "$processes" -m lptool \
  evaluate "$runs/imagenet.safetensors" "$runs/imagenet" --dataset "folder:$data" $on --json > "$runs/imagenet.json"
