"""Tables in which runs stand side by side: settings, circumstances, and how good each law was."""

import json
from collections.abc import Sequence

from symrun.analysis.report import moved_units
from symrun.report.document import Table, code, formatted, literal
from symrun.report.evidence import Evidence
from symrun.runs.differences import differing_settings
from symrun.runs.info import RunInfo
from symrun.runs.tables import LAWS


def settings_table(evidences: Sequence[Evidence]) -> Table:
    """Every recorded setting that influences results, a column a run."""
    return _side_by_side("setting", evidences, list(map(_settings, evidences)))


def differing(evidences: Sequence[Evidence]) -> Table:
    """The rows of `settings_table` in which runs differ."""
    found = list(map(_settings, evidences))
    names = differing_settings(found)
    table = _side_by_side("setting", evidences, found)
    return Table(table.head, [row for row in table.rows if row[0] in names])


def _settings(one: Evidence) -> dict[str, object]:
    return {"network": one.setup.model.title} | one.setup.config.by_name


def environments(evidences: Sequence[Evidence]) -> Table:
    """Status, hardware, precision and versions, a column a run."""
    return _side_by_side("circumstance", evidences, [_environment(one.setup) for one in evidences])


def _environment(setup: RunInfo) -> dict[str, object]:
    data = setup.dataset
    return {
        "loop": setup.loop or "symrun's own",
        "status": setup.status.value,
        "started": setup.created,
        "seconds of training and validation": setup.seconds,
        "data": None if data is None else f"{data.title}, {data.counted}",
        "parameters": setup.model.parameters,
        "records": ", ".join(setup.spacing()),
        "device": setup.device,
        "processor": setup.hardware and setup.hardware.processor,
        "threads": setup.threads,
        "processes": setup.ranks,
        "precision": setup.precision.value,
        **{f"version of {name}": version for name, version in setup.versions.items()},
        "revision": setup.revision,
        "resumed at": ", ".join(f"{event.step:,}" for event in setup.resumed) or None,
    }


def _side_by_side(
    what: str, evidences: Sequence[Evidence], columns: Sequence[dict[str, object]]
) -> Table:
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(_cell(column.get(name)) for column in columns)] for name in names]
    return Table([what, *(literal(one.name) for one in evidences)], rows)


def _cell(value: object) -> str:
    return literal(value if isinstance(value, str) else "-" if value is None else json.dumps(value))


def figures_of_merit(evidences: Sequence[Evidence]) -> Table:
    """How much `flow` leaves unexplained in each symmetry of each run."""
    head = ["run", "symmetry", "moved", "1 − R² of flow", "99 in 100 units", "residual"]
    rows = [
        [code(one.name), row.symmetry, moved_units(row)]
        + [
            formatted(value, ".1e") if row.residual is not None else "not predicted"
            for value in (row.unexplained, row.unexplained_99, row.residual)
        ]
        for one in evidences
        for row in one.summary
        if row.law == "flow"
    ]
    return Table(head, rows)


def heat(one: Evidence) -> dict[str, Table]:
    """Symmetry -> 1 − R² of the median unit of each layer under each law."""
    tables: dict[str, Table] = {}
    rows: dict[tuple[str, str], list[str]] = {}
    for row in one.check:
        share, moved = row["unexplained"], row["moved"]
        silent = "not predicted" if row["residual"] is None else "conserved"
        cell = formatted(share, ".1e") if moved and row["residual"] is not None else silent
        rows.setdefault((row["symmetry"], row["group"]), [row["group"]]).append(cell)
    for symmetry in dict.fromkeys(symmetry for symmetry, _ in rows):
        lines = [cells for (other, _), cells in rows.items() if other == symmetry]
        tables[symmetry] = Table(["layer", *LAWS], lines)
    return tables
