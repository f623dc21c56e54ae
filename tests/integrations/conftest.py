import pytest
from tracked import Tracked

import symrun


@pytest.fixture
def tracked(monkeypatch):
    """The trackers that were made, in order."""
    made = []

    def track(*arguments, **options):
        made.append(Tracked(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(symrun, "track", track, raising=False)
    return made
