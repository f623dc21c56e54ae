"""The laws on networks that are no VGG: residual streams, attention, and a loss without softmax."""

import pandas as pd
import pytest

ROUNDING = 1e-12
"""50 updates of about 20 roundings each, and sums of up to 1,000 products, each 2^-53 relative to
the magnitude: 2e-13."""


@pytest.fixture(params=["resnet", "gpt", "mlp"])
def table(request, any_network):
    """The table `units` of a run."""
    return pd.read_parquet(any_network(request.param).table("units"))


def residuals(table, law):
    """|measured - law| / magnitude, the largest of each unit; 0 where both are 0."""
    error = (table["measured"] - table[law]).abs()
    relative = (error / table["magnitude"]).where(error > 0, 0.0)
    keys = [table[name] for name in ("symmetry", "group", "unit")]
    return relative.groupby(keys, observed=True).max()


def test_every_unit_follows_the_identity(table):
    assert table["exact"].notna().all()
    assert residuals(table, "exact").max() <= ROUNDING


def test_every_unit_of_a_perfect_symmetry_follows_the_discrete_law(table):
    """All but what the eps of a normalisation breaks: scale, and the GPT's whole stream."""
    stream = table["group"].astype(str).str.startswith("embedding")
    perfect = table[(table["symmetry"] != "scale") & ~stream]
    assert residuals(perfect, "discrete").max() <= ROUNDING


def test_the_units_move(table):
    """By far more than what the laws are held to, which would else follow from nothing moving."""
    units = table.groupby(["symmetry", "group", "unit"], observed=True)
    motion = (units["measured"].max() - units["measured"].min()) / units["magnitude"].max()
    for symmetry, moved in motion.groupby("symmetry", observed=True):
        needed = 0.3 if symmetry == "translation" else 0.95  # sums of biases stay at 0
        assert (moved > 1e3 * ROUNDING).mean() > needed, symmetry


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("resnet", {"scale", "rescale", "translation"}),
        ("gpt", {"rescale", "translation"}),
        ("mlp", {"rescale"}),  # squared error is no function of differences of outputs
    ],
)
def test_each_network_has_its_families_of_symmetry(any_network, name, families):
    groups = any_network(name).info().groups
    assert {group.symmetry.value for group in groups} == families


def test_a_residual_stream_is_a_group_of_many_layers(any_network):
    groups = any_network("resnet").info().groups_of("rescale")
    assert sum(len(group.layers) > 4 for group in groups) == 4  # one a stage
