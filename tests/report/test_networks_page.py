"""docs/networks.md is what scripts/networks.py makes of the measurements beside it."""

import json
import runpy
from pathlib import Path

import symrun

ROOT = Path(symrun.__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "networks.py"))


def test_the_page_is_made_of_what_was_measured_and_lacks_no_network():
    stored = json.loads((ROOT / "docs" / "networks.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "networks.md").read_text(encoding="utf-8") == SCRIPT["page"](stored)
    assert list(stored) == list(SCRIPT["NETWORKS"])
    assert f"{len(stored)} networks" in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_a_small_network_is_measured_and_told():
    """16 hidden units on 64 pixels, 3 classes; what fails its proof is named below the table."""
    words = ("mlp", "model.depth=1", "model.hidden=16", "data.channels=1", "data.image_size=8")
    one = SCRIPT["measured"]((*words, "data.classes=3", "device=cpu"))
    assert one["groups"] == {"translation": [2, 17], "scale": [0, 0], "rescale": [1, 16]}
    assert one["parameters"] == one["covered"] == 64 * 16 + 16 + 16 * 3 + 3
    assert one["passes"] == 1 and one["defect"] < 1e-13 and one["failed"] == []
    page = SCRIPT["page"]({"small": one | {"failed": ["scale of conv: why"]}})
    assert "| small | 1×8×8 | 2, 17 | – | 1, 16 | – | 1,091 | 100.00% |" in page
    assert "\n\nLeft out of small: scale of conv: why.\n\n" in page
