#!/usr/bin/env bash
# Figs. 1 and 5 of the paper from the real data: an estimate, the data, three runs of 100 epochs,
# check tables, figures, a report, and a page of results. Given again it goes on where it stopped.
#
# Usage: scripts/reproduce.sh [SETTING ...]    settings of `symrun train`: data.root=DIR seed=1
#   PRECISION=bf16       instead of tf32 on a GPU, float32 on a CPU
#   EPOCHS=10            instead of 100
#   OVER=reproduce_cpu   a preset laid over the three, for a machine without a GPU
#   RESULTS=DIR NAME=... where the page goes, and the name of the folder beside it
# Runs and results go to outputs/ in the folder where it is called.
# On a bare machine it makes the environment first; else it takes the symrun on the PATH.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)

if ! command -v symrun > /dev/null; then
    make -C "$project" venv
    PATH="$project/.venv/bin:$PATH"
fi

presets=(fig1 fig5_bn fig5_plain)
over=${OVER:-}
name=${NAME:-${over:-reproduce}${PRECISION:+_$PRECISION}${EPOCHS:+_${EPOCHS}_epochs}}
settings=(${PRECISION:+"precision=$PRECISION"} ${EPOCHS:+"train.epochs=$EPOCHS"} "$@")

experiments=()
for preset in "${presets[@]}"; do experiments+=("${over:+[}$preset${over:+,$over]}"); done
sweep=("experiment=$(IFS=,; echo "${experiments[*]}")" "${settings[@]}")

python "$project/scripts/estimate.py" "${sweep[@]}"
symrun data prepare "experiment=${experiments[0]}" "${settings[@]}"

# Assigned on its own, so that a failure ends the script
runs=$(symrun train -m "${sweep[@]}")
mapfile -t runs <<< "$runs"

named=()
for i in "${!presets[@]}"; do
    echo "${presets[i]}: ${runs[i]}"
    symrun check "${runs[i]}"
    named+=("${presets[i]}=${runs[i]}")
done
symrun report "${runs[@]}" --out "outputs/results/$name.html"
python "$project/scripts/publish.py" "${RESULTS:-outputs/results}/$name" "${named[@]}"
