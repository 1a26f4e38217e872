#!/bin/sh
# sh recipes/embedded/build.sh
#
# Rebuilds the embedded model from data to shipped files: data, base, helpful, aligned, ONNX. About 75 minutes on one core.
# Needs: pip install 'alignstack[train]' and ALIGNSTACK_DATA. Checkpoints go to ALIGNSTACK_RUNS (default runs/embedded).
set -eu
cd "$(dirname "$0")/../.."
: "${ALIGNSTACK_DATA:?set it to the folder with train/ and pretrain/ (docs/embedded-model.md lists the files)}"
export ALIGNSTACK_RUNS="${ALIGNSTACK_RUNS:-$PWD/runs/embedded}" OMP_NUM_THREADS=1
python="${PYTHON:-python}"
assets=src/alignstack/models/assets/embedded

for stage in base helpful aligned; do
  method=sft
  [ "$stage" = base ] && method=pretrain
  "$python" recipes/embedded/data.py "$stage" "$ALIGNSTACK_DATA" "$ALIGNSTACK_RUNS/data"
  "$python" -m alignstack train "$method" --config "recipes/embedded/$stage.yaml"
done
rm -f "$assets"/*.onnx "$assets"/tokenizer.json
for stage in helpful aligned; do
  "$python" -m alignstack.training.export "$ALIGNSTACK_RUNS/$stage" "$assets"
done
"$python" recipes/embedded/measure.py
