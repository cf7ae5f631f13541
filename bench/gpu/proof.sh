#!/usr/bin/env bash
# The proof of the GPU backend's bits: logits of six formats with 0, 1, 15 and all layers on the GPU against the CPU's.
#
#   bench/gpu/proof.sh PROGRAM MODEL ORACLE [OUT]
#
# PROGRAM is the test's binary (`cargo test --release -p karat-cli --test gpu_layers --no-run` prints its path), MODEL the
# default model, ORACLE the folder with smollm2_greedy.json, OUT the folder for logs (default: a new one in /tmp). Nothing
# else is needed but a driver. JOBS processes run side by side (default: a process for every two cores), each with one
# format and one number of layers, of those in FORMATS and LAYERS (default: all six, all four). DEVICE=text takes the devices
# whose name holds the text, VK_DRIVER_FILES the drivers.
set -uo pipefail
program=$(realpath "$1") model=$(realpath "$2") oracle=$(realpath "$3")
out=${4:-$(mktemp -d)}
mkdir -p "$out"
out=$(realpath "$out")
export KARAT_GPU_PROOF=1 KARAT_TEST_MODEL=$model KARAT_TEST_ORACLE=$oracle KARAT_GPU_DEVICE=${DEVICE:-} NODEVICE_SELECT=1
export program out
jobs=${JOBS:-$((($(nproc) + 1) / 2))}
# Threads of karat, of lavapipe, and of SwiftShader, which reads them from a file in the folder it is run in and else takes
# as many as the machine has: the processes would wait for one another.
threads=$((($(nproc) + jobs - 1) / jobs))
export KARAT_TEST_THREADS=$threads LP_NUM_THREADS=$threads
printf '[Processor]\nThreadCount=%s\n' "$threads" >"$out/SwiftShader.ini"
cd "$out" || exit 1
one() {
    log=$out/$1-$2.log
    KARAT_GPU_FORMAT=$1 KARAT_GPU_LAYERS=$2 "$program" int8 --nocapture --test-threads 1 >"$log" 2>&1 ||
        { echo "FAILED: $1, $2 layers"; tail -5 "$log"; exit 1; }
    grep 'logits equal' "$log"
}
export -f one
# What takes longest comes first.
for layers in ${LAYERS:-all 15 1 0}; do
    for format in ${FORMATS:-Q6_K Q5_K_M Q4_K_M Q8_0 Q4_1 Q4_0}; do echo "$format $layers"; done
done | xargs -P "$jobs" -L 1 bash -c 'one $1 $2' _
failed=$?
cat "$out"/*.log | grep '^|' | sort -u
echo "logs: $out"
exit "$failed"
