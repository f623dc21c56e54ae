"""run.json from elsewhere: one clear line, or all that readers take from it is there."""

import copy
import dataclasses
import json
import resource
import shutil
import time
import warnings
from random import Random

import pytest
from made_small import MADE_SMALL
from mutations import mutated
from own_loop import own_loop_run
from run_json import changed, recorded, rewrite

from symrun.analysis import agreement, as_json, as_table
from symrun.bench.tables import make_run
from symrun.errors import UsageError
from symrun.figures import FIGURES, captions, select_runs
from symrun.launch import compose
from symrun.runs.directory import RunDirectory, newest_first
from symrun.runs.info import SCHEMA, RunInfo
from symrun.runs.run_json import MOST_BYTES, info_from

SMALL = [*MADE_SMALL, "train.steps=20", "track.every=4"]
FIGURES_OF_RUNS = {
    **dict.fromkeys(("fig1", "grid", "grid_scale", "grid_translation"), ["bn"]),
    **dict.fromkeys(("phase", "residual", "units"), ["bn"]),
    "grid_rescale": ["plain"],
    "fig5": ["plain", "bn"],
    "seeds": ["bn", "other"],
    **dict.fromkeys(("symmetries", "progress"), ["own"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs with and without BN, one with another seed, and one of a loop of the user's own; with
    all that a run.json can hold."""
    folder = tmp_path_factory.mktemp("made")
    made = {}
    for name, settings in {
        "bn": ["model=vgg11_bn"],
        "plain": ["model=vgg11"],
        "other": ["model=vgg11_bn", "seed=1"],
    }.items():
        made[name] = make_run(folder / name, compose([*settings, *SMALL]), records_per_part=3)
    made["own"] = own_loop_run(folder / "own", "mixed")
    for run in made.values():
        rewrite(
            run,
            diverged={"step": 7, "loss": False, "layers": ["features.0"]},
            resumed=[{"step": 3}],
            thinned={"every": 4, "records": 6, "of": 21},
            source="outputs/a",
        )
    return made


@pytest.fixture
def info(runs):
    """As JSON."""
    return recorded(runs["bn"])


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "")


def refusal(run, content):
    run.run_json.write_bytes(
        content if isinstance(content, bytes) else json.dumps(content).encode()
    )
    with pytest.raises(UsageError) as caught:
        RunDirectory.open(run.path)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(f"{run.run_json} ")
    return str(caught.value)


def test_a_description_that_symrun_wrote_is_read_with_what_a_newer_one_adds(run, info):
    newer = {**info, "weather": {"of": ["the", "day"]}, "dataset": {**info["dataset"], "sky": 1}}
    run.run_json.write_text(json.dumps(newer))
    assert RunDirectory.open(run.path).info() == info_from(info)


def test_what_is_written_is_read_back_and_what_was_absent_stays_absent(runs, run, info):
    run.write_info(runs["bn"].info())
    assert recorded(run) == info and run.info() == runs["bn"].info()
    before = {name: value for name, value in info.items() if name not in OPTIONAL}
    run.write_info(info_from(before))
    assert recorded(run) == before | {"versions": {}}


def test_a_run_from_before_its_models_family_was_recorded_has_one(info):
    del info["model"]["family"]
    assert info_from(info).model.family == "VGG11"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (SCHEMA + 1, f"has schema {SCHEMA + 1}, written by a newer symrun: this one reads {SCHEMA};"
         " update symrun"),
        (SCHEMA - 1, f"has schema {SCHEMA - 1}, written by an older symrun: this one reads"),
        (10**400, "written by a newer symrun"),
        (True, "has schema True; this symrun reads"),
        (float(SCHEMA), f"has schema {SCHEMA}.0; this symrun reads"),
        (["\n"], r"has schema ['\n']; this symrun reads"),
    ],
)  # fmt: skip
def test_another_version_is_told_before_anything_else_of_it(run, schema, reason):
    assert reason in refusal(run, {"schema": schema, "config": "of another kind"})


OPTIONAL = {
    field.name
    for field in dataclasses.fields(RunInfo)
    if not field.default is field.default_factory is dataclasses.MISSING
} - {"dataset", "loss", "steps_per_epoch"}
"""Loops of the user's own lack those as well."""
REQUIRED = {field.name for field in dataclasses.fields(RunInfo)} - OPTIONAL - {"loss"}
"""But the loss, which runs lack that were recorded before it was."""


@pytest.mark.parametrize("key", ["schema", *sorted(REQUIRED)])
def test_what_is_missing_is_named(run, info, key):
    del info[key]
    assert refusal(run, info).endswith(f"does not describe a run: {key} is missing")


NOT_ONE = "groups[0].units must be an integer in [1, 1000000000], got "
NOT_INTEGER = "groups[0].units must be an integer, got "


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("groups 0 units", 10**18, f"{NOT_ONE}{10**18}"),
        ("groups 0 units", True, f"{NOT_INTEGER}True"),
        ("groups 0 units", 4.0, f"{NOT_INTEGER}4.0"),
        ("groups 0 units", None, f"{NOT_INTEGER}None"),
        ("groups 0 symmetry", ["scale"], "one of translation, scale, rescale, "),
        ("groups 0 layers", [], "groups[0].layers must be a list with an entry, got []"),
        ("groups 0 layers", [1], "groups[0].layers[0] must be text, got 1"),
        ("groups 0 layers", ["$"], "groups[0].layers[0] must be one printable line"),
        ("groups 0", 7, "groups[0] must be an object with names, got 7"),
        ("groups", {"a": 1}, "groups must be a list, got {'a': 1}"),
        ("groups 1 entries", 10**400, "groups[1].entries must be an integer in [1, 9223372036854"),
        ("groups 1 entries", "4", "groups[1].entries must be an integer, got '4'"),
        ("groups 1 entries", 0, "groups[1].entries must be an integer in [1, 922337203685477580"),
        ("layers 0 block", None, "layers[0].block must be an integer in a convolution, got null"),
        ("layers 0 block", -1, "layers[0].block must be an integer in [0, 1000], got -1"),
        ("dataset title", "two\nlines", r"got 'two\nlines'"),
        ("dataset title", "\ud800", r"got '\ud800'"),
        ("dataset title", r"$\frac$", "without $, which figures read as mathematics"),
        ("dataset title", "x" * 1000, "dataset.title must be one printable line"),
        ("dataset classes", 0, "dataset.classes must be an integer in [1"),
        ("model width", float("nan"), "model.width must be a number in (0, 1000], got nan"),
        ("model width", 1e999, "model.width must be a number in (0, 1000], got inf"),
        ("status", "done", "status must be one of running, finished, interrupted, failed, diver"),
        ("steps_per_epoch", 0, "steps_per_epoch must be an integer in [1"),
        ("unpredicted flow", None, "unpredicted.flow must be text, got None"),
        ("unpredicted flow", "$", "unpredicted.flow must be one printable line"),
        ("diverged step", "7", "diverged.step must be an integer"),
        ("resumed", 1, "resumed must be a list, got 1"),
        ("thinned every", 0, "thinned.every must be an integer in [1, 10000000], got 0"),
        ("thinned records", True, "thinned.records must be an integer, got True"),
        ("thinned records", 0, "thinned.records must be an integer in [1, 1000000000], got 0"),
        ("thinned", 1, "thinned must be an object with names, got 1"),
        ("config", None, "config must be an object with names, got None"),
        ("config optim lr", 10**400, "config.optim.lr must be less than 2^63"),
        ("config optim lr", float("inf"), "optim.lr must be finite, got inf"),
        ("config optim", [], "optim must be an optimiser, got []"),
        ("config train steps", 10**12, "train.steps must be in [1, 10000000], got 1000000000000"),
        ("config train epochs", 0, "train.epochs must be in [1, 10000000], got 0"),
        ("config model eps", 10**400, "config.model.eps must be less than 2^63"),
        ("config optim betas", [0.9], "there is no setting optim.betas"),
        ("config seed", -1, "seed must be in [0, 2^63), got -1"),
        ("config run name", 7, "run.name must be text, got 7"),
        ("config seed", None, "config.seed is missing"),
        ("model name", "vgg\n", r"got 'vgg\n'"),
        ("model width", 10**400, "model.width must be < 2^63, got 1000"),
        ("seconds", float("nan"), "seconds must be a number in [0, 1e10], got nan"),
        ("dataset train_images", "many", "dataset.train_images must be an integer, got 'many'"),
    ],
)
def test_what_is_not_as_it_must_be_is_named(run, info, place, value, reason):
    assert reason in refusal(run, changed(info, place, value))


def test_steps_that_follow_from_epochs_are_bounded_too(run, info):
    info["config"]["train"] |= {"steps": None, "epochs": 10**6}
    info["steps_per_epoch"] = 10
    assert info_from(info).planned_steps == 10**7
    info["steps_per_epoch"] = 11
    assert "the number of steps must be <= 10000000, got 11000000" in refusal(run, info)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read: Expecting value"),
        (b"\xff\xfe{}", "cannot be read: 'utf-8' codec"),
        (b"\xef\xbb\xbf{}", "cannot be read: Unexpected UTF-8 BOM"),
        (b"[" * 10**6, "does not describe a run"),
        (b"[" * 500 + b"]" * 500, "does not describe a run"),
        (b'{"dataset": ' * 500 + b"1" + b"}" * 500, "does not describe a run"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read: Exceeds the limit"),
        (b" " * (MOST_BYTES + 1), f"has more than {MOST_BYTES} bytes"),
        (b"null", "does not describe a run"),
    ],
    ids=range(9),
)
def test_what_is_no_json_or_no_description_is_one_line(run, content, reason):
    assert reason in refusal(run, content)


def test_values_inside_values_without_end_are_refused_wherever_they_are(run, info):
    """Else it is up to who compares, or writes, them whether the stack suffices."""
    nested = 1
    for _ in range(500):
        nested = [nested]
    for deep in ({**info, "weather": nested}, changed(info, "dataset weather", nested)):
        assert refusal(run, deep).endswith("does not describe a run")


def test_tables_that_go_on_after_the_planned_steps_are_refused(runs, tmp_path):
    run = changed_copy(runs["bn"], tmp_path, "config train steps", 12)
    with pytest.raises(UsageError, match="tables go from step 0 to 20, run.json plans 12 steps"):
        list(agreement(run))
    with pytest.raises(UsageError, match="run.json plans 12 steps"):
        FIGURES["phase"].draw([run])


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_learning_rate_whose_sum_could_overflow_is_refused(runs, tmp_path):
    with pytest.raises(UsageError, match=r"optim.lr must be <= 1e\+30, got 1e\+308"):
        changed_copy(runs["bn"], tmp_path, "config optim lr", 1e308)


def test_runs_whose_networks_differ_do_not_belong_together(runs, tmp_path):
    """Such as seeds of which one has lost a group: their curves could not be averaged."""
    other = changed_copy(runs["other"], tmp_path, "groups", recorded(runs["other"])["groups"][1:])
    with pytest.raises(UsageError, match="copy differs in its network"):
        select_runs("seeds", [runs["bn"], other])


def test_a_grid_of_columns_needs_a_group_of_columns(runs, tmp_path):
    all_groups = recorded(runs["bn"])["groups"]
    groups = [row for row in all_groups if not row["group"].startswith("class")]
    groups += [row for row in all_groups if row["units"] == 1]
    run = changed_copy(runs["bn"], tmp_path, "groups", groups)
    assert any(row["symmetry"] == "translation" for row in groups)
    with pytest.raises(UsageError, match="cannot draw .*copy: it lacks the symmetry"):
        select_runs("grid_translation", [run])


def changed_copy(run, tmp_path, place, value):
    copied = RunDirectory(shutil.copytree(run.path, tmp_path / "copy"))
    copied.run_json.write_text(json.dumps(changed(recorded(copied), place, value)))
    return RunDirectory.open(copied.path)


VALUES = [
    *(None, True, -1, 0, 1e308, 10**30, float("nan"), float("inf"), [], {}, ""),
    *("x" * 10_000, "two\nlines", "\x1b[31m", "\ud800", "$\\frac$", [[[[[]]]]], {"a": [1]}),
]


def restructured(info, random):
    """One or two values in it replaced, by anything or by something alike, or removed."""
    info = copy.deepcopy(info)
    for _ in range(random.randint(1, 2)):
        places = list(_places(info))
        if places:
            container, key = random.choice(places)
            kind = random.random()
            if kind < 0.15:
                del container[key]
            elif kind < 0.3:
                container[key] = copy.deepcopy(random.choice(VALUES))
            else:
                container[key] = _alike(container[key], random)
    return json.dumps(info).encode()


def _alike(value, random):
    """Another value of the type, which may well fit."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return random.choice((value + 1, value // 2, 2 * value, 1000 * value, 10**7))
    if isinstance(value, float):
        return value * random.choice((0.5, 2.0, 1e-300, 1e300))
    if isinstance(value, str):
        return random.choice((value[::-1], value + " -> b", "scale", "convolution", "$", "x" * 500))
    if isinstance(value, list):
        return random.choice((value[1:], value[::-1], 2 * value))
    return {key: value[key] for key in list(value)[::-1]}


def _places(value):
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def damage_and_use(runs, seeds, draw):
    """Damage the run.json of each run in turn, then check the run, caption it and choose figures
    for it; and, if `draw`, draw one. Returns how many were read, used to the end, and refused.
    """
    counts = dict.fromkeys(("read", "used", "refused"), 0)
    for seed in seeds:
        random = Random(seed)
        name, run = random.choice(list(runs.items()))
        intact = run.run_json.read_bytes()
        damaged = (
            mutated(intact, random) if seed % 3 == 0 else restructured(json.loads(intact), random)
        )
        started = time.monotonic()
        try:
            run.run_json.write_bytes(damaged)
            counts[_used(name, runs, random, draw)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {damaged[:20_000]!r}") from error
        finally:
            run.run_json.write_bytes(intact)
        # Undamaged it takes a tenth of that, on a busy machine a few times as long
        assert time.monotonic() - started < (60 if draw else 20), f"seed {seed}"
    return counts


def _used(name, runs, random, draw):
    outputs = runs[name].path.parent
    try:
        run = RunDirectory.open(runs[name].path)
    except UsageError as error:
        assert str(error).isprintable()
        assert len(newest_first(outputs)) == len(runs) - 1
        return "refused"
    assert len(newest_first(outputs)) == len(runs)
    figure = random.choice([one for one, names in FIGURES_OF_RUNS.items() if name in names])
    uses = [lambda: _check(run), lambda: _caption(run), lambda: _choose(figure, runs, draw)]
    return "used" if all([_goes(use) for use in uses]) else "read"


def _goes(use):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a huge learning rate overflows
            use()
    except UsageError as error:
        assert str(error).isprintable()
        return False
    return True


def _check(run):
    rows = list(agreement(run))
    as_table(rows, [])
    json.loads(as_json(rows, []))


def _caption(run):
    info = run.info()
    captions.title(1, 1e-4, [info])
    captions.captions([(info, info.last_step)])
    captions.common_caption([info, info], info.last_step, captions.optimiser(info))
    captions.law_label([info])
    captions.step_label(info)


def _choose(figure, runs, draw):
    chosen = select_runs(figure, [runs[name] for name in FIGURES_OF_RUNS[figure]])
    if draw:
        FIGURES[figure].draw(chosen).draw_without_rendering()


def _peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_damaged_description_is_one_line_or_can_be_used(runs):
    before = _peak_bytes()
    counts = damage_and_use(runs, range(150), draw=False)
    assert counts["used"] > 15 and counts["refused"] > 50 and sum(counts.values()) == 150
    # 10^7 steps are 80 MB an array, of which the time of each step takes some
    assert _peak_bytes() - before < 2**30


@pytest.mark.slow
def test_thousands_of_damaged_descriptions_are_one_line_or_can_be_drawn(runs):
    before = _peak_bytes()
    counts = damage_and_use(runs, range(300, 2300), draw=True)
    assert counts["used"] > 200 and counts["refused"] > 700 and sum(counts.values()) == 2000
    assert _peak_bytes() - before < 2**30


def test_settings_that_came_later_have_their_defaults_in_older_runs(info):
    del info["config"]["task"], info["config"]["model"]["eps"], info["config"]["data"]["augment"]
    settings = info_from(info).config.by_name
    assert (settings["task.name"], settings["model.eps"]) == ("cross_entropy", 1e-5)
    assert settings["data.augment"] == "crop"
    json.dumps(info_from(info).to_json())


@pytest.mark.parametrize(
    ("fields", "contents"),
    [
        ({"image_size": 64}, "10 classes, 64×64"),
        ({"image_size": 28, "channels": 1}, "10 classes, 28×28, grey"),
        ({"length": 256}, "10 characters, 256 at a time"),
    ],
)
def test_a_caption_says_what_the_data_are(info, fields, contents):
    """An older run says no more than the size of its images."""
    info["dataset"] = {"title": "Data", "synthetic": False, "classes": 10} | fields
    read = info_from(info)
    assert read.to_json()["dataset"] == info["dataset"]
    (caption,) = captions.captions([(read, read.last_step)])
    assert caption.replace("\N{NO-BREAK SPACE}", " ").startswith(f"Data ({contents}), ")


def test_data_without_a_size_or_a_length_are_refused(info):
    del info["dataset"]["image_size"]
    with pytest.raises(UsageError, match="dataset.image_size must be an integer where there is no"):
        info_from(info)
