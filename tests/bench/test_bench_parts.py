"""`symrun bench --parts`: what it measures, what it says where something fails, and when."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

from symrun.bench import clock, launches, step, sums
from symrun.bench.clock import Clock, Cost, Work
from symrun.bench.launches import Launches
from symrun.bench.parts import measure_parts
from symrun.bench.parts_report import (
    IN_EVERY_UPDATE,
    TRACKED,
    Kind,
    Part,
    as_json,
    as_text,
    sum_of_parts,
)
from symrun.bench.settings import configurations
from symrun.bench.step import Step
from symrun.cli import main

SMALL = ["model=vgg11_bn", "model.width=0.0625", "train.batch_size=4"]
SMALL += ["data.image_size=32", "data.train_images=200", "data.val_images=200"]
CPU = [*SMALL, "device=cpu"]
PARTS = [*IN_EVERY_UPDATE, "record", "record, handed over"]
UPDATES = ["update, untracked", TRACKED]
CPU_COST = Cost(2e-3, None, 2**20)


def quiet(reports):
    """Takes them and does nothing."""


class Operations(TorchDispatchMode):
    """Counts what torch does: a clock that other processes do not disturb."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.count += 1
        return function(*arguments, **named or {})


@pytest.fixture(autouse=True)
def _one_thread():
    """Two of them would wait for each other beside other tests, for longer than all this takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_clock(monkeypatch):
    """Everything is called once and takes 2 ms. Returns what a test can have called before."""
    before = []

    def cost(self, work):
        for act in before:
            act()
        work.call()
        return CPU_COST

    monkeypatch.setattr(Clock, "cost", cost)
    return before


def names(report, kind):
    return [part.name for part in report.parts if part.kind is kind]


@pytest.mark.parametrize("optim", [[], ["optim.momentum=0.9", "optim.schedule=cosine"]])
def test_the_parts_make_up_the_whole(monkeypatch, optim):
    """Operation by operation: none is missing, and none is in two of them."""
    with Operations() as operations:
        monkeypatch.setattr(clock.time, "perf_counter", lambda: operations.count)
        (report,) = measure_parts([*CPU, *optim], quiet, repeats=3)
    counts = {part.name: part.cost.seconds for part in report.parts}
    assert all(count >= 2 for count in counts.values())
    assert sum_of_parts(report).cost.seconds == counts[TRACKED]
    assert counts[TRACKED] - counts["update, untracked"] == counts["measuring"] + counts["laws"]
    assert counts["backward"] > counts["forward"]


def test_every_part_is_measured():
    handed_out = []
    (report,) = measure_parts(CPU, lambda reports: handed_out.append(list(reports)), repeats=3)
    assert not report.failures
    assert names(report, Kind.part) == PARTS
    assert names(report, Kind.update) == UPDATES
    assert names(report, Kind.sums) == ["plain torch"]
    assert all(part.cost.peak_bytes > 2**26 for part in report.parts)
    assert all(part.cost.host_seconds is None and part.launches is None for part in report.parts)
    differences = ("backward", "record")  # which noise can make negative, where little is done
    assert all(part.cost.seconds > 0 for part in report.parts if part.name not in differences)
    seconds = [part.cost.seconds for part in report.parts if part.name in IN_EVERY_UPDATE]
    assert sum_of_parts(report).cost.seconds == pytest.approx(sum(seconds))
    counts = [len(reports[0].parts) if reports else None for reports in handed_out]
    assert counts == [None, 0, *range(1, len(report.parts) + 1)]


def test_weights_stay_where_they_are():
    """So that the last part is measured on the network that the first was measured on."""
    (config,) = configurations([*CPU, "optim.momentum=0.9"])
    made = Step(config)
    weights = [parameter.clone() for parameter in made._training.model.parameters()]
    for works in (made.parts(), made.updates()):
        for work in works.values():
            for _ in range(10):
                work().call()
    for before, now in zip(weights, made._training.model.parameters(), strict=True):
        # 40 updates at a learning rate of 1e-10: for this a gradient would have to be 250
        assert torch.allclose(before, now, rtol=0, atol=1e-6)


def test_records_are_released():
    (config,) = configurations(CPU)
    made = Step(config)
    made.parts()["record, handed over"]().call()
    assert len(made._records._held) == 2
    made.release_records()
    assert not made._records._held


def test_text_and_json_have_every_row_and_the_sum(no_clock):
    (report,) = measure_parts(CPU, quiet)
    text = as_text([report])
    rows = [line.split("  ")[0] for line in text.splitlines()]
    expected = [*PARTS, "sum of the parts", "", *UPDATES, "", "plain torch"]
    assert rows[2 : 2 + len(expected)] == expected
    assert "sum of the parts     14.000 ms  1 MiB" in text and "host" not in text
    assert "vgg11_bn, width 0.0625, batch 4, float32, cpu" in text.splitlines()[0]
    (found,) = json.loads(as_json([report]))["configurations"]
    assert found["sum"]["cost"]["seconds"] == pytest.approx(7 * 2e-3)
    assert found["parts"][0] == {
        "kind": "part",
        "name": "batch",
        "cost": {"seconds": 2e-3, "host_seconds": None, "peak_bytes": 2**20},
        "launches": None,
        "failed": None,
    }
    assert (found["model"], found["sums"], found["every"]) == ("vgg11_bn", "TorchSums", 20)


def test_on_a_gpu_there_are_the_host_and_launches_too(no_clock):
    (report,) = measure_parts(CPU, quiet)
    cost, found = Cost(2e-3, 3e-3, 2**30), Launches(5, 1e-3)
    parts = tuple(Part(part.kind, part.name, cost, found) for part in report.parts)
    text = as_text([SimpleNamespace(**vars(report) | {"parts": parts, "failures": []})])
    head, first = text.splitlines()[1:3]
    assert head.split() == ["device", "host", "kernels", "launches", "memory"]
    assert first.split() == ["batch", *"2.000 ms 3.000 ms 1.000 ms 5 1,024 MiB".split()]
    assert "sum of the parts     14.000 ms  21.000 ms  7.000 ms  35        1,024 MiB" in text


def test_a_part_that_fails_is_reported_and_the_others_are_measured(monkeypatch, no_clock, capsys):
    def fails(self):
        raise RuntimeError("backend raised:\n\n  no laws\nTraceback")

    monkeypatch.setattr(Step, "_law_step", fails)
    assert main(["bench", "--parts", *CPU]) == 1
    printed = capsys.readouterr()
    assert "laws: backend raised:; no laws\n" in printed.out and "Traceback" not in printed.out
    assert "sum without 1 that failed" in printed.out
    (report,) = measure_parts(CPU, quiet)
    assert report.failures == ["laws: backend raised:; no laws"]
    assert [p.name for p in report.parts if p.cost is None] == ["laws"]
    assert names(report, Kind.part) == PARTS
    assert sum_of_parts(report).cost.seconds == pytest.approx(6 * 2e-3)


def test_a_network_that_cannot_be_made_is_one_line(monkeypatch, no_clock):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(step, "prepare", fails)
    found = measure_parts([*CPU, "track.every=1,2"], quiet)
    assert [report.every for report in found] == [1, 2]
    for report in found:
        assert report.failures == ["no more can be measured: CUDA out of memory."]
        assert not report.parts


def test_sums_that_are_wrong_are_called_wrong(monkeypatch, no_clock):
    class Twice(sums.TorchSums):
        def gradients(self, *args):
            return super().gradients(*args) * (1 + 1e-8)

    def ways(reductions, momentum):
        return {
            "plain torch": lambda: sums.TorchSums(reductions, momentum),
            "wrong": lambda: Twice(reductions, momentum),
            "none": lambda: 1 / 0,
        }

    monkeypatch.setattr(step, "ways_to_sum", ways)
    (report,) = measure_parts(CPU, quiet)
    failed = {p.name: p.failed for p in report.parts if p.kind is Kind.sums}
    assert failed["plain torch"] is None and failed["none"] == "division by zero"
    assert failed["wrong"] == "wrong: its sums are not those of plain torch"


@pytest.mark.parametrize("momentum", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_the_sums_that_are_compiled_are_right(monkeypatch, momentum):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # the same, in seconds
    settings = [f"optim.{name}={str(value).lower()}" for name, value in momentum.items()]
    for model in ("vgg11", "vgg11_bn"):  # without BN there are linear reducers among them
        (config,) = configurations([*CPU, *settings, f"model={model}"])
        made = Step(config)
        (work,) = made.compiled_sums().values()
        found, expected = work().call(), torch.no_grad()(made._measure._kinds[0]._sums.gradients)()
        # Sums of up to 2^20 terms, with some roundings each, in another order.
        assert torch.allclose(found, expected, rtol=0, atol=2**21 * 2.0**-53 * expected.abs().max())


def test_a_gpu_has_a_kernel_of_every_shape():
    ways = sums.ways_to_sum(SimpleNamespace(device=torch.device("cuda")), None)
    assert len(ways) == 1 + len(sums.SHAPES) == 8
    assert "kernel, tiles of 64 x 128, 2 warps" in ways


def test_the_file_is_complete_after_each_part(no_clock, tmp_path, capsys):
    out = tmp_path / "parts.json"
    seen = []

    def look():
        (report,) = json.loads(out.read_text())["configurations"]
        seen.append(len(report["parts"]))

    no_clock.append(look)
    assert main(["bench", "--parts", *CPU, "--json", "--out", str(out)]) == 0
    assert seen == list(range(12))
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads(out.read_text())
    assert [path.name for path in out.parent.iterdir()] == ["parts.json"]


def test_what_was_measured_is_printed_when_it_is_interrupted(no_clock, tmp_path, capsys):
    out = tmp_path / "parts.json"
    calls = []

    def interrupt():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    no_clock.append(interrupt)
    assert main(["bench", "--parts", *CPU, "--out", str(out)]) == 130
    printed = capsys.readouterr()
    assert "backward" in printed.out and "measuring" not in printed.out
    assert printed.err.splitlines()[-1] == "symrun: interrupted"
    (report,) = json.loads(out.read_text())["configurations"]
    assert [part["name"] for part in report["parts"]] == PARTS[:3]


def test_a_profile_of_each_configuration(no_clock, tmp_path):
    profile = tmp_path / "profile.txt"
    reports = measure_parts([*CPU, "seed=0,1"], quiet, profile=profile)
    assert not any(report.failures for report in reports)
    text = profile.read_text()
    assert text.count("Self CPU time total") == 2 and "aten::native_batch_norm" in text
    (report,) = measure_parts(CPU, quiet, profile=tmp_path)  # a folder
    assert len(report.failures) == 1 and "no profile: " in report.failures[0]


def test_wrong_use_is_one_line(capsys):
    wrong = {
        "--pairs has no effect with --parts": ["--parts", "--pairs", "3"],
        "--tables has no effect with --parts": ["--parts", "--tables"],
        "--repeats must be >= 1, got 0": ["--parts", "--repeats", "0"],
        "--repeats needs --parts": ["--repeats", "3"],
        "--profile needs --parts": ["--profile", "x"],
        "--compile-sums needs --parts": ["--compile-sums"],
        "leave data=tiny_imagenet out": ["--parts", "data=tiny_imagenet"],
        "train.cuda_graph=true needs a CUDA GPU": [
            "--parts",
            "device=cpu",
            "train.cuda_graph=true",
        ],
    }
    for message, arguments in wrong.items():
        assert main(["bench", *arguments]) == 2
        printed = capsys.readouterr()
        assert not printed.out and len(printed.err.splitlines()) == 1
        assert message in printed.err


class PretendGpu:
    """Two clocks: work begins once the host has launched it and what came before is done."""

    def __init__(self, monkeypatch):
        self.host = self.done = 0.0
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = max(gpu.host, gpu.done)

            def synchronize(self):
                gpu.wait()

            def elapsed_time(self, later):
                return (later.at - self.at) * 1e3

        for name, function in {
            "synchronize": lambda device: self.wait(),
            "Event": Event,
            "_sleep": lambda cycles: self.launch(0, cycles / 2e9),
            "reset_peak_memory_stats": lambda device: None,
            "max_memory_allocated": lambda device: 7,
        }.items():
            assert hasattr(torch.cuda, name)
            monkeypatch.setattr(torch.cuda, name, function)
        monkeypatch.setattr(clock.time, "perf_counter", lambda: self.host)

    def launch(self, host, device):
        self.host += host
        self.done = max(self.host, self.done) + device

    def wait(self):
        self.host = max(self.host, self.done)


@pytest.mark.parametrize(("host", "device"), [(5e-5, 1e-5), (1e-5, 5e-5), (1e-3, 0.0)])
def test_a_slow_host_does_not_count_for_a_part(monkeypatch, host, device):
    gpu = PretendGpu(monkeypatch)
    timer = Clock(torch.device("cuda"), repeats=3)
    part = timer.cost(Work(lambda: gpu.launch(host, device)))
    assert part.seconds == pytest.approx(device, abs=1e-12)
    assert part.host_seconds == pytest.approx(host) and part.peak_bytes == 7
    whole = timer.cost(Work(lambda: gpu.launch(host, device), queued=False))
    assert whole.seconds == pytest.approx(max(host, device), rel=0.2)  # the first has none before
    more = timer.cost(
        Work(lambda: gpu.launch(3 * host, 3 * device), lambda: gpu.launch(host, device))
    )
    assert more.seconds == pytest.approx(2 * device, abs=1e-12)
    assert more.host_seconds == pytest.approx(2 * host)


def test_what_counts_as_a_launch(monkeypatch):
    def event(device_type, microseconds, kind, annotation=False):
        time_range = SimpleNamespace(elapsed_us=lambda: microseconds)
        named = {} if kind is None else {"activity_type": kind}
        return SimpleNamespace(
            device_type=device_type, time_range=time_range, is_user_annotation=annotation, **named
        )

    on_gpu = DeviceType.CUDA
    found = [
        event(DeviceType.CPU, 1000, "cpu_op"),
        event(on_gpu, 30, "kernel"),
        event(on_gpu, 20, "gpu_memcpy"),
        event(on_gpu, 10, None),  # a torch that does not say
        event(on_gpu, 5000, "gpu_user_annotation", annotation=True),
        event(on_gpu, 5000, None, annotation=True),
        event(on_gpu, 5000, "cuda_sync"),
    ]
    monkeypatch.setattr(
        launches, "_profiled", lambda call, on_gpu: SimpleNamespace(events=lambda: call())
    )
    counted = launches.launches(Work(lambda: found * 3))
    assert (counted.count, counted.seconds) == (3, pytest.approx(60e-6))
    beyond = launches.launches(Work(lambda: found * 3, less=lambda: found[1:2] * 3))
    assert (beyond.count, beyond.seconds) == (2, pytest.approx(30e-6))
    with pytest.raises(launches.RunError, match="CUPTI"):
        launches.launches(Work(lambda: found[:1]))


@pytest.mark.gpu
@pytest.mark.parametrize("optim", [[], ["optim.momentum=0.9"]])
def test_everything_on_a_gpu(tmp_path, capsys, optim):
    out, profile = tmp_path / "parts.json", tmp_path / "profile.txt"
    fast = ["train.cuda_graph=true", "train.compile=true", "device=cuda", "train.batch_size=32"]
    options = ["--repeats", "3", "--out", str(out), "--profile", str(profile)]
    code = main(["bench", "--parts", *SMALL, *fast, *optim, *options])
    (report,) = json.loads(out.read_text())["configurations"]
    assert code == 0, capsys.readouterr()
    parts = {part["name"]: part for part in report["parts"]}
    for kind, count in {
        "part": 9 + 2,
        "update": 2 + 3 * 2,
        "sums": 1 + len(sums.SHAPES) + 1,
    }.items():
        assert sum(part["kind"] == kind for part in parts.values()) == count
    for part in parts.values():
        assert part["failed"] is None
        assert part["cost"]["seconds"] > 0 or part["name"] == "record"
        assert part["cost"]["peak_bytes"] > 0
        assert part["kind"] == "sums" or part["launches"]["count"] > 0
    assert report["sums"] == "KernelSums"
    assert parts["record, handed over"]["launches"]["count"] == 2
    assert parts["optimiser step"]["launches"]["count"] < 10
    assert parts["update, tracked, graph"]["cost"]["host_seconds"] > 0
    assert report["sum"]["launches"]["count"] > 50
    assert "Self CUDA time total" in profile.read_text()
