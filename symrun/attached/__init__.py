"""Tracking in a training loop of the user's own."""

from typing import TYPE_CHECKING

from symrun.lazy import imported_when_asked

if TYPE_CHECKING:
    from symrun.attached.attach import track
    from symrun.attached.tracked import TrackedRun

__all__ = ["TrackedRun", "track"]

__getattr__ = imported_when_asked(
    __name__, {"TrackedRun": "symrun.attached.tracked", "track": "symrun.attached.attach"}
)
