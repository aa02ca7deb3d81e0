"""Computes sensitivity curves: the validation score after a cut of each axis alone, without training, by given scores."""

import torch

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import apply_cut
from compression.evaluation.validate import validate
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.pruning_groups import width_of
from compression.models.architectures.shapes import shape_at
from compression.planning.sensitivity import RATIOS, ROWS, curve_axes
from compression.pruning.scores import ImportanceScores
from compression.schema.errors import UnsupportedShape
from compression.schema.recipe.prune import Prune
from compression.schema.report.sensitivity import Sensitivity


def curves(context: StageContext, scores: ImportanceScores, settings: Prune) -> dict[str, tuple[Sensitivity, ...]]:
    """Return each axis's curve, also of axes that the recipe does not prune: they may be the cheaper ones. Raises Pause. Each
    point is the whole model with one axis cut, scored on a sample of validation rows; shapes that two ratios share, once.
    """
    rows = context.rows["validation"]
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(context.recipe.train.seed))[:ROWS]
    some = rows.at(sorted(drawn.tolist()))
    model, family = context.model, adapter_of(context.model)
    shape, kind = family.shape_of(model.config), ARCHITECTURE_SPECS[model.config.model_type]
    network = family.network(model.config)
    whole = Sensitivity(
        ratio=0.0, taken=0.0, parameters=family.parameters_of(model).total, score=validate(model, some, context.parts).value
    )
    out: dict[str, tuple[Sensitivity, ...]] = {}
    for name, axes in curve_axes(kind, shape, settings.axes).items():
        points = {shape: whole}
        found = [whole]
        for ratio in RATIOS:
            context.check_pause()
            alone = Prune.model_validate({"ratio": ratio, "axes": axes, "multiple": settings.multiple})
            try:
                to = shape_at(kind, shape, alone, alone.ratios, network)
            except UnsupportedShape:
                break
            if to not in points:
                small = apply_cut(context, model, scores.choose(family, to))
                had, has = width_of(shape, name), width_of(to, name)
                points[to] = Sensitivity(
                    ratio=ratio,
                    taken=(had - has) / had,
                    parameters=family.parameters_of(small).total,
                    score=validate(small, some, context.parts).value,
                )
            found.append(points[to].model_copy(update={"ratio": ratio}))
        out[name] = tuple(found)
    return out
