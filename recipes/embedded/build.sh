#!/bin/sh
# sh recipes/embedded/build.sh [STAGE …]
#
# Rebuilds the embedded family from data to shipped files; without arguments all stages, about two hours on one core.
# With stages named, only those are trained, from the parents that lie in ALIGNSTACK_RUNS; `unpack` in place of `base`
# and `helpful` starts from the `helpful` that ships.
# Needs: pip install 'alignstack[train]' and ALIGNSTACK_DATA. Checkpoints go to ALIGNSTACK_RUNS (default runs/embedded).
set -eu
cd "$(dirname "$0")/../.."
: "${ALIGNSTACK_DATA:?set it to the folder with train/ and pretrain/ (docs/embedded-model.md lists the files)}"
export ALIGNSTACK_RUNS="${ALIGNSTACK_RUNS:-$PWD/runs/embedded}" OMP_NUM_THREADS=1
python="${PYTHON:-python}"
assets=src/alignstack/models/assets/embedded

for stage in ${*:-base helpful refusals preferred reward aligned constitutional}; do
  case $stage in
    base) method=pretrain data=base ;;
    helpful | refusals) method=sft data=$stage ;;
    preferred) method=dpo data=prompts ;;
    reward) method=reward data=prompts ;;
    aligned) method=rlhf data=prompts ;;
    constitutional) method=constitutional data=prompts ;;
    unpack)
      "$python" -m alignstack.training.unpack "$assets/helpful.onnx" "$ALIGNSTACK_RUNS/helpful"
      continue ;;
    *) echo "no stage '$stage'" >&2; exit 2 ;;
  esac
  "$python" recipes/embedded/data.py "$data" "$ALIGNSTACK_DATA" "$ALIGNSTACK_RUNS/data"
  "$python" -m alignstack train "$method" --config "recipes/embedded/$stage.yaml"
done
rm -f "$assets"/*.onnx "$assets"/tokenizer.json
for stage in helpful refusals preferred aligned; do
  "$python" -m alignstack.training.export "$ALIGNSTACK_RUNS/$stage" "$assets"
done
"$python" recipes/embedded/measure.py
