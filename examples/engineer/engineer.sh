#!/usr/bin/env bash
# From pictures in folders to files that a service loads: engineer.sh PHOTOS OUT [more options of lptool train]
# The network and the few epochs are for trying it out; docs/engineer.md says what to change.
set -euo pipefail
photos=$1 out=$2
shift 2

lptool train -o "$out/tickets" --dataset "folder:$photos" --arch test_resnet --image-size 32 \
  --batch-size 32 --lr 0.05 --epochs 4 --rewind-epoch 1 --rate 0.5 --levels 3 "$@"
lptool pool "$out/tickets" -o "$out/model" --method window --dataset "folder:$photos"
lptool convert "$out/model" "$out/dense.safetensors"
lptool convert "$out/model" "$out/packed.safetensors" --packed
lptool convert "$out/model" "$out/bf16.safetensors" --packed --values bf16 --dataset "folder:$photos"
lptool convert "$out/model" "$out/int8.safetensors" --packed --values int8 --dataset "folder:$photos"
lptool convert "$out/model" "$out/model.pt2" --dataset "folder:$photos"
files=(model dense.safetensors packed.safetensors bf16.safetensors int8.safetensors model.pt2)
if python -c 'import onnx, onnxscript, onnxruntime' 2>/dev/null; then
  lptool convert "$out/model" "$out/model.onnx" --dataset "folder:$photos"
  files+=(model.onnx)
fi
for file in "${files[@]}"; do
  python "${0%/*}/serve.py" "$out/model/config.json" "$out/$file" "$photos"/test/*/*
done
