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
    """A law as figures and reports name it.

    identity: whether it holds for any gradients, and so audits the measurement; other laws are
    predictions, which assume a perfect symmetry.
    """

    label: str
    identity: bool = False


def kinds_of_sgd(momentum: bool) -> dict[str, Kind]:
    """The laws of SGD with or without momentum by the column of the tables, in their order.

    Example: kinds_of_sgd(momentum=True)["flow"].label == "law 2: driven damped oscillator"
    """
    flow = "law 2: driven damped oscillator" if momentum else "law 1: modified gradient flow"
    return {
        "flow": Kind(flow),
        "discrete": Kind("law 3: the update itself projected on the symmetry"),
        "exact": Kind("law 3 with the measured imperfection", identity=True),
    }


def laws_of_sgd(sgd: "SGD") -> tuple[dict[str, "Law"], dict[str, str]]:
    """The laws that predict such a run, and for each that does not, the reason: both by column.

    Example: laws, unpredicted = laws_of_sgd(SGD(weight_decay=1e-4, momentum=0.9))
    """
    from symrun.laws.discrete import DiscreteLaw
    from symrun.laws.modified_flow import ModifiedFlow
    from symrun.laws.oscillator import Oscillator

    laws: dict[str, Law] = {
        "discrete": DiscreteLaw(sgd, with_defect=False),
        "exact": DiscreteLaw(sgd, with_defect=True),
    }
    if sgd.nesterov:
        return laws, {"flow": "the paper's oscillator does not describe Nesterov's look-ahead"}
    flow = Oscillator(sgd, corrected=True) if sgd.momentum else ModifiedFlow(sgd.weight_decay)
    return {"flow": flow, **laws}, {}
