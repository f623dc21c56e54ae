"""What runs show, told in one page: their figures, how good each law was, what it cost."""

from symrun.report.evidence import Evidence, evidence
from symrun.report.page import report

__all__ = ["Evidence", "evidence", "report"]
