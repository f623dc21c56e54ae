"""One page about runs: their figures, how good each law was, how long they took."""

from symrun.report.evidence import Evidence, evidence
from symrun.report.html_page import report

__all__ = ["Evidence", "evidence", "report"]
