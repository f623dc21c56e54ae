"""Networks that are not symrun's: torchvision's classifiers, and the user's own."""

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from symrun.errors import UsageError, did_you_mean, in_one_line


def of_torchvision(name: str, args: Mapping[str, object], classes: int) -> nn.Module:
    """A classifier of torchvision.models, without pretrained weights.

    args: what its function is called with.

    Error: UsageError if there is none of that name, or it refuses the arguments.
    Example: of_torchvision("resnet18", {"norm_layer": None}, classes=10)
    """
    from torchvision import models  # takes a second

    known = models.list_models(module=models)
    if name not in known:
        meant = did_you_mean(name, known, "model=torchvision/")
        raise UsageError(f"torchvision has no classifier {name}{meant}")
    return _called(
        f"torchvision/{name}",
        lambda: models.get_model(name, weights=None, num_classes=classes, **args),
    )


def of_user(
    name: str, args: Mapping[str, object], shape: tuple[int, ...], classes: int
) -> nn.Module:
    """What a function of the user's returns, found from the working directory.

    name: "package.module:function". args: what it is called with; and with num_classes, and with
    in_channels for images, if it has parameters of these names.

    Error: UsageError if there is no such function, it fails, or returns no network.
    Example: of_user("torch.nn:Linear", {"in_features": 4, "out_features": 10}, (4,), classes=10)
    """
    with importable():
        make = imported("model", name)
        offered = {"num_classes": classes}
        offered |= {"in_channels": shape[0]} if len(shape) == 3 else {}
        with contextlib.suppress(ValueError, TypeError):  # a signature that cannot be read
            taken = inspect.signature(make).parameters
            args = {key: value for key, value in offered.items() if key in taken} | {**args}
        return _called(name, lambda: make(**args))


def imported(setting: str, name: str) -> Callable[..., Any]:
    """The function or class that "package.module:function" names.

    setting: what has that value, for messages. Error: UsageError if there is none.
    Example: imported("model", "torch.nn:Linear") is torch.nn.Linear
    """
    module, _, function = name.partition(":")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"{setting}={name}: {module} {failed(error)}") from None
        where = f"neither in {os.getcwd()} nor installed: start symrun in the folder that holds it"
        raise UsageError(f"{setting}={name}: there is no module {error.name}, {where}") from None
    except (Exception, SystemExit) as error:  # a script may read its options when imported
        raise UsageError(f"{setting}={name}: importing {module} {failed(error)}") from None
    make: Callable[..., Any] | None = getattr(loaded, function, None)
    if make is None or not callable(make):
        names = [key for key, value in vars(loaded).items() if callable(value)]
        meant = did_you_mean(function, names, f"{setting}={module}:")
        raise UsageError(f"{setting}={name}: {module} has no function {function}{meant}")
    return make


def _called(name: str, make: Callable[[], Any]) -> nn.Module:
    try:
        model = make()
    except (Exception, SystemExit) as error:
        raise UsageError(f"model={name} {failed(error)}: mend it or model.args") from None
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise UsageError(f"model={name} must return a torch.nn.Module, got {kind}")
    return model


def failed(error: BaseException) -> str:
    """The end of a message: what code of somebody else's raised."""
    return (
        f"failed with {type(error).__name__}: {in_one_line((str(error).splitlines() or [''])[0])}"
    )


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Modules of the working directory come first while something is imported."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
