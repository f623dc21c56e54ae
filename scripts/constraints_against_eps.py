"""BatchNorm's eps against the constraints that scale symmetry puts on gradient and Hessian.

BatchNorm divides a filter's output z by sqrt(s^2 + eps), s^2 being its variance, so scaling the
filter by c turns s^2 into c^2 s^2, beside an eps that stays. The derivative at c = 1 says what is
left of the constraint on the gradient:

    <g, theta_A> = eps / (s^2 + eps) * gamma dL/dgamma        (gamma: BatchNorm's weight)

proportional to eps, until eps reaches s^2 on one side and rounding on the other. The Hessian's
violation is the derivative of this and goes the same way. The rescale symmetry of BatchNorm's own
weights stands behind the division and stays exact.

VGG16-BN at width 1/8 at its initialisation, on synthetic images, in float64.
Usage: python scripts/constraints_against_eps.py [--out DIR] [overrides ...]
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn

from symrun.analysis.report import aligned
from symrun.constraints import HessianConstraint, hessian_constraints
from symrun.constraints.hessian import Curvature
from symrun.data import load
from symrun.figures.style import frame, save, styled
from symrun.launch import compose
from symrun.symmetry import Group, Symmetry
from symrun.symmetry.generator import per_unit
from symrun.training.device import device_title
from symrun.training.plan import Plan
from symrun.training.setup import Training, prepare

SETTING = ["model=vgg16_bn", "model.width=0.125", "data=synthetic", "data.image_size=64"]
BATCH = ["precision=float64", "train.batch_size=16"]
EPS = [10.0**-decade for decade in range(1, 18)]
TORCHS_EPS = nn.BatchNorm2d(1).eps
ROUNDING = 2.0**-53
SCALE: dict[str, Any] = {"marker": "o", "linewidth": 0.9, "markeredgewidth": 0}
RESCALE: dict[str, Any] = {"marker": "s", "markersize": 3, "linewidth": 0.6, "fillstyle": "none"}
PREDICTED: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 0.7}
NAME: dict[str, Any] = {"color": "0.4", "fontsize": 6.5, "ha": "right"}
MARKERSIZES = (6.5, 4.5, 2.5)
"""Curves that coincide show as rings."""


@dataclass(frozen=True)
class Place:
    """A convolution's filters (scale), and the BatchNorm behind them (rescale)."""

    title: str
    filters: Group
    norm: Group

    @property
    def groups(self) -> tuple[Group, Group]:
        return self.filters, self.norm


@dataclass(frozen=True)
class Point:
    """One group at one eps. predicted: the largest cosine after the equation above, for filters."""

    place: Place
    eps: float
    measured: HessianConstraint
    predicted: float | None


def places(groups: Sequence[Group]) -> list[Place]:
    """The first, a middle and the last convolution; a filter group and its norm's share a rank."""
    filters = [group for group in groups if group.symmetry is Symmetry.scale]
    norms = [group for group in groups if group.symmetry is Symmetry.rescale]
    count = len(filters)
    return [
        Place(f"convolution {rank + 1} of {count}", filters[rank], norms[rank])
        for rank in (0, count // 2, count - 1)
    ]


def measure(training: Training, chosen: Sequence[Place], seed: int) -> Iterator[Point]:
    """Every group at every eps, always at the same weights, images and draw of dropout."""
    images, labels = next(training.batches.epoch(1))
    groups = [group for place in chosen for group in place.groups]
    for eps in EPS:
        for module in training.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps
        rows = hessian_constraints(training.model, groups, images, labels, seed)
        predictions = predict(training.model, chosen, images, labels, seed)
        for place in chosen:
            yield Point(place, eps, next(rows), next(predictions))
            yield Point(place, eps, next(rows), None)


def predict(
    model: nn.Module, chosen: Sequence[Place], images: Tensor, labels: Tensor, seed: int
) -> Iterator[float]:
    """Each place's largest cosine of the gradient, from the variances of its filters' outputs."""
    outputs: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(place.filters.name).register_forward_hook(
            lambda _module, _images, output, place=place: outputs.update({place.title: output})
        )
        for place in chosen
    ]
    curvature = Curvature(model, images, labels, seed)
    for handle in handles:
        handle.remove()
    weights, gradient = curvature.weights, curvature.gradient
    for place in chosen:
        norm = place.norm.layers[0]
        eps, gamma = model.get_submodule(norm).eps, f"{norm}.weight"
        variance = outputs[place.title].detach().var((0, 2, 3), correction=0)
        defect = eps / (variance + eps) * weights[gamma] * gradient[gamma]
        sizes = [per_unit(place.filters, vector, vector).sqrt() for vector in (weights, gradient)]
        yield float((defect.abs() / (sizes[0] * sizes[1])).nan_to_num(0).max())


@styled
def draw(points: Sequence[Point], network: str, caption: str) -> Figure:
    """Left the Hessian's constraint, right the gradient's, against eps, log-log."""
    heading = f"The constraints against BatchNorm's eps: {network}"
    figure, panels = frame((7, 3.8), heading, [caption])
    hessian, gradient = panels.subplots(1, 2, sharex=True, sharey=True)
    colours = matplotlib.colormaps["viridis"]([0.05, 0.5, 0.9])
    handles = []
    for place, colour, size in zip(curves(points), colours, MARKERSIZES, strict=True):
        filters, norm = curves(points)[place]
        dots = SCALE | {"color": colour, "markersize": size}
        handles.append(Line2D([], [], label=f"scale, {place.title}", **dots))
        hessian.loglog(EPS, [point.measured.relative_error for point in filters], **dots)
        dots["linestyle"] = "none"  # the prediction's line goes through them
        gradient.loglog(EPS, [point.measured.largest_cosine for point in filters], **dots)
        gradient.loglog(EPS, [point.predicted for point in filters], **PREDICTED)
        squares = RESCALE | {"color": colour}
        hessian.loglog(EPS, [point.measured.relative_error for point in norm], **squares)
        gradient.loglog(EPS, [point.measured.largest_cosine for point in norm], **squares)
    handles += [
        Line2D([], [], color="0.3", label="rescale, BatchNorm behind it", **RESCALE),
        Line2D([], [], label="predicted from eps and variance", **PREDICTED),
    ]
    hessian.set_title("Hessian")
    hessian.set_ylabel(r"$|H v + \sum_u ε_u g_u|\;/\;|\sum_u ε_u g_u|$")
    gradient.set_title("Gradient")
    gradient.set_ylabel(r"largest  $|\langle g, θ_A \rangle|\;/\;|g|\,|θ_A|$")
    for axes in (hessian, gradient):
        add_guides(axes)
    right, below = (EPS[0], ROUNDING), (0, -3)
    hessian.annotate(
        "rounding, $2^{-53}$", right, below, **NAME, va="top", textcoords="offset points"
    )
    panels.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def curves(points: Sequence[Point]) -> dict[Place, tuple[list[Point], list[Point]]]:
    """Each place's filters and BatchNorm, over EPS."""
    found: dict[Place, tuple[list[Point], list[Point]]] = {}
    for point in points:
        filters, norm = found.setdefault(point.place, ([], []))
        (filters if point.measured.group == point.place.filters.name else norm).append(point)
    return found


def add_guides(axes: Axes) -> None:
    """Slope 1 and torch's default, each with its name beside it; and rounding."""
    look: dict[str, Any] = {"color": "0.5", "linewidth": 0.7}
    axes.set_xlabel("BatchNorm's eps")
    axes.axhline(ROUNDING, **look)
    axes.axvline(TORCHS_EPS, **look)
    axes.annotate(
        "torch's default",
        (TORCHS_EPS, 1),
        (-2, 0),
        **NAME,
        va="top",
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
    )
    ends = (1e-13, 1e-7)
    axes.loglog(ends, [1e4 * end for end in ends], linestyle=":", **look)
    axes.annotate("slope 1", (1e-10, 1e-6), (-3, 3), **NAME, textcoords="offset points")


def table(points: Sequence[Point]) -> str:
    """A line an eps: for filters error, cosine and its prediction; error and cosine for rescale."""
    places = curves(points)
    head, names = [""], ["eps"]
    for place in places:
        head += [place.filters.layers[0], "(scale)", "", place.norm.layers[0], "(rescale)"]
        names += ["Hessian", "gradient", "predicted", "Hessian", "gradient"]
    lines = [head, names]
    for rank, eps in enumerate(EPS):
        numbers: list[float | None] = [eps]
        for filters, norm in places.values():
            of_filters, of_norm = filters[rank].measured, norm[rank].measured
            numbers += [of_filters.relative_error, of_filters.largest_cosine]
            numbers += [filters[rank].predicted, of_norm.relative_error, of_norm.largest_cosine]
        lines.append(["-" if number is None else f"{number:.1e}" for number in numbers])
    return aligned(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("docs/figures"))
    parser.add_argument("overrides", nargs="*", help="settings of `symrun train`")
    options = parser.parse_args()
    config = compose([*SETTING, *BATCH, *options.overrides])
    plan, dataset = Plan.of(config), load(config.data)
    training = prepare(plan, dataset)
    points = list(measure(training, places(training.structure.groups), config.seed))
    print(table(points))
    name = config.model.name.removesuffix("_bn").upper()
    network = f"{name} with BN at width {config.model.relative_width:g} on {dataset.title}"
    images = f"{config.train.batch_size} images"
    caption = f"at initialisation, {images}, float64 on {device_title(plan.device)}"
    for path in save(draw(points, network, caption), options.out, "constraints_eps", ["png"]):
        print(path)


if __name__ == "__main__":
    main()
