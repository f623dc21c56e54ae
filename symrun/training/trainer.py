"""Trains a run, and says how it ended: finished, stopped, diverged, or by an error."""

import contextlib
import dataclasses
import logging
import shlex

import torch

from symrun import ranks
from symrun.errors import (
    Diverged,
    Interrupted,
    ProcessLost,
    RunError,
    Stopped,
    UsageError,
    refusal,
)
from symrun.loggers import logging_to
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.info import RunInfo, Status
from symrun.runs.writer import NoWriter, TableWriter
from symrun.tracking import Tracker
from symrun.tracking.audit import Audit
from symrun.training.checkpointing import Checkpointer
from symrun.training.cuda_graph import own_stream
from symrun.training.device import device_title
from symrun.training.disk_space import table_bytes
from symrun.training.loop import fit
from symrun.training.progress import Progress
from symrun.training.setup import Training, make_tracker
from symrun.training.signals import StopRequest
from symrun.training.state import Content, State

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Resumption:
    """Where a run goes on: from `checkpoint`, or again from its start if that is None.

    info: what run.json says from then on.
    """

    checkpoint: Content | None
    info: RunInfo

    @property
    def parts(self) -> dict[str, int]:
        """Of each table, those that were on the disk before the checkpoint."""
        parts = self.checkpoint["parts"] if self.checkpoint is not None else {}
        return dict.fromkeys(TABLES, 0) | parts

    def apply(self, run: RunDirectory, state: State) -> None:
        """Error: UsageError, with nothing changed, if the checkpoint does not fit."""
        step = 0
        if self.checkpoint is not None:
            step = self.checkpoint["step"]
            content, path = self.checkpoint, str(run.checkpoint(step))
            ranks.everywhere(lambda: state.restore(content, path))
        ranks.from_first(lambda: self._rewind(run, step))

    def _rewind(self, run: RunDirectory, step: int) -> None:
        run.truncate_to(self.parts, step)
        run.write_info(self.info)


class Trainer:
    """Trains a run, from its start or a checkpoint to its end; of several processes each does this.

    Assumes: the run is locked, and described by a run.json.
    """

    def __init__(self, run: RunDirectory, training: Training, stop: StopRequest) -> None:
        self._run = run
        self._training = training
        self._stop = stop
        unpredicted = training.plan.unpredicted
        for reason in sorted(set(unpredicted.values())):
            columns = ", ".join(law for law in unpredicted if unpredicted[law] == reason)
            _log.warning("not predicted, null in the tables: %s: %s", columns, reason)

    def train(self, resumption: Resumption | None) -> None:
        """Error: as in `train`; UsageError, with nothing changed, for a checkpoint of another
        network."""
        training, run = self._training, self._run
        progress = writer = None
        graphs = own_stream(training.device) if training.cuda_graph else contextlib.nullcontext()
        try:
            logger, alone = training.plan.config.logger, ranks.count() == 1
            with self._stop.deferred(quiet=not alone), logging_to(logger, run) as watchers:
                with contextlib.ExitStack() as closing:
                    sink = writer = self._writer(resumption)
                    closing.push(sink)
                    progress = Progress(sink, training.model, training.steps)
                    audit = Audit(training.structure.groups, training.plan.dtype)
                    tracker = ranks.everywhere(
                        lambda: make_tracker(training, sink, Tracker, (audit, *watchers))
                    )
                    state = State(training, tracker, progress)
                    if resumption is not None:
                        resumption.apply(run, state)
                    where = f"{training.plan.config.precision.value} on "
                    where += device_title(training.device)
                    size = table_bytes(training) / 1e6
                    place = f"{run.path}, sent to {run.url}" if run.url else run.path
                    progress.say(f"{where}; up to {size:,.1f} MB of tables in {place}")
                    checkpointer = Checkpointer(run, sink, state, self._stop)
                    with graphs, ranks.losses_in_one_line():
                        fit(training, progress, tracker, checkpointer)
                        checkpointer.finish()
                        ranks.everywhere(closing.close)
                        ranks.everywhere(checkpointer.end_if_diverged)  # now all rows were seen
                for line in audit.lines():
                    _log.warning("%s: %s", run.path, line)
                self._record_end(Status.finished, progress)
        except UsageError:
            raise
        except BaseException as error:
            with contextlib.suppress(OSError, UsageError):  # the error under way tells more
                self._record_end(_status(error), progress)
            self._raise_explained(error, writer, progress.updates if progress is not None else 0)
            raise
        finally:
            if progress is not None:
                progress.close()

    def _writer(self, resumption: Resumption | None) -> TableWriter | NoWriter:
        if not ranks.is_first():
            return NoWriter()
        parts = resumption.parts if resumption else None
        return TableWriter(self._run, parts, patient=ranks.count() > 1)

    def _record_end(self, status: Status, progress: Progress | None) -> None:
        """Error: OSError; UsageError if somebody has damaged run.json meanwhile."""
        if not ranks.is_first():
            return
        info = dataclasses.replace(self._run.info(), status=status, last_step=0)
        if progress is not None:
            info = dataclasses.replace(
                info,
                last_step=progress.updates,
                seconds=progress.seconds,
                diverged=progress.diverged or info.diverged,
            )
        self._run.write_info(info)

    def _raise_explained(
        self, error: BaseException, writer: TableWriter | NoWriter | None, updates: int
    ) -> None:
        """Raises a clearer error in place of `error`, where there is one."""
        path = self._run.path
        readable = f"what was recorded until step {updates} is readable in {path}"
        resume = f"{ranks.command('resume')} {shlex.quote(str(path))}"
        if isinstance(error, Stopped):
            assert writer is not None
            writer.raise_failure()  # a full disk would make what follows untrue
            raise Stopped(f"stopped by {error}, and saved; go on with: {resume}") from None
        if isinstance(error, ProcessLost):
            raise ProcessLost(f"{error}; go on from the last checkpoint with: {resume}") from None
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted; {readable}") from None
        if isinstance(error, Diverged):
            raise Diverged(f"{error}: try a lower optim.lr; {readable}") from None
        if isinstance(error, torch.OutOfMemoryError):
            raise RunError(f"out of GPU memory: lower train.batch_size; {readable}") from None
        if isinstance(error, OSError):
            error = RunError(f"{path} cannot be written: {refusal(error)}")
        if isinstance(error, RunError):
            written = f"what was written before is readable in {path}"
            raise RunError(f"{error}; {written}; once that is mended: {resume}") from None


def _status(error: BaseException) -> Status:
    if isinstance(error, Diverged):
        return Status.diverged
    interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
    return Status.interrupted if interrupted else Status.failed
