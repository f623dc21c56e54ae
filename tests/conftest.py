import contextlib
import functools
import os
from unittest import mock

import pytest
import torch
from PIL import Image

with contextlib.suppress(ImportError):  # the tests marked gpu run where there is no hypothesis
    import hypothesis

    # A busy machine may take longer over one example than over the others.
    hypothesis.settings.register_profile("symrun", deadline=None)
    hypothesis.settings.load_profile("symrun")

# For the GPU tests: before CUDA starts, or deterministic matrix products are refused.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def _own_precision_and_seed():
    """Each test starts from torch's own settings, whatever the last one set."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    mkldnn = torch.backends.mkldnn
    for switch in (torch.backends.cuda.matmul, mkldnn.matmul, mkldnn.conv):
        switch.fp32_precision = "none"
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(0)


@pytest.fixture
def blank_pictures(monkeypatch):
    """Each figure of a report is drawn, but its files hold a white pixel: to lay out and write a
    figure takes a second."""

    def save(figure, out, name, formats):
        paths = [out / f"{name}.{kind}" for kind in formats]
        for path in paths:
            Image.new("RGB", (1, 1), "white").save(path)
        return paths

    monkeypatch.setattr("symrun.report.page.save", save)


@pytest.fixture(autouse=True)
def _own_environment():
    """What a command sets for its process, such as MPLBACKEND, ends with the test."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def any_network(tmp_path_factory):
    """A function from a name in NETWORKS to its run, which is trained once."""
    from any_network import trained

    folder = tmp_path_factory.mktemp("any_network")
    return functools.cache(lambda name: trained(name, folder))


@pytest.fixture(scope="session")
def own_loops(tmp_path_factory):
    """Runs made in a loop of the user's own, by kind, which tests must not change."""
    from own_loop import KINDS, own_loop_run

    folder = tmp_path_factory.mktemp("own_loop")
    return {kind: own_loop_run(folder / kind, kind) for kind in KINDS}


@pytest.fixture
def every_line_of_a_bar(monkeypatch):
    """A bar in a file has a line for each change, not one now and then."""
    monkeypatch.setattr("symrun.display.LINE_SECONDS", 0.0)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
