import os

import pytest
import torch

# For the GPU tests: before CUDA starts, or deterministic matrix products are refused.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def _own_precision_and_seed():
    """Each test starts from torch's own settings, whatever the last one set."""
    convolutions = torch.backends.cudnn.conv.fp32_precision
    products = torch.backends.cuda.matmul.fp32_precision
    torch.manual_seed(0)
    yield
    torch.backends.cudnn.conv.fp32_precision = convolutions
    torch.backends.cuda.matmul.fp32_precision = products


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
