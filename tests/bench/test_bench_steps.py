"""`symrun bench`: what it says of a small network."""

import dataclasses
import json

import pytest

from symrun import bench
from symrun.bench import report as bench_report
from symrun.bench.settings import configurations
from symrun.bench.tracking_cost import StepCost
from symrun.cli import main
from symrun.errors import RunError, UsageError

SMALL = ["model=vgg11", "model.width=0.0625", "train.batch_size=8", "device=cpu"]
SMALL += ["data.image_size=32", "data.train_images=200", "data.val_images=200"]


def test_every_listed_value_is_measured():
    chosen = list(configurations([*SMALL, "track.every=1,3", "train.batch_size=4,8"]))
    found = [(config.track.every, config.train.batch_size) for config in chosen]
    assert found == [(1, 4), (1, 8), (3, 4), (3, 8)]
    assert {config.model.width for config in chosen} == {0.0625}
    for wrong in ("track.every=1,(", "optim.lr=interval(0.1,1)", "model=glob(alex*)"):
        with pytest.raises(UsageError) as caught:
            configurations([wrong])
        assert "\n" not in str(caught.value) and len(str(caught.value)) > 20
    with pytest.raises(UsageError, match="at most data.train_images .2000., got 4096"):
        configurations(["train.batch_size=128,4096"])
    with pytest.raises(UsageError, match="leave data=tiny_imagenet out"):
        configurations(["data=tiny_imagenet"])
    with pytest.raises(UsageError, match="precision=tf32 needs a CUDA GPU"):
        configurations(["device=cpu", "precision=float32,tf32"])
    with pytest.raises(UsageError, match="track.every must be >= 1"):
        list(configurations(["track.every=0,1"]))


def test_what_a_report_says():
    report = bench.measure(SMALL, pairs=3, tables=False)
    (cost,) = report.steps
    assert (cost.model, cost.width, cost.batch_size, cost.pairs) == ("vgg11", 0.0625, 8, 3)
    low, high = cost.ratio_quartiles
    assert 0 < low <= cost.ratio <= high
    assert 0 < cost.tracker_seconds < cost.tracked_seconds
    assert cost.floor_seconds > 0 and cost.record_bytes > 4 * cost.units
    assert cost.images_per_second == pytest.approx(8 / cost.tracked_seconds)
    # A forward and two products of its size backward, of which the first layer needs one; the
    # first layer has 2 * 9 * 3 * 4 * 32 * 32 FLOP an image. Counted by hand, with 200 classes.
    widths, size = [4, 8, 16, 16, 32, 32, 32, 32], [32, 16, 8, 8, 4, 4, 2, 2]
    layers = [2 * 9 * i * o * s * s for i, o, s in zip([3, *widths], widths, size, strict=False)]
    layers += [2 * 32 * 64, 2 * 64 * 64, 2 * 64 * 200]
    assert cost.gflop * 1e9 == 8 * (3 * sum(layers) - layers[0])
    table = bench.as_text(report)
    assert "vgg11" in table and "tracked" in table and "symrun --help" in table
    assert json.loads(bench.as_json(report))["steps"][0]["batch_size"] == 8


@pytest.mark.parametrize("end", [RunError("full"), KeyboardInterrupt()])
def test_each_configuration_is_handed_out_as_soon_as_it_is_measured(
    monkeypatch, tmp_path, capsys, end
):
    """In a file, on standard error for who watches, and at the end whatever ends it."""
    out = tmp_path / "bench.json"
    seen = []

    def step_cost(config, pairs):
        assert pairs == 40
        seen.append([step["every"] for step in json.loads(out.read_text())["steps"]])
        if config.track.every == 3:
            raise end
        values = {field.name: 1 for field in dataclasses.fields(StepCost)}
        named = {"model": "vgg11", "every": config.track.every, "precision": "", "device": "cpu"}
        return StepCost(**values | named | {"ratio_quartiles": (1, 1)})

    monkeypatch.setattr(bench_report, "step_cost", step_cost)
    code = main(["bench", *SMALL, "track.every=1,2,3", "--out", str(out)])
    assert code == (1 if isinstance(end, RunError) else 130)
    assert seen == [[], [1], [1, 2]]
    assert [step["every"] for step in json.loads(out.read_text())["steps"]] == [1, 2]
    printed = capsys.readouterr()
    first_words = [line.split()[0] for line in printed.out.splitlines()]
    assert first_words == ["cpu,", "model", "vgg11", "vgg11", "symrun"]
    assert printed.err.count("untracked 1000.0 ms, tracked 1000.0 ms, ratio 1.0000") == 2


def test_wrong_use_is_one_line(capsys):
    assert main(["bench", "--pairs", "0"]) == 2
    assert main(["bench", "track.evry=3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "--pairs must be >= 1" in lines[0] and "evry" in lines[1]


def test_a_network_that_takes_no_images_is_refused():
    with pytest.raises(UsageError, match="synthetic images, which model=gpt does not take"):
        configurations(["model=gpt"])
