"""How the terms of a loss become one number: weights that stay, that go from one value to another, or that are learned."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from compression.schema.recipe.distill import Distill

VARIANCE_RATE = 0.01
"""Peak rate at which the logarithms of variances are learned, whatever the model's: at that they would stand still."""
Terms = Mapping[str, Tensor]
"""Name → scalar."""


class LossWeights(Protocol):
    """Adds terms up. `parameters` are learned beside the model, and thrown away after."""

    parameters: list[nn.Parameter]

    def at(self, share: float) -> None:
        """Note how much of training is done, from 0 to 1."""
        ...

    def weights(self) -> dict[str, float]:
        """Return what each term is multiplied by now."""
        ...

    def total(self, terms: Terms) -> Tensor:
        """Add the terms up -> scalar."""
        ...


class ScheduledWeights:
    """Weights that go from `start` to `end` in a straight line; where both are the same, they stay."""

    def __init__(self, weights: Mapping[str, tuple[float, float]]) -> None:
        self.parameters: list[nn.Parameter] = []
        self._ends = dict(weights)
        self._share = 0.0

    def at(self, share: float) -> None:
        """Note how much of training is done, from 0 to 1."""
        self._share = min(max(share, 0.0), 1.0)

    def weights(self) -> dict[str, float]:
        """Return what each term is multiplied by now."""
        return {term: start + (end - start) * self._share for term, (start, end) in self._ends.items()}

    def total(self, terms: Terms) -> Tensor:
        """Σ w L."""
        weights = self.weights()
        found = next(iter(terms.values())).new_zeros(())
        for term, value in terms.items():
            found = found + weights[term] * value
        return found


class UncertaintyWeights:
    """Each term divided by a variance of its own, learned with it: Σ w L exp(−s) + s / 2 (Kendall et al. 2018, eq. 10).

    s is the logarithm of the variance and begins at 0, where the weight is the recipe's; the ½ that Gaussian terms have there
    is taken to be in it. s / 2 keeps variances from growing without end.
    """

    def __init__(self, weights: Mapping[str, tuple[float, float]], rate: float, device: torch.device) -> None:
        self._start = {term: start for term, (start, _) in weights.items()}
        self._raw = nn.Parameter(torch.zeros(len(self._start), device=device))
        self._scale = VARIANCE_RATE / rate
        self.parameters = [self._raw]

    def at(self, share: float) -> None:
        """Nothing hangs on how much is done."""

    def _log_variances(self) -> Tensor:
        # What is stored moves by the model's rate a step. Its value is stretched so that s moves by VARIANCE_RATE; its gradient
        # is shrunk instead, since the norm that gradients are clipped by is the model's.
        small = self._raw / self._scale
        return small + (self._raw * self._scale - small).detach()

    def weights(self) -> dict[str, float]:
        """Return what each term is multiplied by now."""
        shares = self._log_variances().detach().neg().exp().tolist()
        return {term: start * share for (term, start), share in zip(self._start.items(), shares, strict=True)}

    def total(self, terms: Terms) -> Tensor:
        """Σ w L exp(−s) + s / 2, over the terms that are there."""
        found = next(iter(terms.values())).new_zeros(())
        for (term, start), s in zip(self._start.items(), self._log_variances(), strict=True):
            if term in terms:
                found = found + start * terms[term] * torch.exp(-s) + s / 2
        return found


def loss_weights(settings: Distill, device: torch.device) -> LossWeights:
    """Make the weighting that a recipe asks for."""
    weights = settings.weights()
    if settings.weighting == "uncertainty":
        return UncertaintyWeights(weights, settings.rate, device)
    return ScheduledWeights(weights)
