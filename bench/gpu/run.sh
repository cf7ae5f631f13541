#!/usr/bin/env bash
# Measures and proves the GPU backend on the machine at hand: devices, laws, bits against the CPU, then speed.
#
#   bench/gpu/run.sh [KARAT] [OUT]
#
# KARAT is the binary (default: built here), OUT the folder for results (default: target/gpu). Models are made by
# `karat synth`; a GGUF file named in MODEL is measured too. CONTRACT is a carried test binary. SIZES="135m 1.5b 8b" chooses the shapes.
set -uo pipefail
cd "$(dirname "$0")/../.."
karat=${1:-}
out=${2:-target/gpu}
if [ -z "$karat" ]; then
    cargo build --release -p karat-cli && karat=target/release/karat || exit 1
fi
mkdir -p "$out"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0
step() { printf '\n== %s\n' "$*" | tee -a "$out/log.txt"; }
must() { "$@" 2>&1 | tee -a "$out/log.txt"; [ "${PIPESTATUS[0]}" = 0 ] || { failed=$((failed + 1)); echo "FAILED: $*" | tee -a "$out/log.txt"; }; }

step devices
must "$karat" devices

small=(--arch llama --layers 30 --embd 576 --ff 1536 --heads 9 --kv-heads 3 --vocab 49152 --tied true --ctx 16384)
step "laws, and every op's bits against the CPU"
for format in Q4_K_M Q5_K_M Q6_K Q8_0; do
    "$karat" synth "$tmp/s-$format.gguf" "${small[@]}" --format "$format" >>"$out/log.txt" 2>&1
    must "$karat" why -m "$tmp/s-$format.gguf" --a cpu --b gpu -p "The capital of France is"
done
must "$karat" why -m "$tmp/s-Q4_K_M.gguf" --laws --backend gpu -p "The capital of France is"
step "self-test of the kernels"
for format in Q4_K_M Q5_K_M Q6_K Q8_0; do
    must "$karat" check -m "$tmp/s-$format.gguf" --backend gpu
done
# The conformance tests, where their binary was carried (cargo test -p karat-gpu --test contract --no-run) or cargo is here.
if [ -n "${CONTRACT:-}" ]; then
    step "conformance"
    must "$CONTRACT"
elif command -v cargo >/dev/null; then
    step "conformance"
    must cargo test -q -p karat-gpu --test contract
else
    step "conformance: skipped, no CONTRACT binary and no cargo"
fi

measure() { # file, flags
    step "bench $*"
    must "$karat" bench -m "$1" --backend gpu -p 512 -n 128 -r 3 --csv "${@:2}"
}
for size in ${SIZES:-135m 1.5b 8b}; do
    case $size in
    135m) shape=("${small[@]}") ;;
    1.5b) shape=(--preset qwen2.5-1.5b) ;;
    8b) shape=(--preset llama3-8b) ;;
    *) echo "SIZES: $size, allowed 135m 1.5b 8b" >&2; exit 2 ;;
    esac
    for format in Q4_K_M Q8_0; do
        file="$tmp/$size-$format.gguf"
        "$karat" synth "$file" "${shape[@]}" --format "$format" >>"$out/log.txt" 2>&1 || { echo "synth $size $format failed"; continue; }
        measure "$file" --batch 1,16
        step "where the time goes, and the device's limits"
        must "$karat" bench -m "$file" --backend gpu -p 512 -n 128 -r 1 --ops
        rm -f "$file"
    done
done
[ -z "${MODEL:-}" ] || measure "$MODEL"
step "$failed steps failed"
[ "$failed" = 0 ]
