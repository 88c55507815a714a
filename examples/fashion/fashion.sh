#!/usr/bin/env bash
# Seven tickets of a small ResNet on few images of Fashion-MNIST, pooled at every level: a gain that is more than luck.
#     fashion.sh [FOLDER]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-runs/fashion-few}" && cd "${1:-runs/fashion-few}"

python "$here/few_images.py" few.npz
lptool train -o tickets --dataset npz:few.npz --arch resnet10_cifar --epochs 20 --lr 0.05 --rewind-epoch 3 \
  --levels 6 --rate 0.3 --crop-padding 0 --flip no
lptool pool tickets -o pooled.safetensors --dataset npz:few.npz
