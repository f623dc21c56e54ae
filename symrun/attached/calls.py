"""Tells a step of the optimiser from one that it calls itself, as super().step() does."""

from types import FrameType


class OutermostCalls:
    """Knows the call that is under way, also if the one before it ended in an error.

    Torch runs the hooks of both a step and the one that it calls. Each call is known by its frame.
    """

    def __init__(self) -> None:
        self._frame: FrameType | None = None

    def enter(self, frame: FrameType) -> bool:
        """Whether this call is not made by one that is under way."""
        outer: FrameType | None = frame
        while outer is not None and outer is not self._frame:
            outer = outer.f_back
        if self._frame is not None and outer is not None:
            return False
        self._frame = frame
        return True

    def leave(self, frame: FrameType) -> bool:
        """Whether this call is the outermost."""
        if frame is not self._frame:
            return False
        self._frame = None
        return True
