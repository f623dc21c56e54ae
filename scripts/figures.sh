#!/usr/bin/env bash
# Every figure of the project at quickstart scale: small networks on synthetic textures, CPU.
# Usage: scripts/figures.sh OUT   (symrun must be on the PATH)
set -euo pipefail
out=${1:?usage: scripts/figures.sh OUT}

# Weight decay acts over 1 / (lr * weight decay) updates: ten times the paper's, since these runs
# are a hundred times shorter.
quick=(data=synthetic model.width=0.125 train.batch_size=64 train.steps=400 track.every=4 device=cpu)
decays=optim.weight_decay=0,1e-3,5e-3,1e-2

draw() { symrun plot "$1" "${@:2}" --out "$out"; }

for figure in fig2 fig3 fig4; do draw $figure; done
symrun plot fig3 --out "$out" --format gif
symrun plot fig4 --out "$out" --format gif

bn=$(symrun train experiment=quickstart_bn)
plain=$(symrun train experiment=quickstart_plain)
draw fig1 "$bn"
draw fig5 "$bn" "$plain"
draw residual "$bn"
draw phase "$bn"

# shellcheck disable=SC2046  # a folder a line, as made above: no spaces
{
    draw grid_scale $(symrun train experiment=grid_scale model=vgg11_bn "${quick[@]}" $decays)
    draw grid_rescale $(symrun train experiment=grid_rescale model=vgg11 "${quick[@]}" $decays)
    draw grid_translation $(symrun train experiment=grid_translation model=vgg11 "${quick[@]}" $decays)
    draw grid $(symrun train experiment=momentum model=vgg11_bn "${quick[@]}" optim.lr=0.01 optim.weight_decay=5e-3)
    draw seeds $(symrun train -m experiment=quickstart_bn "${quick[@]}" seed=0,1,2)
}
