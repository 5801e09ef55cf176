#!/usr/bin/env bash
# On a machine with a CUDA card: first whether the kernels are right, then what they cost.
# usage: benchmarks/on_gpu.sh [PYTHON]; figures land in benchmarks/results/.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
export PYTHONPATH=.
"$python" -m pytest tests/gpu
name=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-"))')
for precision in float32 bfloat16; do
    "$python" benchmarks/tracker.py --device cuda --precision "$precision" \
        --out "benchmarks/results/tracker-$name-$precision.json"
    "$python" benchmarks/step.py --device cuda --precision "$precision" \
        --out "benchmarks/results/step-$name-$precision.json"
    # Where the sparse way begins to pay: beside the line of `auto` above.
    for step in sparse dense; do
        "$python" benchmarks/step.py --device cuda --precision "$precision" --subjects ours \
            --step "$step" --out "benchmarks/results/step-$name-$precision-$step.json"
    done
done
