"""Corrects the error tables by outcome: which layers' errors count how much (SPDY, Frantar & Alistarh 2022).

Errors of single layers do not add up to what the whole model loses. So the solver solves with several draws of weights, each
shape that comes of it is cut without training, and its answers are compared with the whole model's on rows of train. The
weights of the shape that changes them least are kept, or with `prune.finalists`, of those that do the one that keeps most after
a short distillation. Cuts of other sizes are judged too: by them, and not by one size, it is
known how the change grows with the error, which predicted scores of other targets rest on.
"""

import math
import random
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.finalists import best_finalist
from compression.engine.stages.signs_of_life import solver_of
from compression.evaluation.validate import logits, validate
from compression.modalities.base import Examples
from compression.modalities.sampling import first_tokens, shuffled_rows
from compression.modalities.scoring.metrics import spearman
from compression.models.architectures.pruning_groups import axis_and_layer
from compression.planning.search.problem import OutOfTime, Problem, Solve
from compression.planning.search.space import Cost, SearchSpace
from compression.planning.search.within import Found, solve_within
from compression.planning.table_work import CANDIDATES, JUDGED_ROWS, JUDGED_TOKENS, OTHER_SIZES
from compression.quantization.fake_quantize import in_float
from compression.schema.error_tables import ErrorTables
from compression.schema.errors import TargetOutOfReach, UnsupportedShape
from compression.schema.events import Event
from compression.schema.recipe.finalists import Finalists
from compression.schema.solved_search import CutOutcome

Weights = Mapping[str, float]
"""Key of a group, or name of a layer → what its errors count."""
FEWEST_RANKED = 4
"""Of fewer cuts a rank correlation says nothing: of two it is 1 or −1."""
SPREAD = 0.7
"""Standard deviation of the logarithm of a weight: about twice or half. Of an axis and of each of its groups."""


def drawn_weights(tables: ErrorTables, seed: int) -> Weights:
    """Draw what the errors of each group and layer count; seed 0 draws nothing: all count alike."""
    if seed == 0:
        return {}
    draw = random.Random(seed)
    axes: dict[str, float] = {}

    def drawn(axis: str) -> float:
        common = axes.setdefault(axis, draw.gauss(0, SPREAD))
        return math.exp(common + draw.gauss(0, SPREAD))

    groups = {group.key: drawn(axis_and_layer(group.key)[0]) for group in tables.groups}
    return groups | {layer.name: drawn("layers") for layer in tables.layers}


def error_weights(
    context: StageContext,
    tables: ErrorTables,
    space_of: Callable[[Weights], SearchSpace],
    limits: Sequence[Cost],
    cut: Callable[[Found], PreTrainedModel],
) -> Generator[Event, None, tuple[Weights, tuple[CutOutcome, ...]]]:
    """Return the weights whose solution changes the model's answers least, or is the best of the finalists, with what came of
    every cut that was judged, and note how well the errors had predicted that.

    space_of: with weights; cut: returns the model that a solution leaves, untrained. If all draws lead to one shape, all layers
    count alike. Raises Pause, and what `solve_within` raises if all layers count alike.
    """
    plain = space_of({})
    found: dict[tuple[object, ...], tuple[Weights, Found]] = {}
    solver = solver_of(context, plain)
    for seed in range(CANDIDATES):
        weights = drawn_weights(tables, seed)
        try:
            solved = solve_within(space_of(weights), limits, solver)
        except (TargetOutOfReach, OutOfTime):
            if seed == 0:  # else it is one draw less
                raise
            continue
        found.setdefault(tuple(sorted(solved.picks.items())), (weights, solved))
    rows = first_tokens(shuffled_rows(context.rows["train"], JUDGED_ROWS, context.recipe.train.seed), JUDGED_TOKENS)
    change = _change_from_whole(context, plain, rows)

    def judged(solutions: Iterable[Found]) -> Generator[Event, None, list[float]]:
        changes = list[float]()
        for solved in solutions:
            context.check_pause()
            changes.append(change(cut(solved)))
            yield from context.tracker.emit_boundary("cut", done=False)
        return changes

    drawn = [solved for _, solved in found.values()]
    changes = yield from judged(drawn)
    least, finalists = min(range(len(changes)), key=changes.__getitem__), _finalists(context)
    if len(changes) > 1:
        context.notes.append(
            f"{len(changes)} solutions with drawn weights of layers were cut and compared with the whole model on {len(rows)} "
            f"rows: divergence {changes[0]:.4g} if all layers count alike, {changes[least]:.4g} "
            f"of {'the least' if finalists else 'the one that was taken'}."
        )
    chosen = least
    if finalists is not None and len(changes) > 1:
        chosen = yield from best_finalist(context, finalists, changes, lambda at: cut(drawn[at]))
    weights = [*found.values()][chosen][0]
    corrected = space_of(weights)
    others = [each for each in _other_sizes(corrected, limits, solver) if tuple(sorted(each.picks.items())) not in found]
    changes += yield from judged(others)
    problem = Problem(corrected.choices, corrected.error, ())
    errors = [problem.error_of(solved.picks) for solved in (*drawn, *others)]
    if len(errors) >= FEWEST_RANKED:
        ranked = spearman(*(torch.tensor(values, dtype=torch.float64).numpy() for values in (errors, changes)))
        context.notes.append(
            f"Rank correlation of predicted error and divergence {ranked:.2f} over {len(errors)} cuts of this size and others."
        )
    return weights, tuple(CutOutcome(error=error, change=change) for error, change in zip(errors, changes, strict=True))


def reference_of(space: SearchSpace, model: PreTrainedModel) -> AbstractContextManager[None]:
    """Return the context in which a model says what cuts are compared with: where bits are chosen, in floating point. Beside
    its 4 bits a layer would seem to lose by 8.
    """
    return in_float(model) if space.bit_choices else nullcontext()


def _change_from_whole(context: StageContext, space: SearchSpace, rows: Examples) -> Callable[[PreTrainedModel], float]:
    with reference_of(space, context.model):
        return change_from(context.model, rows, context.parts)


def _finalists(context: StageContext) -> Finalists | None:
    settings = context.recipe.prune
    return settings.finalists if settings is not None else None


def _other_sizes(space: SearchSpace, limits: Sequence[Cost], solver: Solve) -> list[Found]:
    """Return the solutions of milder and deeper targets, as far as there are some that cut anything, each once."""
    whole = space.uncut
    found: dict[tuple[object, ...], Found] = {}
    for share in OTHER_SIZES:
        eased = []
        for limit in limits:
            all_ = space.cost_of(limit, whole)
            eased.append(replace(limit, most=all_ - share * (all_ - limit.most)))
        with suppress(TargetOutOfReach, OutOfTime, UnsupportedShape):
            solved = solve_within(space, eased, solver)
            if solved.picks != whole:
                found[tuple(sorted(solved.picks.items()))] = solved
    return [*found.values()]


def change_from(whole: PreTrainedModel, rows: Examples, parts: int) -> Callable[[PreTrainedModel], float]:
    """Return a function that computes how far a model's answers are from the whole model's: the task's divergence, at
    temperature 1; of a language model, whose answers are too many to keep, how much its loss on the rows is higher.
    """
    if rows.task.packed is not None:
        loss = -validate(whole, rows, parts).negative_loss
        return lambda model: -validate(model, rows, parts).negative_loss - loss
    wanted, every = logits(whole, rows, parts), rows.without_inputs()
    return lambda model: rows.task.soft_loss(logits(model, rows, parts), wanted, every, 1.0).item()
