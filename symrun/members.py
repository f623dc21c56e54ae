"""The members of a sweep: checked before the first starts, then trained here or by an engine."""

import contextlib
import dataclasses
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from symrun import ranks
from symrun.config import Config, Device
from symrun.errors import (
    Busy,
    Interrupted,
    RunError,
    Stopped,
    SymrunError,
    UsageError,
    in_one_line,
    refusal,
)
from symrun.runs.directory import RunDirectory, sweep_folder
from symrun.runs.info import Status
from symrun.runs.tables import LAWS
from symrun.sweeps.member import Member
from symrun.sweeps.registry import SWEEPS
from symrun.sweeps.settings import ReservedConfig, SweepConfig
from symrun.symmetry import Symmetry
from symrun.training.signals import StopRequest

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Composed:
    """A member as it was composed: its title, its settings as typed, and as they are."""

    title: str
    words: tuple[str, ...]
    config: Config

    @classmethod
    def all_of(
        cls, members: Sequence[list[str]], compose: Callable[[list[str]], Config]
    ) -> "list[Composed]":
        """Error: UsageError that names the member, for settings that cannot be composed."""
        found = []
        for place, words in enumerate(members):
            title = _title(members, place)
            with _named(title):
                found.append(cls(title, tuple(words), compose(words)))
        return found

    def on(self, device: Device) -> "Composed":
        """The same with its device settled."""
        words = (*self.words, f"device={device.value}")
        return Composed(self.title, words, dataclasses.replace(self.config, device=device))


def sweep(settings: SweepConfig, members: list[Composed], stop: StopRequest) -> None:
    """Train the members, and print each run's folder on standard output.

    Error: UsageError, with nothing trained, for settings that cannot be used; else, once all other
    members are done, a RunError with the exit code of the first that failed, or Stopped if an
    engine passed some over, which other processes train.
    """
    if ranks.count() > 1 and SWEEPS[settings.name].run is not None:
        remedy = "leave it out, or start the sweep without torchrun"
        raise UsageError(f"sweep={settings.name} starts processes of its own: {remedy}")
    if isinstance(settings, ReservedConfig):
        settings, members = _with_devices(settings, members)
    for place, member in enumerate(members):
        with _named(member.title):
            config = _settled(member.config, settings.elsewhere)
        members[place] = dataclasses.replace(member, config=config)
    _refuse_shared_folder(members)
    failures = _Failures(len(members))
    if SWEEPS[settings.name].run is None:
        _one_by_one(members, failures, stop)
    else:
        _by_engine(settings, members, failures, stop)
    ranks.everywhere(failures.raise_any)


def _settled(config: Config, elsewhere: bool) -> Config:
    """Error: UsageError, in all processes, if one of them cannot train it."""
    from symrun.training.plan import Plan  # torch takes seconds to import

    return ranks.everywhere(lambda: Plan.of(config, elsewhere)).config


def _one_by_one(members: list[Composed], failures: "_Failures", stop: StopRequest) -> None:
    from symrun.training.lifecycle import train_member

    for member in members:
        try:
            print_run(train_member(member.config, stop))
        except Interrupted:
            raise
        except Busy as error:
            _log.warning("%s: passed over", error)
        except (SymrunError, OSError, MemoryError) as error:
            if len(members) == 1 or not ranks.agreed():
                raise
            code = error.exit_code if isinstance(error, SymrunError) else RunError.exit_code
            failures.add(member.title, code)
            _say(f"{member.title}: {str(error) or 'out of memory'}")
        raise_if_stopped(stop)


def _by_engine(
    settings: SweepConfig, members: list[Composed], failures: "_Failures", stop: StopRequest
) -> None:
    """Let an engine train those that are not finished."""
    from symrun.training.lifecycle import earlier_run, member_digest

    waiting: dict[tuple[Path, str], Member] = {}
    for one in members:
        run, config = None, one.config
        if not config.run.again:
            run = earlier_run(config, settings.elsewhere)
        if run is not None and run.info().status is Status.finished:
            _say(f"{one.title}: finished already: run.again=true trains it again")
            print(run.path, flush=True)
            continue
        folder, digest = sweep_folder(config.run.name), member_digest(config)
        member = Member(one.title, one.words, folder, digest, config.device is not Device.cpu)
        waiting.setdefault((folder, digest), member)  # the same settings twice are one member
    for folder in {folder for folder, _ in waiting}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be made: {refusal(error)}") from None
        _say(f"what the members say goes to {folder}/*.log")
    run_engine = SWEEPS[settings.name].run
    if not waiting or run_engine is None:
        return
    lines, done = [], 0
    for ended in run_engine(settings, [*waiting.values()], stop):
        title, folder_of_run = ended.member.title, ended.member.run()
        if not ended.code and folder_of_run is None:
            failures.elsewhere += 1
            _say(f"{title}: passed over, since another process trains it")
            continue
        done, outcome = done + 1, "finished"
        if ended.code:
            asked = stop.requested is not None or ended.code == Stopped.exit_code
            outcome = ended.error if asked else f"failed: {ended.error}"
            failures.add(title, ended.code)
            lines.append(f"{title}: {ended.error}; its log is {ended.member.log}")
        _say(f"{done} of {len(waiting)} ended: {title}: {outcome}")
        if not ended.code:
            print(folder_of_run, flush=True)
    for line in lines:
        _say(line)


class _Failures:
    """Which of `members` members failed. elsewhere: how many another process trains."""

    def __init__(self, members: int) -> None:
        self._members = members
        self.elsewhere = 0
        self._codes: dict[str, int] = {}

    def add(self, title: str, code: int) -> None:
        """code: its exit code, or minus a signal."""
        self._codes[title] = code if code > 0 else RunError.exit_code

    def raise_any(self) -> None:
        """Error: RunError, with the first one's exit code, if there are any; else Stopped if some
        members are not done yet."""
        if self._codes:
            numbers = ", ".join(title.removeprefix("member ") for title in self._codes)
            text = f"{len(self._codes)} of {self._members} members failed: {numbers}"
            failed = RunError(text)
            failed.exit_code = next(iter(self._codes.values()))
            raise failed
        if self.elsewhere:
            raise Stopped(
                f"members being trained elsewhere: {self.elsewhere} of {self._members}: give the "
                "same command again once they have ended"
            )


def _with_devices(
    settings: ReservedConfig, members: list[Composed]
) -> tuple[ReservedConfig, list[Composed]]:
    """Members that each know whether they get a GPU: none is trained on the CPU unasked.

    Error: UsageError for a member that does not fit what is reserved for it.
    """
    gpus = settings.gpus
    if gpus is None:
        gpus = 0 if all(member.config.device is Device.cpu for member in members) else 1
    settled = Device.cuda if gpus else Device.cpu
    for member in members:
        if member.config.device not in (Device.auto, settled):
            device = f"device={member.config.device.value}"
            remedy = f"leave {device} out, or type sweep.gpus={0 if gpus else 1}"
            raise UsageError(f"{member.title}: sweep.gpus={gpus} is not for {device}: {remedy}")
    return dataclasses.replace(settings, gpus=gpus), [member.on(settled) for member in members]


@contextlib.contextmanager
def _named(title: str) -> Iterator[None]:
    """Error: the UsageError that comes from within, with the member's title in front."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{title}: {error}") from None


def _title(members: Sequence[list[str]], place: int) -> str:
    """Such as "member 2 of 5 (optim.lr=0.1)"."""
    varied = [word for word in members[place] if not all(word in member for member in members)]
    title = f"member {place + 1} of {len(members)}"
    return f"{title} ({' '.join(varied)})" if varied else title


def _refuse_shared_folder(members: list[Composed]) -> None:
    folders = [one.config.run.dir for one in members if one.config.run.dir is not None]
    for folder in folders:
        if folders.count(folder) > 1:
            remedy = "leave it out, or type run.name=NAME for a folder each in outputs/NAME"
            raise UsageError(f"run.dir={folder} is one folder for {len(members)} runs: {remedy}")


def _say(line: str) -> None:
    print(in_one_line(f"symrun: {line}"), file=sys.stderr)


def raise_if_stopped(stop: StopRequest) -> None:
    """After a run that is complete all the same: another must not start, in any process."""

    def act() -> None:
        if stop.requested is not None:
            raise KeyboardInterrupt

    ranks.everywhere(act)


def print_run(path: Path) -> None:
    """Print a run's folder on standard output, and on standard error what to do with it."""
    if not ranks.is_first():
        return
    quoted = shlex.quote(str(path))
    info = RunDirectory(path).info()
    figure = "symmetries" if set(LAWS) - set(info.unpredicted) else "progress"
    if info.model.is_vgg and info.groups_of(Symmetry.scale):
        figure = "fig1"
    following = f"symrun check {quoted}; symrun plot {figure} {quoted}"
    if info.diverged is not None:  # too few finite records may be left to check or to draw
        following = f"try a lower optim.lr: {info.diverged}"
    print(f"next: {following}", file=sys.stderr)
    print(path, flush=True)
