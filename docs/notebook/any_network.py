"""A notebook: what is conserved in torchvision's ResNet-18 while a loop of one's own trains it.

Open it with `marimo edit docs/notebook/any_network.py`, or run it as a program. It needs marimo,
takes half a minute on two cores, downloads nothing, and leaves `runs/resnet18`.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium")


@app.cell
def _():
    import shutil
    from pathlib import Path

    import marimo as mo
    import torch
    from torch import nn
    from torchvision.models import resnet18

    import symrun
    from symrun.analysis import as_table, judge
    from symrun.figures import plot
    from symrun.runs.directory import RunDirectory

    return Path, RunDirectory, as_table, judge, mo, nn, plot, resnet18, shutil, symrun, torch


@app.cell
def _(mo):
    mo.md("""
    # Any network, in any loop

    symrun needs no model, data set or training loop of its own. Here torchvision's ResNet-18 learns
    to tell eight random patterns apart, in a plain loop, while `symrun.track` looks on.
    """)
    return


@app.cell
def _(torch):
    _random = torch.Generator().manual_seed(0)
    patterns = torch.randn(8, 3, 32, 32, generator=_random)

    def batch(size=16):
        """Patterns with as much noise again, and which they are."""
        labels = torch.randint(8, (size,), generator=_random)
        return patterns[labels] + torch.randn(size, 3, 32, 32, generator=_random), labels

    return (batch,)


@app.cell
def _(Path, batch, nn, resnet18, shutil, symrun, torch):
    torch.manual_seed(0)
    path = Path("runs/resnet18")
    shutil.rmtree(path, ignore_errors=True)  # a run is never overwritten
    network = resnet18(num_classes=8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    losses = []
    with symrun.track(network, optimizer, batch()[0], path=path, every=1):
        for _ in range(24):
            images, labels = batch()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, path


@app.cell
def _(losses, mo, path, symrun):
    run = symrun.open_run(path)
    _rows = [
        {"symmetry": one.symmetry.value, "group": one.group, "units": one.units}
        for one in run.info.groups
    ]
    mo.vstack(
        [
            mo.md(f"""
            ## What is conserved

            The loss went from {losses[0]:.2f} to {losses[-1]:.2f}. Each of the
            {len(_rows)} groups below is a symmetry that follows from the network's operations
            and was proven before the first update.
            """),
            mo.ui.table(_rows, page_size=8),
        ]
    )
    return


@app.cell
def _(RunDirectory, as_table, judge, mo, path):
    agreement = as_table(*judge(RunDirectory.open(path)))
    print(agreement)
    mo.vstack([mo.md("## How good the laws are: `symrun check`"), mo.plain_text(agreement)])
    return


@app.cell
def _(mo, path, plot):
    (_figure,) = plot("symmetries", [path], None, ["png"])
    mo.vstack([mo.md("## Measured and predicted: `symrun plot symmetries`"), mo.image(_figure)])
    return


if __name__ == "__main__":
    app.run()
