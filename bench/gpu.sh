#!/usr/bin/env bash
# All that only a GPU can show, in one call under ten minutes; figures in gpu-day.json (in $OUT if that is set) and a table.
#   bench/gpu.sh [WHEELS_FOLDER] [--llava] [--shape 7b|tiny] [--device cuda|cpu] [--steps N] [--json FILE]
# With --llava: bench.llava instead (every strategy in steps as the paper's), with its options; figures in gpu-llava.json.
# WHEELS_FOLDER holds what `pip download` fetched for packages that the machine lacks; they go to a temporary folder.
set -euo pipefail
python=${PYTHON:-python3}
wheels=
if [[ $# -gt 0 && $1 != --* ]]; then wheels=$(realpath "$1"); shift; fi
module=bench.gpu
json=$(realpath "${OUT:-.}")/gpu-day.json
if [[ ${1:-} == --llava ]]; then module=bench.llava; json=${json%day.json}llava.json; shift; fi
cd "$(dirname "$0")/.."

if [[ -n $wheels ]]; then
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  for package in pydantic pydantic_core annotated_types typing_inspection typing_extensions tenacity yaml:PyYAML PIL:pillow \
    sklearn:scikit-learn scipy joblib threadpoolctl narwhals; do
    # Without its dependencies, so that nothing that the machine has is replaced. What is not in the folder is told, and the
    # part of the day that needs it is skipped.
    "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('${package%%:*}') is None)" ||
      "$python" -m pip install --quiet --no-index --no-deps --find-links "$wheels" --target "$place" "${package##*:}" || true
  done
  export PYTHONPATH="$place${PYTHONPATH:+:$PYTHONPATH}"
fi

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
timeout 580 "$python" -m "$module" --json "$json" "$@"
