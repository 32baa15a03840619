#!/usr/bin/env bash
# All that only a GPU can show, in one call under ten minutes; figures in gpu-day.json (in $OUT if that is set) and a table.
#   bench/gpu.sh [WHEELS_FOLDER] [--shape 7b|tiny] [--device cuda|cpu] [--steps N] [--json FILE]
# WHEELS_FOLDER holds what `pip download` fetched for packages that the machine lacks; they go to a temporary folder.
set -euo pipefail
python=${PYTHON:-python3}
wheels=
if [[ $# -gt 0 && $1 != --* ]]; then wheels=$(realpath "$1"); shift; fi
json=$(realpath "${OUT:-.}")/gpu-day.json
cd "$(dirname "$0")/.."

missing=()
for package in pydantic yaml:PyYAML PIL:pillow sklearn:scikit-learn tenacity pyarrow; do
  "$python" -c "import ${package%%:*}" 2>/dev/null || missing+=("${package##*:}")
done
if [[ ${#missing[@]} -gt 0 && -n $wheels ]]; then
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  for package in "${missing[@]}"; do
    # One that is not in the folder is told here, and its part of the day is skipped.
    "$python" -m pip install --quiet --no-index --find-links "$wheels" --target "$place" "$package" || true
  done
  export PYTHONPATH="$place${PYTHONPATH:+:$PYTHONPATH}"
fi

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
timeout 580 "$python" -m bench.gpu --json "$json" "$@"
