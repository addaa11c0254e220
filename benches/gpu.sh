#!/bin/sh
# Everything that needs a GPU, on a machine with one and with CUDA's toolkit: benches/gpu.sh [FOLDER]. The kernels' checks
# (tests/cuda_host) on the GPU, from fresh random numbers, and again under compute-sanitizer; then how fast they are.
# Programs go to FOLDER, target/gpu otherwise.
set -eu
cd "$(dirname "$0")/.."

folder=${1:-target/gpu}
mkdir -p "$folder"
# As the library has them: PTX for Turing, products rounded before they are added.
compile="nvcc -O3 -std=c++17 --fmad=false -gencode arch=compute_75,code=compute_75 -I src/compute/cuda/kernels"
# Of what these warn, one is how the checks get memory, and the other isn't so.
compile="$compile -diag-suppress 20011,3357"
checks="materialise gram reduce cast select elect bake"

waiting=
for name in $checks; do
    $compile -x cu -I tests/cuda_host "tests/cuda_host/$name.cpp" -o "$folder/$name" &
    waiting="$waiting $!"
done
$compile benches/gpu.cu -o "$folder/speed" &
for id in $waiting $!; do
    wait "$id"
done

failed=
for name in $checks; do
    "$folder/$name" "$$" && echo "$name: right" || failed="$failed $name"
done
for name in $checks; do
    compute-sanitizer --error-exitcode 9 "$folder/$name" 1 >"$folder/$name.log" 2>&1 &&
        tail -n 1 "$folder/$name.log" || failed="$failed $name(sanitizer)"
done
"$folder/speed"
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
