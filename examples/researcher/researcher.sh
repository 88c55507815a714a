#!/usr/bin/env bash
# From a folder of tickets to a number at 90 % sparsity and a figure: docs/researcher.md, in a folder of your choice.
#     researcher.sh [FOLDER [OPTIONS OF POOL…]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-runs/researcher}" && cd "${1:-runs/researcher}"
tickets=tickets
data=(--arch "$here/net.py:Net" --dataset npz:digits.npz --mean 0.3 --std 0.4)

python "$here/make_tickets.py" "$tickets" digits.npz # leave this out where you have your own

lptool inspect "$tickets"
lptool pool "$tickets" -o pooled_90.safetensors --sparsity 0.9 "${data[@]}" "${@:2}"
lptool pool "$tickets" -o pooled --target all --json "${data[@]}" "${@:2}" >pooled.json
lptool evaluate pooled_90.safetensors "$tickets"/{6,7}model_SA_best.pth.tar "${data[@]}"
lptool compare pooled.json --figure figure.pdf --csv figure.csv --overwrite
