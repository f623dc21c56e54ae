"""`symrun symmetries`: what is conserved in a network, found without training, and proven."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from symrun.commands.parser import Commands, add_overrides

if TYPE_CHECKING:
    from torch import Tensor

    from symrun.symmetry import Group, Structure
    from symrun.symmetry.proof import Proof
    from symrun.training.symmetries import Subject

_LISTED = 8
"""Parameters without a group that the table names; --json has all."""
_TEXT = (128,), 64
"""The shape of a block of text, and its vocabulary, where no file is named."""


def add(commands: Commands) -> None:
    symmetries = commands.add_parser(
        "symmetries",
        help="the symmetry groups of any network, without training",
        example="symrun symmetries MODEL",
    )
    symmetries.add_argument(
        "target",
        metavar="MODEL",
        help="vgg16_bn, torchvision/resnet50, package.module:function, or the folder of a run",
    )
    add_overrides(symmetries, "as in `symrun train`: model.width=0.125 data.image_size=32")
    symmetries.add_argument(
        "--verify",
        action="store_true",
        help="prove each group on the network itself, in float64; exit 1 if one fails",
    )
    symmetries.add_argument("--json", action="store_true", help="machine-readable rows")
    symmetries.set_defaults(run=_run)


@dataclass(frozen=True)
class Row:
    """One group. parameters: the entries that lie in it. matrices: the rows of each conserved
    matrix that it has the diagonal of. proven: None if nobody tried."""

    symmetry: str
    group: str
    units: int
    parameters: int
    matrices: tuple[int, ...] = ()
    loss_change: float | None = None
    defect: float | None = None
    proven: bool | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Findings:
    """The groups of a network. What failed its proof counts for nothing but its row.

    covered: entries that lie in any group, each counted once. without_group: of each parameter that
    has some, how many lie in none. passes: of the proof; 0 if there was none.
    """

    network: str
    rows: list[Row]
    units: int
    parameters: int
    covered: int
    without_group: dict[str, int]
    passes: int

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.proven is False]


def _run(options: argparse.Namespace) -> int:
    from symrun.training.device import memory_in_one_line
    from symrun.training.isolation import isolated

    with isolated(), memory_in_one_line("lower data.image_size or model.width"):
        subject = subject_of(options.target, options.overrides)
        structure = subject.structure()
        proofs = subject.proofs(structure) if options.verify else []
        found = findings(subject, with_matrices(subject, structure, proofs), proofs)
    print(as_json(found) if options.json else as_table(found))
    for row in found.failed:
        print(
            f"symrun: {row.symmetry} of {row.group} is no symmetry: {row.reason}", file=sys.stderr
        )
    return 1 if found.failed else 0


def subject_of(target: str, overrides: list[str]) -> "Subject":
    """The network that `target` names, at its initialisation, on data without examples.

    Error: UsageError if it is no model and no run, or a setting has no effect here.
    """
    import torch

    from symrun.config import Device
    from symrun.constraints import run_or_overrides
    from symrun.data.blank import blank, blank_or_read
    from symrun.launch import compose
    from symrun.tasks import TASKS
    from symrun.training.symmetries import Subject

    named = run_or_overrides(target, overrides, _usual_data(target, overrides), "symmetries")
    if not isinstance(named, list):
        config = named.config("call symrun.find_structure there")
        info = named.info().dataset
        assert info is not None  # of symrun's own loop
        if not torch.cuda.is_available():  # a run recorded on a GPU
            config = replace(config, device=Device.cpu)
        shape = (info.length,) if info.length else (info.channels, *[info.image_size or 0] * 2)
        return Subject.untrained(config, blank(shape, info.classes))
    config = compose(named)
    text = TASKS[config.task.name].per_token and config.data.name == "synthetic"
    return Subject.untrained(config, blank(*_TEXT) if text else blank_or_read(config.data))


def _usual_data(target: str, overrides: list[str]) -> list[str]:
    """Settings of the data that suit the model; none for a preset, which has its own."""
    from symrun.models import MODELS, entry_of

    words = [target if "=" in target else f"model={target}", *overrides]
    named = dict(word.split("=", 1) for word in words if "=" in word)
    if "experiment" in named:
        return []
    name = named.get("model", "")
    entry, sizes = entry_of(name), {"torchvision/inception_v3": 299}
    side = sizes.get(name, 224 if entry == "torchvision" else 64)
    text = ["task=next_token"] if entry in MODELS and MODELS[entry].axes == 1 else []
    return ["data=synthetic", f"data.image_size={side}", *text]


def with_matrices(
    subject: "Subject", structure: "Structure", proofs: "Sequence[Proof]"
) -> tuple["Group", ...]:
    """The groups of `structure`, and those that did not fail with the matrices they are the
    diagonals of."""
    failed = [proof.group for proof in proofs if proof.reason is not None]
    good = tuple(group for group in structure.groups if group not in failed)
    found = iter(subject.with_matrices(replace(structure, groups=good)).groups)
    return tuple(group if group in failed else next(found) for group in structure.groups)


def findings(subject: "Subject", groups: Sequence["Group"], proofs: Sequence["Proof"]) -> Findings:
    """What there is to tell of `groups`. proofs: one of each, or none at all."""
    from symrun.symmetry.generator import entries_of

    shapes = {name: tuple(p.shape) for name, p in subject.model.named_parameters()}
    rows: list[Row] = []
    held: dict[str, Tensor] = {}
    for group, proof in zip_longest(groups, proofs):
        entries = entries_of(group, shapes)
        row = _row(group, sum(int(one.sum()) for one in entries.values()), proof)
        rows.append(row)
        if row.proven is not False:
            held |= {name: held.get(name, one) | one for name, one in entries.items()}
    total = {name: p.numel() for name, p in subject.model.named_parameters()}
    left = {name: n - int(held[name].sum() if name in held else 0) for name, n in total.items()}
    return Findings(
        _network(subject),
        rows,
        sum(row.units for row in rows if row.proven is not False),
        sum(total.values()),
        sum(total.values()) - sum(left.values()),
        {name: count for name, count in left.items() if count},
        max((proof.passes for proof in proofs), default=0),
    )


def _row(group: "Group", parameters: int, proof: "Proof | None") -> Row:
    sizes = tuple(map(len, group.blocks))
    found = (group.symmetry.value, group.name, group.units, parameters, sizes)
    if proof is None:
        return Row(*found)
    return Row(*found, proof.loss_change, proof.defect, proof.reason is None, proof.reason)


def _network(subject: "Subject") -> str:
    from symrun.models import MODELS, entry_of

    config = subject.plan.config
    title, _ = MODELS[entry_of(config.model.name)].titles(config.model)
    shape = "×".join(map(str, subject.example.shape[1:]))
    shape += " tokens" if subject.example.dim() == 2 else ""
    task = f"task {config.task.name}, in training mode"
    return f"{title} on {shape}, {subject.classes} classes, {task}"


def as_json(found: Findings) -> str:
    """The fields of Findings; numbers that are not finite become null."""
    from symrun.analysis.report import json_values

    values = asdict(found) | {"rows": [json_values(asdict(row)) for row in found.rows]}
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)


def as_table(found: Findings) -> str:
    """A line a group; then what lies in groups, what in none, and what the proof says."""
    from symrun.analysis.report import aligned, scientific

    proof = ["loss change", "defect", ""] if found.passes else []
    matrices = ["matrices"] if any(row.matrices for row in found.rows) else []
    lines = [["symmetry", "group", "units", "parameters", *matrices, *proof]]
    for row in found.rows:
        numbers = [scientific(row.loss_change), scientific(row.defect), row.reason or "proven"]
        counts = [
            f"{row.units:,}",
            f"{row.parameters:,}",
            *[_sizes(row.matrices) for _ in matrices],
        ]
        lines.append([row.symmetry, row.group, *counts, *(numbers if found.passes else [])])
    table = [aligned(lines)] if found.rows else ["no symmetry group"]
    return "\n".join([found.network, *table, "", *_summary(found)])


def _sizes(matrices: Sequence[int]) -> str:
    """Such as "12 of 64×64"."""
    counts = Counter(matrices).items()
    return ", ".join(f"{count} of {size}×{size}" for size, count in counts) or "-"


def _summary(found: Findings) -> list[str]:
    share = found.covered / max(found.parameters, 1)
    groups = len(found.rows) - len(found.failed)
    lines = [
        f"{found.units:,} units in {groups:,} groups; {found.covered:,} of {found.parameters:,} "
        f"parameters ({share:.2%}) lie in a group"
    ]
    left = [f"{name} ({count:,})" for name, count in found.without_group.items()]
    if left:
        more = f" and {len(left) - _LISTED:,} more" if len(left) > _LISTED else ""
        lines.append(f"in no group: {', '.join(left[:_LISTED])}{more}")
    sizes = [size for row in found.rows for size in row.matrices]
    if sizes:
        entries = sum(size * (size - 1) // 2 for size in sizes)
        lines.append(
            f"{len(sizes):,} conserved matrices, found and proven; track.matrices=full records "
            f"their {entries:,} entries off the diagonal"
        )
    if found.rows and not found.passes:
        what = "the groups themselves are" if sizes else "nothing of this is"
        remedy = "not proven: --verify proves them" if sizes else "proven: --verify proves it"
        return [*lines, f"{what} {remedy}"]
    if found.passes > 1:
        random = "a pass differs from the next, at random or by counting"
        lines.append(f"{random}: {found.passes} passes, in each of which a symmetry must hold")
    return lines
