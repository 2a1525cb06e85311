"""Two clients with 6 and 10 points of one line in 4 dimensions, and a little noise."""

import torch

from fl_core import FederatedData

TRUTH = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


def load(*, noise: float = 0.1, sizes: tuple[int, ...] = (6, 10)) -> FederatedData:
    """Inputs `[m, 4]` and targets `[m]` in float64, the same ones for ever."""
    generator = torch.Generator().manual_seed(20)

    def points(m: int) -> tuple[torch.Tensor, torch.Tensor]:
        a = torch.randn(m, 4, dtype=torch.float64, generator=generator)
        return a, a @ TRUTH + noise * torch.randn(m, dtype=torch.float64, generator=generator)

    return FederatedData(train=[points(m) for m in sizes], test=points(5))
