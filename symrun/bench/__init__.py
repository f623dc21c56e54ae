"""Measures what tracking, records, reading tables and starting cost."""

from symrun.bench.report import Report, as_json, as_text, measure

__all__ = ["Report", "as_json", "as_text", "measure"]
