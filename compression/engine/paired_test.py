"""Compares an artifact's answers with the original's, row by row, and judges them by the job's quality gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compression.modalities.scoring.base import Scorer
from compression.modalities.scoring.paired import UnpairedRows, unpacked
from compression.planning.quality_gate import gate_verdict, limited, unlimited
from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.report.draws import NO_DRAWS, Draws, SplitDraws
from compression.schema.report.gate import GateVerdict, NotPaired, PairedDrop
from compression.schema.report.measurements import Row
from compression.schema.report.ratios import Scored
from compression.schema.stages import BASELINE, Stage


@dataclass(frozen=True)
class Original:
    """The artifact that others are compared with: the baseline's, as it was exported and reopened."""

    artifact: str  #: its name
    draws: SplitDraws  #: with its figures of each row
    score: Scored = None  #: on validation


def original_of(rows: Sequence[Row], draws: Mapping[Stage, SplitDraws]) -> Original | None:
    """Return the original of a dataset's run, or None before its row. rows, draws: of the stages so far."""
    return Original(rows[0].artifact, draws.get(BASELINE, NO_DRAWS), rows[0].validation) if rows else None


def judge_artifact(gate: QualityGate, scorer: Scorer, original: Original, own: SplitDraws) -> GateVerdict:
    """Return the verdict on an artifact. own: its draws, with its figures of each row."""
    without_limit, gate = unlimited(gate, original.score), limited(gate, original.score)
    validation = _drop(gate, scorer, original.draws.validation, own.validation, "validation")
    test = _drop(gate, scorer, original.draws.test, own.test, "test")
    return gate_verdict(gate, original.artifact, validation, test, without_limit=without_limit)


def _drop(gate: QualityGate, scorer: Scorer, before: Draws | None, after: Draws | None, split: str) -> PairedDrop | NotPaired:
    if before is None:
        return NotPaired(not_paired=f"The original has no answers to the {split} rows: it was not measured on them.")
    if after is None:
        return NotPaired(not_paired=f"The artifact has no answers to the {split} rows: it was not measured on them.")
    if before.by_row is None or after.by_row is None:
        whose = "original" if before.by_row is None else "artifact"
        return NotPaired(not_paired=f"The {whose}'s {split} rows were scored without keeping the figures of each row.")
    if (before.rows, before.seed) != (after.rows, after.seed):
        counts = f"the original on {before.rows:,}, the artifact on {after.rows:,}"
        return NotPaired(not_paired=f"Too few {split} rows make pairs: {counts} were scored in the time that scores may take.")
    try:
        return scorer.drop(unpacked(before.by_row), unpacked(after.by_row), gate.confidence, before.seed)
    except UnpairedRows as problem:
        return NotPaired(not_paired=f"There is no paired test on {split}: {problem}.")
