"""The processes that train one run together, as torchrun starts them. One process alone is rank 0
of 1, and nothing here costs it anything.

The first rank claims the folder, writes and prints; what it decides goes to the others.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from symrun.errors import ProcessLost, SymrunError, UsageError, in_one_line

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup, Work
    from torch.distributed.distributed_c10d import Store

Value = TypeVar("Value")

_LOST_SECONDS = 300
"""A process that others have waited for so long counts as lost; a killed one is noticed at once."""
_SHORT_SECONDS = 3
"""How long a process that fails waits for the first one, which may be about to say why."""
_POLL_SECONDS = 0.02
_ENDED, _FAILED, _TOLD = "symrun/ended", "symrun/failed", "symrun/told"
_NEEDED = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class _Joined:
    """This process among the others. agreed: whether what all of them settled last was to raise an
    error. lost: whether this one has noticed that another is gone."""

    def __init__(self, store: "Store", rank: int, count: int) -> None:
        self.store, self.rank, self.count = store, rank, count
        self.agreed = self.lost = False


_joined: _Joined | None = None


def count() -> int:
    """How many processes train this run."""
    return 1 if _joined is None else _joined.count


def rank() -> int:
    """The number of this process among them."""
    return 0 if _joined is None else _joined.rank


def is_first() -> bool:
    return rank() == 0


def gpu() -> int | None:
    """Which of its machine's GPUs belongs to this process; None if all do.

    Error: UsageError if the machine has fewer GPUs than processes.
    """
    if _joined is None:
        return None
    import torch

    here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if here > gpus:
        most = f"at most {gpus} here (--nproc-per-node {gpus}), or train with device=cpu"
        raise UsageError(f"{here} processes need a GPU each: start {most}")
    return int(os.environ["LOCAL_RANK"])


def group() -> "ProcessGroup | None":
    """All processes of the run, as torch knows them; None in a process alone."""
    if _joined is None:
        return None
    from torch.distributed import group

    return group.WORLD


def command(name: str) -> str:
    """What starts a command of symrun on as many processes as now.

    Example: command("resume") == "symrun resume"
    """
    if _joined is None:
        return f"symrun {name}"
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    machines = f"--nnodes {_joined.count // here} ... " if here < _joined.count else ""
    return f"torchrun {machines}--nproc-per-node {here} -m symrun {name}"


def started() -> bool:
    """Whether torchrun started this process with others."""
    size = os.environ.get("WORLD_SIZE", "1")
    return size.isdigit() and int(size) > 1


def together(act: Callable[[], int]) -> int:
    """Call `act` in each of the processes, and return what it returned in the first.

    Only the first prints. The others end once it has said what there is to say, since torchrun ends
    all when one of them fails; the line of another that fails is what the first says of it. If the
    first is gone, one of the others prints its own line.

    Error: UsageError if the processes cannot find each other.
    """
    global _joined
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing:
        remedy = "start symrun by torchrun, or without WORLD_SIZE"
        raise UsageError(f"WORLD_SIZE={os.environ['WORLD_SIZE']} without {missing[0]}: {remedy}")
    import torch.distributed as dist

    with _silent() if os.environ["RANK"] != "0" else contextlib.nullcontext() as last:
        _joined = _join()
        try:
            code = act()
            return _ended(_joined, code, last, "" if last is None else last.line)
        except BaseException as error:  # whose traceback this process prints
            _ended(_joined, 1, last, f"{type(error).__name__}: {error}")
            raise
        finally:
            _joined = None
            if dist.is_initialized():
                dist.destroy_process_group()


def _join() -> _Joined:
    """Error: UsageError if the other processes cannot be reached."""
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    timeout = timedelta(seconds=_LOST_SECONDS)
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        store, rank, count = next(rendezvous("env://", timeout=timeout))
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        dist.init_process_group(backend, timeout=timeout, world_size=count, rank=rank, store=store)
    except (RuntimeError, ValueError) as error:
        reason = in_one_line(str(error).partition("\n")[0])
        raise UsageError(f"the processes of this run cannot find each other: {reason}") from None
    return _Joined(store, rank, count)


def _ended(joined: _Joined, code: int, last: "_LastLine | None", line: str) -> int:
    """The exit code of all, once the first has ended. line: why this process ends alone."""
    if last is None:
        with contextlib.suppress(RuntimeError):  # torchrun itself may be gone
            joined.store.set(_ENDED, str(code))
        return code
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, when another has ended
    alone = code != 0 and not joined.agreed
    until = time.monotonic() + (_SHORT_SECONDS if alone else _LOST_SECONDS)
    with contextlib.suppress(RuntimeError):  # the store may end with the first process
        if alone and not joined.lost:
            joined.store.compare_set(_FAILED, "", in_one_line(line))
        while not joined.store.check([_ENDED]):
            if time.monotonic() > until:
                if joined.lost and joined.store.add(_TOLD, 1) == 1:
                    print(line, file=last.shown)
                return code or 1
            time.sleep(_POLL_SECONDS)
        return int(joined.store.get(_ENDED))
    return code


class _LastLine(io.StringIO):
    """Takes what a process prints on `shown`, and keeps the last line of it."""

    def __init__(self, shown: TextIO) -> None:
        super().__init__()
        self.shown, self.line = shown, ""

    def write(self, text: str) -> int:
        self.line = text.strip() or self.line
        return len(text)


@contextlib.contextmanager
def _silent() -> Iterator[_LastLine]:
    last = _LastLine(sys.stderr)
    with contextlib.redirect_stdout(_LastLine(sys.stdout)), contextlib.redirect_stderr(last):
        yield last


def from_first(act: Callable[[], Value]) -> Value:
    """What `act` returns in the first process, in all of them; the others do not call it.

    Error: what it raised there, as in `everywhere`.
    """
    if _joined is None:
        return act()
    from torch.distributed import broadcast_object_list

    value, own = _tried(act) if is_first() else (None, None)
    outcome: list[Any] = [value, _told(own)]
    broadcast_object_list(outcome)
    _raise_first(own, outcome[1:])
    made: Value = outcome[0]
    return made


def everywhere(act: Callable[[], Value]) -> Value:
    """What `act` returns in this process, once all have called it.

    Assumes: `act` itself exchanges nothing with the other processes.

    Error: if it raised an error in some, that of the first of these, in all; ProcessLost in the
    others for one that nobody foresaw.
    """
    if _joined is None:
        return act()
    from torch.distributed import all_gather_object

    value, own = _tried(act)
    failures: list[BaseException | None] = [None] * count()
    all_gather_object(failures, _told(own))
    _raise_first(own, failures)
    made: Value = value
    return made


def _tried(act: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return act(), None
    except BaseException as error:
        return None, error


def _told(error: BaseException | None) -> BaseException | None:
    """What the other processes raise in place of `error`: it must survive pickling."""
    if error is None or isinstance(error, SymrunError | OSError | MemoryError | KeyboardInterrupt):
        return error
    return _loss(f"{type(error).__name__}: {error}")


def _raise_first(own: BaseException | None, failures: list[BaseException | None]) -> None:
    """own: what this process raised, which has its traceback."""
    assert _joined is not None
    _joined.agreed = False
    for place, failure in enumerate(failures):
        if failure is not None:
            mark_agreed()
            raise own if own is not None and place == rank() else failure


def mark_agreed() -> None:
    """All processes are about to raise an error: if it ends the run, they wait for the first."""
    if _joined is not None:
        _joined.agreed = True


def agreed() -> bool:
    """Whether all processes raise the error under way, and not this one alone."""
    return _joined is None or _joined.agreed


def add_up(values: "Tensor") -> None:
    """Replace `values` by their sum over all processes, on their device."""
    if _joined is not None:
        from torch.distributed import all_reduce

        all_reduce(values)


def gathered(values: "Tensor") -> "Tensor":
    """The `values` of all processes, [processes, ...], on their device."""
    if _joined is None:
        return values[None]
    import torch
    from torch.distributed import all_gather

    rows = torch.empty(count(), *values.shape, dtype=values.dtype, device=values.device)
    all_gather(list(rows.unbind()), values)
    return rows


class Agreement:
    """The largest number that any process has given, known to all of them at the same update.

    The processes tell each other while the next update is under way, so nobody waits and the answer
    is one call late; a process alone has it at once.

    Example: Agreement().exchange(3) == 3
    """

    def __init__(self) -> None:
        self._work: Work | None = None
        self._largest: Tensor | None = None

    def exchange(self, number: int) -> int:
        """The largest of the numbers that were given to the call before."""
        if _joined is None:
            return number
        import torch
        from torch.distributed import ReduceOp, all_reduce

        agreed = self.last()
        self._largest = torch.tensor([number])  # on the CPU: no GPU is waited for
        self._work = all_reduce(self._largest, ReduceOp.MAX, async_op=True)
        return agreed

    def last(self) -> int:
        """The answer to the last call."""
        if self._work is None or self._largest is None:
            return 0
        self._work.wait()
        return int(self._largest)

    def settle(self, number: int) -> int:
        """The largest of the numbers given to this call and to the one before; all wait for it."""
        return max(self.exchange(number), self.last())


@contextlib.contextmanager
def losses_in_one_line() -> Iterator[None]:
    """Error: ProcessLost in place of what torch raises when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if _joined is None or not _is_loss(error):
            raise
        _joined.lost = True
        _abort()
        told = "it was killed, or hangs"
        with contextlib.suppress(RuntimeError):
            if _joined.store.check([_FAILED]):
                told = _joined.store.get(_FAILED).decode().removeprefix("symrun: ")
        raise _loss(told) from None


def _loss(reason: str) -> ProcessLost:
    return ProcessLost(f"a process of this run was lost: {reason}")


def _is_loss(error: RuntimeError) -> bool:
    from torch.distributed import DistError

    return isinstance(error, DistError) or "/gloo/transport/" in str(error)


def _abort() -> None:
    """End what a GPU waits for: a lost process will not send it."""
    import torch
    from torch.distributed import group

    if torch.cuda.is_available() and group.WORLD is not None:
        group.WORLD._get_backend(torch.device("cuda")).abort()
