#!/usr/bin/env bash
# Everything that only a GPU can show, in one command: bash benchmarks/gpu.sh [DRAFTER [REFINER [FOLDER]]]
# Needs an environment with trt-var[gpu,export,dev]. Without weights: random:d30 random:d16.
set -euo pipefail
cd "$(dirname "$0")/.."
drafter=${1:-d30} refiner=${2:-d16} out=${3:-engines/gpu}
vae=$([[ $drafter == random:* ]] && echo "--vae random" || true)

tensorrt=$(python -c 'import tensorrt' 2>/dev/null && echo yes || echo no)

echo "== the chain on this GPU against the golden vectors, and the seam to CUDA (TensorRT: $tensorrt) =="
python -m pytest tests/gpu -rs
python -m pytest tests/test_golden.py -k cuda -rs

echo "== building $drafter + $refiner, float16 =="
# shellcheck disable=SC2086
[[ -e $out/manifest.json ]] || trt-var build --drafter "$drafter" --refiner "$refiner" $vae --precision fp16 --out "$out"
if [[ $tensorrt == no ]]; then
    echo "== N = 6, 8 and 10, batches of 1, 8 and 64 on ONNX Runtime, beside eager PyTorch =="
    exec trt-var bench --engines "$out" --backend onnxruntime --compare eager --device cuda \
        --n-draft 6,8,10 --batch 1,8,64 --repeats 5 --out "$out/bench"
fi
ls -d "$out"/tensorrt/tensorrt-* 2>/dev/null || trt-var engines "$out" --n-draft 6,7,8,9,10 --shadow --batch 1,8,64
for plan in "$out"/tensorrt/tensorrt-*/{drafter,refiner}.plan; do
    polygraphy inspect model "$plan" --model-type engine --show layers > "${plan%.plan}.layers.txt" || true
done

echo "== TensorRT against ONNX Runtime on the same GPU: tokens and pictures =="
trt-var eval --engines "$out" --backend tensorrt --against-backend onnxruntime --n-draft 8 --per-class 1 --rounds 1

echo "== N = 6 to 10, batches of 1, 8 and 64, beside eager PyTorch =="
trt-var bench --engines "$out" --backend tensorrt,onnxruntime --compare eager --device cuda \
    --n-draft 6,7,8,9,10 --batch 1,8,64 --repeats 5 --out "$out/bench"
python benchmarks/paper.py "$out/bench/report.json"
