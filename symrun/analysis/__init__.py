"""How well what was measured agrees with what was predicted."""

from symrun.analysis.agreement import Agreement, agreement, is_identity, is_null, judge
from symrun.analysis.comparison import Comparison, comparisons
from symrun.analysis.report import as_json, as_table, shortcomings, silences, skipped

__all__ = [
    "Agreement",
    "Comparison",
    "agreement",
    "as_json",
    "as_table",
    "comparisons",
    "is_identity",
    "is_null",
    "judge",
    "shortcomings",
    "silences",
    "skipped",
]
