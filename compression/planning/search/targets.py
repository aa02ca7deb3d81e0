"""Answers other targets of a finished job by its tables: what a cut to them would come to. Torch-free, without the model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import inf
from typing import Any

from compression.models.architectures.families import ARCHITECTURE_SPECS, ArchitectureSpec
from compression.planning.device_times import ShapeTimes
from compression.planning.search import costs
from compression.planning.search.problem import OutOfTime, Solve
from compression.planning.search.score_prediction import predict_score
from compression.planning.search.solving import solver_for
from compression.planning.search.space import Cost, SearchSpace
from compression.planning.search.spaces import space_of
from compression.planning.search.within import Found, solve_within
from compression.schema.device_table import DeviceTable
from compression.schema.error_tables import ErrorTables
from compression.schema.errors import InvalidSpec, MissingResource, TargetOutOfReach
from compression.schema.recipe.prune import TARGET_KEYS, TargetLatency
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.solved_search import SolvedSearch
from compression.schema.target_answer import (
    FRONT_POINTS,
    By,
    PredictedScore,
    ScoreFacts,
    TargetAnswer,
    TargetFront,
    TargetPoint,
    TargetQuestion,
    WholeModel,
)

MILDEST, DEEPEST = 0.95, 0.1
"""Shares of the whole model that the points of a front keep, the first and the last."""
NO_TABLE = "No device table is of the job's processor and threads: name one by device_table, or leave milliseconds out."


@dataclass(frozen=True)
class Answerer:
    """What a job knows, ready to be asked. table: None predicts no milliseconds. tokens, batch: of a pass that is timed."""

    tables: ErrorTables
    search: SolvedSearch
    table: DeviceTable | None = None
    scores: ScoreFacts | None = None
    tokens: int = 128
    batch: int = 1

    def answer(self, question: TargetQuestion, seconds: float) -> TargetAnswer:
        """Return what the targets come to; if they are out of reach, the nearest point. seconds: time for the solver.

        Raises InvalidSpec for a target that the model does not have, MissingResource for milliseconds that nothing predicts,
        and OutOfTime.
        """
        limits = self._limits(question)
        try:
            found, missed = solve_within(self.space, limits, self._solve(time.monotonic() + seconds)), None
        except TargetOutOfReach as problem:
            if not isinstance(problem.nearest, Found):
                raise
            found, missed = problem.nearest, problem.cause
        point, no_score = self._point(found)
        told: dict[str, Any] = {"whole": self.whole, "no_milliseconds": self.no_milliseconds, "no_score": no_score}
        return TargetAnswer(reached=missed is None, missed=missed, point=point, **told)

    def front(self, by: By, seconds: float) -> TargetFront:
        """Return the cuts that err least at some sizes or times, without those that the solver does not find in its time.

        Raises MissingResource for milliseconds that nothing predicts.
        """
        cost = self._milliseconds(inf) if by == "milliseconds" else costs.parameters(inf, self.sizes.parameters)
        most = self.whole.milliseconds if by == "milliseconds" else self.whole.parameters.total
        assert most is not None  # noqa: S101 (a cost in milliseconds exists only if the whole model has them)
        points: dict[Shape, TargetPoint] = {}
        reason: str | None = None
        for number in range(FRONT_POINTS):
            share = MILDEST - number * (MILDEST - DEEPEST) / (FRONT_POINTS - 1)
            try:
                limit = replace(cost, most=most * share)
                found = solve_within(self.space, [limit], self._solve(time.monotonic() + seconds / FRONT_POINTS))
            except TargetOutOfReach as problem:
                if problem.proven:
                    break  # deeper ones are out of reach, too
                continue
            except OutOfTime:
                continue
            point, reason = self._point(found)
            points.setdefault(point.shape, point)
        told: dict[str, Any] = {"whole": self.whole, "no_milliseconds": self.no_milliseconds, "no_score": reason}
        return TargetFront(by=by, points=tuple(points.values()), **told)

    def _solve(self, until: float) -> Solve:
        return partial(solver_for(self.space), until=until)

    @cached_property
    def space(self) -> SearchSpace:
        """Return what can be chosen. Raises UnsupportedShape."""
        search = self.search
        return space_of(self.tables, self.family, search.whole, search.prune, search.network, search.weights)

    @property
    def family(self) -> ArchitectureSpec:
        """Return the model's family. Raises InvalidSpec if it is of a package that is not installed here."""
        try:
            return ARCHITECTURE_SPECS[self.search.family]
        except KeyError:
            raise InvalidSpec(f"the family {self.search.family!r} is not installed here") from None

    @cached_property
    def sizes(self) -> costs.Sizes:
        """Return what counts the model's sizes. Raises InvalidSpec as `family`."""
        search = self.search
        return costs.sizes_of(search.parameters, self.family, search.network, search.quantize, self.tokens)

    @cached_property
    def times(self) -> ShapeTimes | None:
        """Return what predicts the times of shapes; None if nothing does for such a model in its scheme."""
        if self.table is None:
            return None
        found = ShapeTimes(self.table, self.family, self.search.network, self.tokens, self.batch)
        return None if found.milliseconds(self.search.whole, self.search.scheme) is None else found

    @property
    def no_milliseconds(self) -> str | None:
        """Return why no milliseconds are predicted; None if they are."""
        if self.table is None:
            return NO_TABLE
        scheme = self.search.scheme or "float32"
        return None if self.times is not None else f"The device table has no times of such a model in {scheme}."

    @cached_property
    def whole(self) -> WholeModel:
        """Return the figures of the model before the cut, in the scheme of the job's own cut."""
        shape, search = self.search.before, self.search
        parameters = self.sizes.parts(shape)
        size = costs.stored_bytes(inf, self.sizes.parts, search.quantize).of_shape(shape)
        operations = self.sizes.operations(shape) if self.sizes.operations is not None else None
        milliseconds = self.times.milliseconds(search.whole, search.scheme) if self.times is not None else None
        return WholeModel(parameters=parameters, bytes=round(size), flops=operations, milliseconds=milliseconds)

    def _limits(self, question: TargetQuestion) -> Sequence[Cost]:
        """Return the limits that targets set. Raises InvalidSpec and MissingResource."""
        search = self.search
        if question.target_flops is not None and self.sizes.operations is None:
            cause = f"the multiply-adds of the family {search.family} are not known"
            raise InvalidSpec(cause, param="target_flops", remedy="Name target_params, target_bytes or target_latency.")
        asked = search.prune.model_copy(update={key: getattr(question, key) for key in TARGET_KEYS})
        limits = self.sizes.limits(asked, search.before)
        if question.target_latency is not None:
            limits.append(self._milliseconds(self._most_milliseconds(question.target_latency)))
        return limits

    def _most_milliseconds(self, target: TargetLatency) -> float:
        if target.milliseconds is not None:
            return target.milliseconds
        # As the job's own speed-up: times as fast as the whole model in floating point.
        alone = self.times.milliseconds(self.search.whole, None) if self.times is not None else None
        return (alone or inf) / (target.speed_up or 1.0)

    def _milliseconds(self, most: float) -> Cost:
        found = costs.milliseconds(most, self.times, self.search.scheme) if self.times is not None else None
        if found is None:
            remedy = "Name a device table (GET /v1/device-tables), or another target."
            raise MissingResource(self.no_milliseconds or NO_TABLE, param="target_latency", remedy=remedy)
        return found

    def _point(self, found: Found) -> tuple[TargetPoint, str | None]:
        """Return what a cut comes to, and why no score is predicted."""
        search, picks = self.search, found.picks

        def spent(cost: Cost) -> float:
            return self.space.cost_of(cost, picks)

        parameters = self.sizes.parts(found.shape)
        if search.network is not None:  # which blocks go is known by the picks, not by the shape
            total = round(spent(costs.parameters(inf, self.sizes.parameters)))
            parameters = Parameters(total=total, embedding=0, other=total)
        count = self.sizes.operations
        operations = None if count is None else round(spent(costs.multiply_adds(inf, count)))
        milliseconds = spent(self._milliseconds(inf)) if self.times is not None else None
        score = predict_score(found.error, search, self.scores)
        point = TargetPoint(
            shape=found.shape,
            layers=found.layers,
            parameters=parameters,
            bytes=round(spent(costs.stored_bytes(inf, self.sizes.parts, search.quantize))),
            flops=operations,
            milliseconds=milliseconds,
            error=found.error,
            score=score if isinstance(score, PredictedScore) else None,
            proven=found.proven,
        )
        return point, score if isinstance(score, str) else None
