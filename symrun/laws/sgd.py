"""Which laws hold for which settings of SGD."""

from symrun.laws.discrete import DiscreteLaw
from symrun.laws.law import SGD, Law
from symrun.laws.modified_flow import ModifiedFlow
from symrun.laws.oscillator import Oscillator


def laws_of_sgd(sgd: SGD) -> tuple[dict[str, Law], dict[str, str]]:
    """The laws that predict such a run, and for each that does not, the reason: both by column.

    Example: laws, unpredicted = laws_of_sgd(SGD(weight_decay=1e-4, momentum=0.9))
    """
    laws: dict[str, Law] = {
        "discrete": DiscreteLaw(sgd, with_defect=False),
        "exact": DiscreteLaw(sgd, with_defect=True),
    }
    if sgd.nesterov:
        return laws, {"flow": "the paper's oscillator does not describe Nesterov's look-ahead"}
    flow = Oscillator(sgd, corrected=True) if sgd.momentum else ModifiedFlow(sgd.weight_decay)
    return {"flow": flow, **laws}, {}
