"""Verdicts: each row against the targets and against what came before it, and which artifact the job ships. Torch-free.

Which artifact to take is chosen by its figures on the test split, as a reader of the table would choose; nothing is trained
or tuned by them.
"""

import math
from collections.abc import Sequence

from compression import remedies
from compression.recipe import Recipe, Targets, Task
from compression.report import Remedy, Row, Score, StageVerdict, verdicts

SAME_COST = 0.1
"""Costs and latencies that differ by less than this share are taken as equal: two timings of one graph come as far apart."""
SAME_SIZE = 0.01
"""As much for bytes, which do not vary: a graph's own text is more than this of no real model's file."""

LEAST_LOSS = 0.001
"""What a retention target allows to lose counts as at least this much: to miss a target of 1 by a hair is a hair still."""


def cost(row: Row) -> float:
    """Multiply bytes and latency, each as a share of the baseline's; infinite where latency was not measured."""
    faster = row.ratios.speed_up
    return (1 - row.ratios.size_reduction) / faster if faster else math.inf


def targets_met(row: Row, targets: Targets) -> tuple[str, ...]:
    """Name the targets that a row meets; what was not measured meets none."""
    return tuple(name for name, verdict in verdicts(row.ratios, targets).items() if verdict.met)


def shortfall(row: Row, targets: Targets) -> float:
    """Add up by how much a row misses its targets: 0 where it meets all.

    A reduction or a speed-up counts as the share of the target that is lacking, so that none of it is 1. Retention counts in
    units of the loss that its target allows, because a score is worth more than as much of a size: at a target of 99.2 %, to
    keep 98.4 % is 1 as well.
    """
    missing = 0.0
    for name in Targets.model_fields:
        target, value = getattr(targets, name), getattr(row.ratios, name)
        unit = max(1 - target, LEAST_LOSS) if name == "retention" else target
        if value is None:
            missing += 1.0
        elif value < target:
            missing += (target - value) / unit
    return missing


def _nearness(row: Row, targets: Targets) -> tuple[int, float]:
    """Say how near a row is to the targets: how many it meets, then by how little it misses the rest."""
    return len(targets_met(row, targets)), -shortfall(row, targets)


def choose(rows: Sequence[Row], targets: Targets) -> tuple[Row, str]:
    """Pick the row whose artifact is the headline, and say why.

    Of the rows that meet all targets the cheapest in bytes × latency, and of those that cost the same (SAME_COST) the one
    that keeps the most of the score. Where none meets all: the one that meets the most, and of these the one that comes
    nearest to the others (`shortfall`). The baseline is no compression, so it takes part in that second choice only if it
    is alone.
    """
    complete = [row for row in rows if len(targets_met(row, targets)) == len(Targets.model_fields)]
    if complete:
        least = min(map(cost, complete))
        cheapest = [row for row in complete if cost(row) <= least * (1 + SAME_COST)]
        chosen = max(reversed(cheapest), key=_kept)
        others = [row.stage for row in complete if row is not chosen]
        return chosen, (
            f"{chosen.stage} is shipped: it meets all targets at {cost(chosen):.1%} of the baseline's bytes × latency, "
            f"{_kept(chosen):.1%} of the score kept"
            + (f"; {_listed(others)} also meet them all, at {_costs(rows, others)}" if others else "")
            + "."
        )
    candidates = [row for row in rows if row.stage != "baseline"] or list(rows)
    chosen = max(reversed(candidates), key=lambda row: (*_nearness(row, targets), -cost(row)))
    met = targets_met(chosen, targets)
    missed = [name for name in Targets.model_fields if name not in met]
    return chosen, (
        f"No stage meets all targets. {chosen.stage} is shipped: it meets {len(met)} of {len(Targets.model_fields)}"
        f"{f' ({_listed(met)})' if met else ''}, as many as any, and of such it comes nearest; missed: "
        + ", ".join(_missed(chosen, name, targets) for name in missed)
        + "."
    )


def worse_than(row: Row, before: Sequence[Row], targets: Targets) -> Row | None:
    """Return the best of the earlier rows that are as small and fast and score better by more than `row`'s standard error."""
    better = [
        earlier
        for earlier in before
        if isinstance(earlier.score, Score)
        and isinstance(row.score, Score)
        and earlier.score.worth - row.score.worth > row.score.worth_error
        and row.size.bytes >= earlier.size.bytes * (1 - SAME_SIZE)
        and not _is_faster(row, earlier)
    ]
    return choose(better, targets)[0] if better else None


def behind_in(row: Row, best: Row, targets: Targets) -> tuple[str, ...]:
    """Name the targets in which a row is behind the best before it: it misses them, and more than `best`, not by chance.

    None where the row is as near to the targets as `best` is, by the rule of `choose`, whatever it lost on the way.
    """
    if _nearness(row, targets) >= _nearness(best, targets):
        return ()
    met = targets_met(row, targets)
    return tuple(name for name in Targets.model_fields if name not in met and _is_less(row, best, name))


def _is_less(row: Row, best: Row, name: str) -> bool:
    value, other = getattr(row.ratios, name), getattr(best.ratios, name)
    if value is None or other is None:
        return other is not None
    if name == "speed_up":
        return _is_faster(best, row)
    if name == "size_reduction":
        return row.size.bytes > best.size.bytes * (1 + SAME_SIZE)
    if name == "retention" and isinstance(row.score, Score) and isinstance(best.score, Score):
        return best.score.worth - row.score.worth > row.score.worth_error
    return bool(value < other)


def judged(
    row: Row,
    before: Sequence[Row],
    recipe: Recipe,
    targets: Targets,
    *,
    limit: str | None = None,
    applied: Sequence[Remedy] = (),
    task: Task | None = None,
    streamed: bool = False,
) -> Row:
    """Complete a row with its verdict.

    before: the rows of earlier stages; limit: that of training which is reached; applied: what the stage tried by itself; task,
    streamed: what `remedies.offered` minds.
    """
    met = targets_met(row, targets)
    better = worse_than(row, before, targets)
    missed = tuple(name for name in Targets.model_fields if name not in met)
    best = choose(before, targets)[0] if before else None
    behind = behind_in(row, best, targets) if best is not None else ()
    verdict = StageVerdict(
        met=met,
        missed=missed,
        best_before=best.stage if best else None,
        worse_than=better.stage if better else None,
        behind=best.stage if best and behind else None,
        behind_in=behind,
        remedies=(
            *applied,
            *remedies.offered(
                row,
                before,
                recipe,
                targets,
                missed,
                is_worse=better is not None,
                limit=limit,
                applied=applied,
                task=task,
                streamed=streamed,
            ),
        ),
    )
    notes = row.notes
    if best is not None and behind:
        to_come = remedies.to_come(recipe, before)
        notes += (
            f"Against the targets this stage is worse than {best.stage}: {_compared(row, best, behind, targets)}."
            + (f" Still to come: {_listed(to_come)}." if to_come else ""),
        )
    if better is not None and isinstance(better.score, Score) and isinstance(row.score, Score):
        notes += (
            f"This stage made things worse: {better.stage} scores {better.score.value:.4f} against {row.score.value:.4f} "
            f"(standard error {row.score.standard_error:.4f}), and nothing was gained in bytes or latency.",
        )
    return row.model_copy(update={"verdict": verdict, "notes": notes})


def _kept(row: Row) -> float:
    return -math.inf if row.ratios.retention is None else row.ratios.retention


def _is_faster(row: Row, earlier: Row) -> bool:
    own, other = row.ratios.speed_up, earlier.ratios.speed_up
    return own is not None and other is not None and own > other * (1 + SAME_COST)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)


def _compared(row: Row, best: Row, names: Sequence[str], targets: Targets) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {_figure(row, name)}, there {_figure(best, name)} (target {getattr(targets, name):g})"
        for name in names
    )


def _figure(row: Row, name: str) -> str:
    value = getattr(row.ratios, name)
    return "not measured" if value is None else f"{value:.3f}"


def _costs(rows: Sequence[Row], stages: Sequence[str]) -> str:
    return ", ".join(f"{cost(row):.1%}" for row in rows if row.stage in stages)


def _missed(row: Row, name: str, targets: Targets) -> str:
    return f"{name.replace('_', ' ')} {_figure(row, name)} (target {getattr(targets, name):g})"
