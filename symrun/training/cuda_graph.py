"""CUDA graphs: what the device does in an update, recorded once and replayed with one launch."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from symrun.errors import RunError
from symrun.tracking import Observation

Compute = Callable[[Tensor, Tensor, bool], Observation | None]
"""(images, labels, due): an update's work on the device, and what a record needs if one is due."""

_EAGER_CALLS = 3
"""Before a kind of call is captured: libraries choose their algorithms and make their workspaces,
the optimiser its momentum buffers. These calls are updates like any other."""


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    observation: Observation | None

    def replay(self, images: Tensor, labels: Tensor) -> Observation | None:
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.observation


class Captured:
    """`compute`, replayed as CUDA graphs: one for each size of batch, with and without a record.

    What it returns is overwritten by the next call.

    Assumes: all calls happen inside `own_stream`; `compute` works in memory that stays in place.
    Error: RunError if a graph cannot be captured: torch cannot go on from there.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._calls: Counter[tuple[int, bool]] = Counter()
        self._graphs: dict[tuple[int, bool], _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, images: Tensor, labels: Tensor, due: bool) -> Observation | None:
        kind = (len(labels), due)
        self._calls[kind] += 1
        if self._calls[kind] > _EAGER_CALLS and kind not in self._graphs:
            self._capture(kind, images, labels)
        if kind in self._graphs:
            return self._graphs[kind].replay(images, labels)
        return self._compute(images, labels, due)

    def _capture(self, kind: tuple[int, bool], images: Tensor, labels: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        images, labels = images.clone(), labels.clone()
        stream = torch.cuda.current_stream()
        try:
            # The writer's thread may wait for an event meanwhile: an error in a global capture.
            with torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
                observation = self._compute(images, labels, kind[1])
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"train.cuda_graph=true fails here, leave it out: {reason}") from None
        self._graphs[kind] = _Graph(graph, images, labels, observation)


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """A stream other than CUDA's default one, which cannot be captured."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
