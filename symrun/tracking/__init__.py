"""Measuring a network while it trains, without changing it."""

from symrun.tracking.tracker import Tracker

__all__ = ["Tracker"]
