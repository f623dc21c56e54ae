"""How fast units of scale turn: the columns `effective_lr` and `angle`."""

import torch
from torch import Tensor


def dynamics(
    norm_sq: Tensor, projection: Tensor, step_sq: Tensor, lr: float | Tensor, of_scale: Tensor
) -> dict[str, Tensor]:
    """lr / |A|^2, and the angle between A and A - w, where w is what the next update takes off A.

    norm_sq: |A|^2 = B(theta, theta). projection: B(theta, w). step_sq: B(w, w). of_scale: which
    units have the symmetry of scale. Each [units], float64 but for the last; lr is [] or [units].
    Returns float64 [units] by column, NaN for units that are not of scale.

    Units: radians, from 0 to pi.
    Error: the rounding of the three sums, relative to |w|^2 and not to |A|^2: the arc of a cosine
    would lose all angles below 1e-8. It is exact where A turns; where w lies along A, as it does
    without a gradient, the angle is not 0 but at most 1e-8 of |w| / |A|.
    Example:
        norm_sq, projection, step_sq = torch.tensor([[1.0], [0.0], [1e-6]], dtype=torch.float64)
        dynamics(norm_sq, projection, step_sq, 0.1, torch.tensor([True]))["angle"]   # 1e-3
    """
    # |A|^2 |w|^2 - <A, w>^2 is the square of |A| |w| sin; rounding may take it below 0
    across = (norm_sq * step_sq - projection.square()).clamp(min=0).sqrt()
    columns = {
        "effective_lr": lr / norm_sq,
        "angle": torch.atan2(across, norm_sq - projection),
    }
    return {name: torch.where(of_scale, column, torch.nan) for name, column in columns.items()}
