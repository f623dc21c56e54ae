#!/usr/bin/env bash
# Figs. 1 and 5 of the paper from the real data: an estimate, the data, three runs of 100 epochs,
# check tables, figures, a report, and a page of results. Given again it goes on where it stopped.
#
# Usage: scripts/reproduce.sh [SETTING ...]    settings of `symrun train`: data.root=DIR seed=1
#   PRECISION=bf16       instead of tf32 on a GPU, float32 on a CPU
#   EPOCHS=10            instead of 100
#   OVER=reproduce_cpu   a preset laid over the three, which keep their own model and optimiser
#   RESULTS=DIR          where the page goes; RESULT_NAME=... the folder beside it
#   SYMRUN_PYTHON=...    a Python that has symrun, instead of this checkout's .venv
# Runs and results go to outputs/ in the folder where it is called.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)

if [ -z "${SYMRUN_PYTHON:-}" ]; then
    make -s -C "$project" venv
    SYMRUN_PYTHON=$project/.venv/bin/python
fi
symrun() { "$SYMRUN_PYTHON" -m symrun "$@"; }

presets=(fig1 fig5_bn fig5_plain)
over=${OVER:-}
name=${RESULT_NAME:-${over:-reproduce}${PRECISION:+_$PRECISION}${EPOCHS:+_${EPOCHS}_epochs}}

experiments=()
for preset in "${presets[@]}"; do experiments+=("${over:+[}$preset${over:+,$over]}"); done
settings=(${PRECISION:+"precision=$PRECISION"} ${EPOCHS:+"train.epochs=$EPOCHS"} "$@")
sweep=("experiment=$(IFS=,; echo "${experiments[*]}")" ${settings[@]+"${settings[@]}"})

"$SYMRUN_PYTHON" "$project/scripts/estimate.py" "${sweep[@]}"
symrun data prepare "experiment=${experiments[0]}" ${settings[@]+"${settings[@]}"}

# Assigned on its own, so that a failure ends the script
runs=$(symrun train -m "${sweep[@]}")
mapfile -t runs <<< "$runs"
if [ ${#runs[@]} -ne ${#presets[@]} ]; then
    echo "reproduce: another process is training some of the runs; give the command again later" >&2
    exit 1
fi

named=()
for i in "${!presets[@]}"; do
    echo "${presets[i]}: ${runs[i]}"
    symrun check "${runs[i]}"
    named+=("${presets[i]}=${runs[i]}")
done
mkdir -p outputs/results
symrun report "${runs[@]}" --out "outputs/results/$name.html"
"$SYMRUN_PYTHON" "$project/scripts/publish.py" "${RESULTS:-outputs/results}/$name" "${named[@]}"
