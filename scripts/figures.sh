#!/usr/bin/env bash
# Every figure of the project at quickstart scale: small networks on synthetic textures, CPU.
# Usage: scripts/figures.sh OUT   (symrun must be on the PATH)
set -euo pipefail
out=${1:?usage: scripts/figures.sh OUT}

quick=(data=synthetic model.width=0.125 train.batch_size=64 train.steps=400 track.every=4 device=cpu)
# Ten times the paper's, since weight decay needs 1 / (lr * weight decay) updates to show.
decays=optim.weight_decay=0,1e-3,5e-3,1e-2

draw() { symrun plot "$1" "${@:2}" --out "$out"; }

# $runs: the folders of a sweep, a line each. Assigned on its own, so that a failure ends the script.
sweep() { runs=$(symrun train "$@" "${quick[@]}"); mapfile -t runs <<< "$runs"; }

for figure in fig2 fig3 fig4; do draw $figure; done
for figure in fig3 fig4; do draw $figure --format gif; done

bn=$(symrun train experiment=quickstart_bn)
plain=$(symrun train experiment=quickstart_plain)
draw fig1 "$bn"
draw fig5 "$bn" "$plain"
draw residual "$bn"
heads=$(symrun train experiment=heads)
draw heads "$heads"
draw spectrum "$heads"

sweep experiment=momentum model=vgg11_bn optim.weight_decay=5e-3
draw grid "${runs[@]}"
draw phase "${runs[0]}"
sweep experiment=grid_scale model=vgg11_bn $decays
draw grid_scale "${runs[@]}"
sweep experiment=grid_rescale model=vgg11 $decays
draw grid_rescale "${runs[@]}"
sweep experiment=grid_translation model=vgg11 $decays
draw grid_translation "${runs[@]}"
sweep -m experiment=quickstart_bn seed=0,1,2
draw seeds "${runs[@]}"
