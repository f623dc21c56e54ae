"""The project's own cost: of tracking, of a record, of reading tables, of starting."""

from symrun.bench.report import Report, as_json, as_text, measure

__all__ = ["Report", "as_json", "as_text", "measure"]
