"""docs/scaling.md is made of what scripts/scaling.py measured, and counts units as the search."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import symrun
from symrun.models.gpt import GPT

ROOT = Path(symrun.__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "scaling.py"))


def test_the_page_is_made_of_what_was_measured():
    stored = json.loads((ROOT / "docs" / "scaling.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8") == SCRIPT["page"](stored)


@pytest.mark.parametrize("relu", [False, True])
def test_the_units_of_a_transformer_are_those_that_the_search_finds(relu):
    """Beside those of the blocks: one of the positions each, and the last normalisation."""
    tokens, blocks, width = 16, 2, 64
    with torch.device("meta"):
        model = GPT(65, tokens, blocks, heads=4, width=width)
        for block in model.blocks if relu else []:
            block.activation = torch.nn.ReLU()
        inputs, labels = (torch.zeros(1, tokens, dtype=torch.long) for _ in range(2))
    found = symrun.find_structure(
        model, inputs, lambda logits: F.cross_entropy(logits[0], labels[0].to(logits.device))
    )
    units = sum(group.units for group in found.groups)
    assert units == SCRIPT["transformer"](blocks, width, relu) + tokens + 1


def test_small_networks_are_measured(tmp_path):
    units = SCRIPT["FEWEST"]
    assert SCRIPT["tracker"](units, tmp_path)["waiting_bytes"] == 28
    assert 10 < SCRIPT["writer"](units, tmp_path / "run")["bytes"] < 40
    for reader in ("check", "group"):
        assert SCRIPT[reader](units, tmp_path / "run")["seconds"] > 0
