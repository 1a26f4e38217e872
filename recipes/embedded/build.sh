#!/bin/sh
# sh recipes/embedded/build.sh [STAGE …]
#
# Rebuilds the embedded model from data to shipped files (base, helpful, aligned): about 75 minutes on one core. With
# stages named, only those are trained, from the parents that lie in ALIGNSTACK_RUNS: `preferred`, `reward` and `rl` go on
# from `aligned`, `constitutional` branches off `helpful`; none of them ships. `unpack` puts the two shipped checkpoints
# there as parents.
# Needs: pip install 'alignstack[train]' and ALIGNSTACK_DATA. Checkpoints go to ALIGNSTACK_RUNS (default runs/embedded).
set -eu
cd "$(dirname "$0")/../.."
: "${ALIGNSTACK_DATA:?set it to the folder with train/ and pretrain/ (docs/embedded-model.md lists the files)}"
export ALIGNSTACK_RUNS="${ALIGNSTACK_RUNS:-$PWD/runs/embedded}" OMP_NUM_THREADS=1
python="${PYTHON:-python}"
assets=src/alignstack/models/assets/embedded

for stage in ${*:-base helpful aligned}; do
  case $stage in
    base) method=pretrain data=base ;;
    helpful | aligned) method=sft data=$stage ;;
    preferred) method=dpo data=prompts ;;
    reward) method=reward data=prompts ;;
    rl) method=rlhf data=prompts ;;
    constitutional) method=constitutional data=prompts ;;
    unpack)
      for name in helpful aligned; do
        "$python" -m alignstack.training.unpack "$assets/$name.onnx" "$ALIGNSTACK_RUNS/$name"
      done
      continue ;;
    *) echo "no stage '$stage'" >&2; exit 2 ;;
  esac
  "$python" recipes/embedded/data.py "$data" "$ALIGNSTACK_DATA" "$ALIGNSTACK_RUNS/data"
  "$python" -m alignstack train "$method" --config "recipes/embedded/$stage.yaml"
done
[ $# -eq 0 ] || exit 0
rm -f "$assets"/*.onnx "$assets"/tokenizer.json
for stage in helpful aligned; do
  "$python" -m alignstack.training.export "$ALIGNSTACK_RUNS/$stage" "$assets"
done
"$python" recipes/embedded/measure.py
