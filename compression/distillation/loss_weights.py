"""Weights of the terms of a loss: constant, scheduled from one value to another, or learned."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compression.schema.recipe.distill import Distill

VARIANCE_RATE = 0.01
"""Peak learning rate of the log variances, whatever the model's rate: at the model's rate they would hardly move."""
Terms = Mapping[str, Tensor]  #: name → scalar


class ScheduledWeights:
    """Weights that change linearly from `start` to `end`; constant if both are equal."""

    def __init__(self, weights: Mapping[str, tuple[float, float]]) -> None:
        self.parameters: list[nn.Parameter] = []
        self._ends = dict(weights)
        self._share = 0.0

    def at(self, share: float) -> None:
        """Set the completed share of training, from 0 to 1."""
        self._share = min(max(share, 0.0), 1.0)

    def weights(self) -> dict[str, float]:
        """Return the current weight of each term."""
        return {term: start + (end - start) * self._share for term, (start, end) in self._ends.items()}

    def total(self, terms: Terms) -> Tensor:
        """Return Σ w L."""
        weights = self.weights()
        found = next(iter(terms.values())).new_zeros(())
        for term, value in terms.items():
            found = found + weights[term] * value
        return found


class UncertaintyWeights:
    """Divides each term by its own learned variance: Σ w L exp(−s) + s / 2 (Kendall et al. 2018, eq. 10).

    s is the log variance, at first 0: the recipe's weight, which includes the ½ of Gaussian terms in the paper.
    """

    def __init__(self, weights: Mapping[str, tuple[float, float]], rate: float, device: torch.device) -> None:
        self._start = {term: start for term, (start, _) in weights.items()}
        self._raw = nn.Parameter(torch.zeros(len(self._start), device=device))
        self._scale = VARIANCE_RATE / rate
        self.parameters = [self._raw]

    def at(self, share: float) -> None:
        """Do nothing: the weights do not depend on the completed share."""

    def _log_variances(self) -> Tensor:
        # The stored parameter moves by the model's rate per step. Its value is scaled up so that s moves by VARIANCE_RATE. Its
        # gradient is scaled down, because it is clipped together with the model's gradients.
        small = self._raw / self._scale
        return small + (self._raw * self._scale - small).detach()

    def weights(self) -> dict[str, float]:
        """Return the current weight of each term."""
        shares = self._log_variances().detach().neg().exp().tolist()
        return {term: start * share for (term, start), share in zip(self._start.items(), shares, strict=True)}

    def total(self, terms: Terms) -> Tensor:
        """Return Σ w L exp(−s) + s / 2 over the terms present."""
        found = next(iter(terms.values())).new_zeros(())
        for (term, start), s in zip(self._start.items(), self._log_variances(), strict=True):
            if term in terms:
                found = found + start * terms[term] * torch.exp(-s) + s / 2
        return found


LossWeights = ScheduledWeights | UncertaintyWeights


def loss_weights(settings: Distill, device: torch.device) -> LossWeights:
    """Return the recipe's loss weights."""
    weights = settings.weights()
    if settings.weighting == "uncertainty":
        return UncertaintyWeights(weights, settings.rate, device)
    return ScheduledWeights(weights)
