"""Public names of a package that are imported when first asked for.

torch takes a second to import, and reading settings and tables needs none of it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_when_asked(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """What a package calls `__getattr__`. modules: the names, by the module that has them.

    Example: imported_when_asked("symrun.data", {"Split": "symrun.data.dataset"})("Split")
    """

    def getattribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return getattribute
