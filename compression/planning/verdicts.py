"""Verdicts: compares each row with targets and earlier rows, and chooses the headline. Torch-free.

All choices read the score on validation, measured by one runner on one artifact; the score on test is only reported. Rows from
before validation was scored are judged by test, as they were then.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from compression.planning import advisor, baseline
from compression.planning.front import front_of, without_others
from compression.planning.remedy_case import Case, Held, to_come
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.report.draws import NO_DRAWS, Draws, SplitDraws, difference_interval
from compression.schema.report.measurements import Row, Score, StageVerdict
from compression.schema.report.report import Status, verdicts
from compression.schema.report.targets import TARGETS, Target, of_rows, spoken
from compression.schema.stages import BASELINE, Stage

SAME_COST = 0.1
"""Costs and latencies that differ by less than this share count as equal: two timings of one graph differ as much."""
SAME_SIZE = 0.01
"""The same for bytes, which do not vary: in each real model's file the graph's own text is less than this."""

LEAST_LOSS = 0.001
"""The loss that a retention target allows counts as at least this much: a tiny miss of a target of 1 is a small shortfall."""


def cost(row: Row) -> float:
    """Return bytes times latency, as shares of the baseline's; infinite if latency was not measured."""
    faster = row.ratios.speed_up
    return (1 - row.ratios.size_reduction) / faster if faster else math.inf


def by_status(row: Row, targets: Targets, status: Status) -> tuple[str, ...]:
    """Return the names of the targets for which a row's verdict has a status."""
    return tuple(name for name, verdict in verdicts(row, targets).items() if verdict.status == status)


def reached(row: Row, targets: Targets) -> tuple[str, ...]:
    """Return the names of the targets that a row's figures reach, proven or not. Rows of one job are compared by them."""
    return tuple(kind.name for kind in of_rows(targets) if kind.is_reached(row, targets))


def shortfall(row: Row, targets: Targets) -> float:
    """Return the sum of the amounts by which a row misses its targets: 0 if it reaches all.

    A reduction, a speed-up, a number of parameters or a time counts as the missing share of the target. A score counts in units
    of the loss that its target allows, because it matters more: at a target of 99.2 %, a retention of 98.4 % counts 1 as well.
    """
    missing = 0.0
    for kind in of_rows(targets):
        value, bound = kind.value(row), kind.bound(targets)
        if value is None:
            missing += 1.0
        elif not kind.is_reached(row, targets):
            missing += _loss(row, kind, value, bound) if kind.figure == "score" else abs(bound - value) / (bound or 1)
    return missing


def _loss(row: Row, kind: Target, value: float, bound: float) -> float:
    """Return what a score lacks, in units of the loss that its target allows, as retention: of an absolute one, the retention
    at the target is that of the row times target / value, of a perplexity value / target. 1 if retention is not known.
    """
    if kind.by_baseline:
        kept, wanted = value, bound
    elif row.ratios.judged_retention is None or value <= 0:
        return 1.0
    else:
        kept = row.ratios.judged_retention
        wanted = kept * (value / bound if kind.at_most(row) else bound / value)
    return (wanted - kept) / max(1 - wanted, LEAST_LOSS)


def _nearness(row: Row, targets: Targets) -> tuple[int, float]:
    """Return a row's nearness to the targets: how many it reaches, and how little it misses the rest by.

    A row whose score is lost (`advisor.has_collapsed`) reaches none: a small model that answers nothing is near to nothing.
    """
    return 0 if advisor.has_collapsed(row, targets) else len(reached(row, targets)), -shortfall(row, targets)


def choose(rows: Sequence[Row], targets: Targets) -> tuple[Row, str]:
    """Return the row whose artifact is the headline, and the reason.

    Of the rows that reach all targets: the cheapest in bytes × latency, and of equal costs (SAME_COST) the highest retention.
    Rows of the same graph cost the same, whatever the clock said of each.
    If none does: the one that reaches the most, of these the nearest to the others (`shortfall`); the baseline only if alone.
    Rows whose score is lost come behind all others. Of several sizes, only the recommended one counts (`front_of`).
    """
    if (front := front_of(rows, targets)) is not None:
        found, why = _choose(without_others(rows, front), targets)
        return found, f"{front.why} {why}"
    return _choose(rows, targets)


def _choose(rows: Sequence[Row], targets: Targets) -> tuple[Row, str]:
    """Choose among rows of which all count, as `choose` says."""
    kinds = of_rows(targets)
    complete = [row for row in rows if len(reached(row, targets)) == len(kinds)]
    if complete:
        least = min(map(cost, complete))
        near = [row for row in complete if cost(row) <= least * (1 + SAME_COST)]
        cheapest = [row for row in complete if any(row is one or same_graph(row, one) for one in near)]
        chosen = max(reversed(cheapest), key=_kept)
        others = [row for row in complete if row is not chosen]
        verb = _reaches(chosen, targets) if len(others) == 1 else _reaches(chosen, targets, "meet", "reach")
        also = f"; {', '.join(row.stage for row in others)} also {verb} them all"
        costs = ", ".join(f"{cost(row):.1%}{_of_graph(row, chosen)}" for row in others)
        return chosen, (
            f"{chosen.stage} is shipped: it {_reaches(chosen, targets)} all targets at {cost(chosen):.1%} of the baseline's "
            f"bytes × latency, {_kept(chosen):.1%} of the score kept{_split(chosen)}{_between(chosen)}"
            f"{f'{also}, at {costs}' if others else ''}.{_unproven(chosen, targets)}"
        )
    candidates = [row for row in rows if row.stage != BASELINE] or rows
    chosen = max(reversed(candidates), key=lambda row: (*_nearness(row, targets), -cost(row)))
    met = reached(chosen, targets)
    lacking = ", ".join(
        f"{spoken(kind.name)} {kind.figure_text(chosen)} (target {kind.bound_text(targets)})"
        for kind in kinds
        if kind.name not in met
    )
    return chosen, (
        f"No stage {_reaches(chosen, targets)} all targets. {chosen.stage} is shipped: it {_reaches(chosen, targets)} "
        f"{len(met)} of {len(kinds)}{f' ({_listed(met)})' if met else ''}{_against(chosen, candidates, targets)}; "
        f"missed: {lacking}.{_unproven(chosen, targets)}"
    )


def _against(chosen: Row, candidates: Sequence[Row], targets: Targets) -> str:
    """Return how a row that misses targets compares with the others, as text."""
    more = [row for row in candidates if len(reached(row, targets)) > len(reached(chosen, targets))]
    lost = advisor.has_collapsed(chosen, targets)
    if not more:
        return ", as many as any, and of such it comes nearest" + (
            f"; it lost the score: {_kept(chosen):.1%} kept" if lost else ""
        )
    return (
        f"; {', '.join(row.stage for row in more)} reach{'es' if len(more) == 1 else ''} more, but lost the score: "
        + ", ".join(f"{_kept(row):.1%} kept" for row in more)
        + (f"; so did {chosen.stage}: {_kept(chosen):.1%} kept" if lost else "")
    )


def same_graph(one: Row, other: Row) -> bool:
    """Return whether two rows' artifacts differ in their weights' values alone, so that their latencies differ by chance."""
    alike = all(getattr(one, part) == getattr(other, part) for part in ("shape", "parameters", "flops"))
    return alike and one.size.dtype == other.size.dtype and math.isclose(one.size.bytes, other.size.bytes, rel_tol=SAME_SIZE)


def _of_graph(row: Row, chosen: Row) -> str:
    """Return why a row that seems to cost less than the chosen one was passed over; nothing if it costs more."""
    if cost(row) >= cost(chosen):
        return ""
    return " (the same graph, so no less)" if same_graph(row, chosen) else f" (within {SAME_COST:.0%} of the cheapest: no less)"


def _reaches(row: Row, targets: Targets, proven: str = "meets", unproven: str = "reaches") -> str:
    return unproven if row.ratios.is_unproven(targets.retention) else proven


def _split(row: Row) -> str:
    """Return the split of a row's score; rows from before validation was scored have only test."""
    return " on validation" if row.ratios.judged_on == "validation" else ""


def _between(row: Row) -> str:
    """Return the 95 % interval of a row's retention as text, if there is one."""
    interval = row.ratios.judged_interval
    return f" (95 % interval {interval[0]:.1%} to {interval[1]:.1%})" if interval is not None else ""


def _unproven(row: Row, targets: Targets) -> str:
    note = " What is kept of the score is unproven: the baseline has not converged (baseline_not_converged)."
    return note if row.ratios.is_unproven(targets.retention) else ""


def worse_than(row: Row, before: Sequence[Row], targets: Targets) -> Row | None:
    """Return the best earlier row that is as small and fast, and scores better by more than `row`'s standard error, or None."""
    better = [
        earlier
        for earlier in before
        if _is_better(earlier, row) and row.size.bytes >= earlier.size.bytes * (1 - SAME_SIZE) and not _is_faster(row, earlier)
    ]
    return choose(better, targets)[0] if better else None


def behind_in(row: Row, best: Row, targets: Targets) -> tuple[str, ...]:
    """Return the targets that a row misses by more than the best row before it; none if it is as near by `choose`'s rule."""
    if _nearness(row, targets) >= _nearness(best, targets):
        return ()
    found = reached(row, targets)
    return tuple(kind.name for kind in of_rows(targets) if kind.name not in found and _is_less(row, best, kind))


def _is_better(one: Row, other: Row) -> bool:
    """Return whether a row scores better than another by more than the other's standard error."""
    first, last = one.judged_score, other.judged_score
    return isinstance(first, Score) and isinstance(last, Score) and first.worth - last.worth > last.worth_error


def _is_less(row: Row, best: Row, kind: Target) -> bool:
    """Return whether a row is further from a target than the best before it, by more than chance."""
    value, other = kind.value(row), kind.value(best)
    if value is None or other is None:
        return other is not None
    if kind.figure == "latency":
        return _is_faster(best, row)
    if kind.figure == "size":
        return row.size.bytes > best.size.bytes * (1 + SAME_SIZE)
    if kind.figure == "score" and isinstance(row.judged_score, Score) and isinstance(best.judged_score, Score):
        return _is_better(best, row)
    return value > other if kind.at_most(row) else value < other


def judged(
    row: Row,
    before: Sequence[Row],
    recipe: Recipe,
    targets: Targets,
    *,
    limit: str | None = None,
    task: Task | None = None,
    held: Held | None = None,
    draws: Mapping[Stage, SplitDraws] | None = None,
) -> Row:
    """Return a row with its verdict. before: rows of earlier stages; limit, task, held: `Case`; draws: by stage."""
    first = before[0] if before else row
    flag = first.convergence == "not converged" or baseline.is_at_chance(first)
    row = row.model_copy(update={"ratios": row.ratios.model_copy(update={"baseline_not_converged": flag})})
    better = worse_than(row, before, targets)
    missed = by_status(row, targets, "missed")
    best = choose(before, targets)[0] if before else None
    behind = behind_in(row, best, targets) if best is not None else ()
    case = Case(row, before, recipe, targets, missed, better is not None, limit, task, held)
    verdict = StageVerdict(
        met=by_status(row, targets, "met"),
        missed=missed,
        unproven=by_status(row, targets, "unproven"),
        best_before=best.stage if best else None,
        worse_than=better.stage if better else None,
        behind=best.stage if best and behind else None,
        behind_in=behind,
        remedies=advisor.offered(_of_recommended(case)),
    )
    notes = row.notes
    if best is not None and behind:
        following = to_come(recipe, before)
        notes += (
            f"Against the targets this stage is worse than {best.stage}: {_compared(row, best, behind, targets)}."
            + (f" Still to come: {', '.join(following)}." if following else ""),
        )
    if better is not None and isinstance(better.judged_score, Score) and isinstance(row.judged_score, Score):
        notes += (
            f"This stage made things worse: {better.stage} scores {better.judged_score.value:.4f} against "
            f"{row.judged_score.value:.4f} (standard error {row.judged_score.standard_error:.4f}){_split(row)}, and nothing "
            "was gained in bytes or latency.",
        )
    if before and baseline.exceeds_baseline(row, first):
        notes += (
            f"{row.ratios.judged_retention:.1%}{_between(row)} of the baseline's score is kept on {row.ratios.judged_on}: the "
            "original is below what these data allow. Prepare it longer, or at another rate.",
        )
    if best is not None and best.stage != BASELINE:
        own, other = ((draws or {}).get(each.stage, NO_DRAWS).validation for each in (row, best))
        notes += indistinct_note(row, best, own, other)
    if not before:
        notes += coarse_note(row, targets)
    return row.model_copy(update={"verdict": verdict, "notes": notes})


def _of_recommended(case: Case) -> Case:
    """Return the case of the recommended size once all are there, and any other case as it is."""
    every = [*case.before, case.row]
    front = None if case.later else front_of(every, case.targets)
    if front is None or front.recommended == case.row.stage:
        return case
    row = case.rows[front.recommended]
    missed, others = by_status(row, case.targets, "missed"), [one for one in every if one is not row]
    return replace(case, row=row, before=others, missed=missed, is_worse=False)


def _kept(row: Row) -> float:
    return -math.inf if row.ratios.judged_retention is None else row.ratios.judged_retention


def _is_faster(row: Row, earlier: Row) -> bool:
    own, other = row.ratios.speed_up, earlier.ratios.speed_up
    return own is not None and other is not None and own > other * (1 + SAME_COST) and not same_graph(row, earlier)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(spoken, names))


def _compared(row: Row, best: Row, names: Sequence[str], targets: Targets) -> str:
    return ", ".join(
        f"{spoken(kind.name)} {kind.figure_text(row)}, there {kind.figure_text(best)} (target {kind.bound_text(targets)})"
        for kind in (TARGETS[name] for name in names)
    )


BY_ROWS = ("accuracy", "f1", "accuracy_f1", "exact_match", "entity_f1")
"""Metrics in which one row predicted differently changes the score by about one row's share."""


def indistinct_note(row: Row, best: Row, own: Draws | None, other: Draws | None) -> tuple[str, ...]:
    """Return a note if validation cannot distinguish a row's score from the best before it. own, other: draws of each on it."""
    score = row.validation
    if not isinstance(score, Score):
        return ()
    found = difference_interval(own, other, lower_is_better=score.lower_is_better)
    if found is None or not found[0] <= 0 <= found[1]:
        return ()
    what = "nats a token" if score.lower_is_better else score.metric
    return (
        f"Validation ({score.counted} rows) cannot tell this stage's score from that of {best.stage}: the 95 % interval of the "
        f"difference, {found[0]:+.4f} to {found[1]:+.4f} ({what}), includes 0.",
    )


def coarse_note(row: Row, targets: Targets) -> tuple[str, ...]:
    """Return a note if one row of validation is more than the retention target allows to lose. row: the baseline's."""
    score = row.validation
    if not isinstance(score, Score) or score.metric not in BY_ROWS or score.value <= 0 or targets.retention >= 1:
        return ()
    share = 1 / (score.rows * score.value)
    if share <= 1 - targets.retention:
        return ()
    return (
        f"Validation is too small for the retention target: one of its {score.rows:,} rows is {share:.1%} of the baseline's "
        f"score, and the target allows to lose {1 - targets.retention:.1%}.",
    )
