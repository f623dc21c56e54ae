"""Which laws hold for which settings of SGD."""

from symrun.laws.discrete import DiscreteLaw
from symrun.laws.law import Law
from symrun.laws.modified_flow import ModifiedFlow


def laws_of_sgd(weight_decay: float, momentum: float) -> tuple[dict[str, Law], dict[str, str]]:
    """The laws that predict such a run, and for each that does not, the reason: both by column.

    Example: laws, unpredicted = laws_of_sgd(weight_decay=1e-4, momentum=0.0)
    """
    if momentum != 0:
        reason = f"symrun has no law for momentum yet (optim.momentum={momentum:g})"
        return {}, dict.fromkeys(("flow", "discrete", "exact"), reason)
    return {
        "flow": ModifiedFlow(weight_decay),
        "discrete": DiscreteLaw(weight_decay, with_defect=False),
        "exact": DiscreteLaw(weight_decay, with_defect=True),
    }, {}
