"""Measuring a network while it trains, without changing it."""

from symrun.tracking.tracker import Observation, Tracker, Watcher

__all__ = ["Observation", "Tracker", "Watcher"]
