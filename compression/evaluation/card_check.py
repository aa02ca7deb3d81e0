"""Opens an artifact on the GPU to score it there, if it answers some rows as on the CPU. Torch-free but for checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compression.evaluation.runtimes.runner import NotOnCard, open_on_card
from compression.modalities.scoring.base import ArtifactReader, Floats, Inputs, Row, Runner, Scorer, stacked
from compression.schema.artifact_formats import Kind

SAMPLE = 8
"""Rows that both devices answer, each alone and all in a batch; of a language model the beginnings of as many texts."""
EXACT, ROUNDED = 1e-3, 2e-2
"""Tolerance of the two devices' logits, as a share of the largest: of float32, where the order of sums makes 1e-6 to 1e-5, and
of artifacts that round. bfloat16 rounds by up to 4e-3 at each step, and an activation on the edge between two integers goes
either way."""
PEAK = 6.0
"""The tolerance is of the root mean square; a single logit may be so many times as far off."""


@dataclass(frozen=True)
class CardCheck:
    """What an artifact answers on the CPU, which it has to answer on the GPU too."""

    asked: Sequence[Inputs]
    expected: Floats
    tolerance: float

    @classmethod
    def of(
        cls, runner: Runner[Any], reader: ArtifactReader, scorer: Scorer, rows: Sequence[Row], outputs: int, *, rounds: bool
    ) -> "CardCheck":
        """Answer the first SAMPLE rows on the CPU. outputs: the width of the logits. rounds: whether the artifact computes in
        less than float32.
        """
        asked = scorer.sample(reader, rows[:SAMPLE], outputs)
        return cls(asked, stacked(runner, asked), ROUNDED if rounds else EXACT)

    def open(self, kind: Kind, folder: Path, *, threads: int) -> Runner[Any]:
        """Open the artifact on the GPU. Raises NotOnCard if it cannot run there or answers otherwise, and its runtime's
        errors.
        """
        opened = hastened(open_on_card(kind, folder, self.asked[-1], threads=threads))
        self.compare(stacked(opened, self.asked))
        return opened

    def compare(self, found: Floats) -> None:
        """Raise NotOnCard if the GPU's answers are not those of the CPU, or the CPU's are no numbers to compare with."""
        if not np.isfinite(self.expected).all():
            raise NotOnCard("its answers on the CPU, with which those of the GPU are compared, are not all finite")
        if found.shape != self.expected.shape or not np.isfinite(found).all():
            raise NotOnCard(f"its answers there are no numbers of the shape {self.expected.shape}")
        off, scale = found - self.expected, float(np.abs(self.expected).max())
        difference, largest = float(np.sqrt(np.square(off, dtype=np.float64).mean())), float(np.abs(off).max())
        if not (difference <= self.tolerance * scale and largest <= PEAK * self.tolerance * scale):
            raise NotOnCard(
                f"its logits there differ by {difference:.2g} (root mean square; allowed {self.tolerance * scale:.2g}) and "
                f"{largest:.2g} (the farthest; allowed {PEAK * self.tolerance * scale:.2g})"
            )


def hastened(runner: Runner[Any]) -> Runner[Any]:
    """Let a runner answer faster from here on, if it can; its logits stay the same."""
    if hasten := getattr(runner, "hasten", None):
        hasten()
    return runner
