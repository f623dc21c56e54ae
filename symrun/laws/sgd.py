"""The laws of SGD: what they are called, and which hold for which settings.

A new law needs a file in this folder and its lines here. Torch takes a second to import, so it is
imported only when laws are made: reading tables takes no more than the laws' names.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symrun.laws.law import SGD, Law


@dataclass(frozen=True)
class Kind:
    """A law as tables, figures and reports name it.

    column: where the tables hold what it predicts; two laws may share it if no run has both.
    label: its name in words. identity: whether it holds whatever the gradients are, so that it
    audits the measurement; any other law is a prediction, which assumes a perfect symmetry.
    """

    column: str
    label: str
    identity: bool = False


_MODIFIED_FLOW = Kind("flow", "law 1: modified gradient flow")
_OSCILLATOR = Kind("flow", "law 2: driven damped oscillator")
_DISCRETE = Kind("discrete", "law 3: the update itself projected on the symmetry")
_EXACT = Kind("exact", "law 3 with the measured imperfection", identity=True)


def kinds_of_sgd(momentum: bool) -> dict[str, Kind]:
    """The laws of SGD with or without momentum by column, in the order of the tables.

    Example: kinds_of_sgd(momentum=True)["flow"].label   # "law 2: driven damped oscillator"
    """
    flow = _OSCILLATOR if momentum else _MODIFIED_FLOW
    return {kind.column: kind for kind in (flow, _DISCRETE, _EXACT)}


def laws_of_sgd(sgd: "SGD") -> tuple[dict[str, "Law"], dict[str, str]]:
    """The laws that predict such a run, and for each that does not, the reason: both by column.

    Example: laws, unpredicted = laws_of_sgd(SGD(weight_decay=1e-4, momentum=0.9))
    """
    from symrun.laws.discrete import DiscreteLaw
    from symrun.laws.modified_flow import ModifiedFlow
    from symrun.laws.oscillator import Oscillator

    laws: dict[str, Law] = {
        _DISCRETE.column: DiscreteLaw(sgd, with_defect=False),
        _EXACT.column: DiscreteLaw(sgd, with_defect=True),
    }
    if sgd.nesterov:
        reason = "the paper's oscillator does not describe Nesterov's look-ahead"
        return laws, {_OSCILLATOR.column: reason}
    flow = Oscillator(sgd, corrected=True) if sgd.momentum else ModifiedFlow(sgd.weight_decay)
    return {_OSCILLATOR.column: flow, **laws}, {}
