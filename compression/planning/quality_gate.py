"""Judges the paired drop of an artifact's score by a job's quality gate. Torch-free, pure."""

import math
from collections.abc import Mapping
from statistics import NormalDist

from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.report.gate import GateStatus, GateVerdict, NotPaired, PairedDrop, Unit
from compression.schema.report.measurements import Score
from compression.schema.report.ratios import Scored

Drop = PairedDrop | NotPaired
AT_LIMIT = 1e-9
"""Estimates that are nearer to the limit than this lie on it: rows' figures are float32."""

WORST_LAST: tuple[GateStatus, ...] = ("accept", "undecided", "regression")


def severity(verdict: GateVerdict | None) -> int:
    """Return how bad a verdict is: 0 if it accepts, or if there is none."""
    return 0 if verdict is None else WORST_LAST.index(verdict.status)


def limited(gate: QualityGate, original: Scored) -> QualityGate:
    """Return the gate with the drop that its retention leaves of the original's validation score; 0 if there is no score."""
    if gate.max_drop is not None or gate.retention is None:
        return gate
    drop = 0.0
    if isinstance(original, Score):
        lost = (1 - gate.retention) * original.value
        drop = min(max(-math.log(gate.retention) if original.lower_is_better else lost, 0.0), 1.0)
    return gate.model_copy(update={"max_drop": drop})


def unlimited(gate: QualityGate, original: Scored) -> str | None:
    """Return why a gate's retention says nothing of how much may be lost; None if it does, or if the gate names a drop."""
    if gate.max_drop is not None:
        return None
    if not isinstance(original, Score):
        return f"The original has no score on validation, so {gate.retention:.4g} of it is no limit."
    if original.value <= 0 and not original.lower_is_better:
        return f"The original's score on validation is {original.value:.4g}: no share of it can be kept."
    return None


def limit_of(gate: QualityGate) -> float:
    """Return the most that may be lost, of a gate that `limited` has settled."""
    assert gate.max_drop is not None, "it names a drop or has been limited"  # noqa: S101
    return gate.max_drop


def limit_text(gate: QualityGate, unit: Unit = "score") -> str:
    """Return how much may be lost, as text: 0.8 points."""
    return f"{100 * limit_of(gate):.4g} points" if unit == "score" else f"{limit_of(gate):.4g} {unit}"


def rows_needed(found: PairedDrop, gate: QualityGate) -> int | None:
    """Return how many rows would decide if the drop and the rows' spread stay; None if the drop lies on the limit.

    A bound is further from the drop by z · spread / √rows and by a part that shrinks with the rows themselves. The needed rows
    solve z · spread / √n + rest / n = |max_drop − drop|.
    """
    room = limit_of(gate) - found.drop
    if abs(room) <= AT_LIMIT:
        return None
    away = found.upper - found.drop if room > 0 else found.drop - found.lower
    slope = NormalDist().inv_cdf(gate.confidence) * found.spread
    rest = max(found.rows * (away - slope / math.sqrt(found.rows)), 0.0)
    per_root = (slope + math.sqrt(slope**2 + 4 * rest * abs(room))) / (2 * abs(room))  # √n, the positive root
    return max(math.ceil(per_root**2), found.rows + 1)


def gate_verdict(
    gate: QualityGate, original: str, validation: Drop, test: Drop, *, without_limit: str | None = None
) -> GateVerdict:
    """Judge an artifact by its drop on validation. Without a paired test there, or without a limit, the verdict is undecided.
    without_limit: why there is none.
    """
    status, needed, reason = _judge(gate, validation) if without_limit is None else ("undecided", None, without_limit)
    return GateVerdict(
        status=status,
        max_drop=limit_of(gate),
        confidence=gate.confidence,
        original=original,
        validation=validation,
        test=test,
        rows_needed=needed,
        reason=reason,
    )


def _judge(gate: QualityGate, found: Drop) -> tuple[GateStatus, int | None, str]:
    if isinstance(found, NotPaired):
        return "undecided", None, found.not_paired
    told = (
        f"The score drops by {found.text} on {found.rows:,} validation rows, each bound at {100 * gate.confidence:g} %; "
        f"at most {limit_text(gate, found.unit)} may be lost"
    )
    if found.upper <= limit_of(gate):
        return "accept", None, f"{told}."
    if found.lower > limit_of(gate):
        return "regression", None, f"{told}."
    needed = rows_needed(found, gate)
    if needed is None:
        return "undecided", None, f"{told}. No number of rows would decide: the estimate lies on the limit."
    return "undecided", needed, f"{told}. About {needed:,} validation rows would decide if the estimate stays."


def each_verdict(gate: QualityGate, parts: Mapping[str, GateVerdict | None]) -> GateVerdict | None:
    """Return the verdict on several datasets: each artifact is judged on its own rows, and the worst one counts.

    All must be accepted, so no correction for several tests is needed for `accept`. None if a part has no verdict, as the
    originals have none.
    """
    known = {name: one for name, one in parts.items() if one is not None}
    if not known or len(known) < len(parts):
        return None
    worst: GateStatus = max((one.status for one in known.values()), key=WORST_LAST.index)
    deciding = {name: one for name, one in known.items() if one.status == worst}
    needs = [one.rows_needed for one in deciding.values()]
    reason = " ".join(f"{name}: {one.reason}" for name, one in deciding.items())
    apart = NotPaired(not_paired="Each dataset has its own test: see `parts`.")
    return GateVerdict(
        status=worst,
        max_drop=min(one.max_drop for one in known.values()),
        confidence=gate.confidence,
        original="",
        validation=apart,
        test=apart,
        rows_needed=max((need for need in needs if need is not None), default=None) if None not in needs else None,
        reason=reason,
    )
