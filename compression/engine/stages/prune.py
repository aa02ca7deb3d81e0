"""Prunes tokens, layers, channels, heads and feed-forward units, in one or more steps with recovery."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from compression.engine.checkpoints import folder_digests
from compression.engine.context import StageContext
from compression.engine.stages import finalists, size_rounds
from compression.engine.stages.apply_cut import apply_cut, units_after, updated_cut
from compression.engine.stages.cut_facts import each_layer, taken, with_errors
from compression.engine.stages.error_tables import error_tables
from compression.engine.stages.latency_target import ratio_for_latency
from compression.engine.stages.layer_times import layer_times
from compression.engine.stages.recover import phases as trainings_of, precompute, recover
from compression.engine.stages.registry import ExpectedWork, StageRunner
from compression.engine.stages.sensitivity_curves import curves
from compression.engine.stages.short_distillation import short_phases
from compression.engine.stages.solved_widths import SolvedWidths, solved_widths
from compression.engine.stages.vocabulary import reduce_vocabulary
from compression.evaluation.validate import Validation
from compression.modalities.modality import InputPruner
from compression.modalities.sampling import first_tokens, shuffled_rows
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures import shapes
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.estimator import PROBES
from compression.planning.search.costs import Sizes, sizes_of
from compression.planning.table_work import search_seconds
from compression.pruning.prune_progress import PruneProgress
from compression.pruning.scores import ImportanceScores, score_units
from compression.quantization.fake_quantize import input_ranges, set_input_ranges
from compression.quantization.precision import gradient_precision
from compression.quantization.smoothquant import undone
from compression.schema.events import Event
from compression.schema.job_spec import Spec
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Shape
from compression.schema.solved_search import ParameterFacts

NOT_SOLVED = (
    "prune.reconstruct was not done: the layers that read what was cut have weights that least squares updated already, as the "
    "error tables of prune.search assume."
)


def prune(context: StageContext) -> Iterator[Event]:
    """In each step, choose units by importance, slice a smaller stock model and recover. Raises UnsupportedShape.

    Scores are computed once, on the whole model, and every cut chooses by the scores of the remaining units. So an attempt that
    resumes in the middle of a step repeats the earlier cuts without training.
    """
    settings = context.recipe.prune
    assert settings is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    family, kind = adapter_of(context.model), ARCHITECTURE_SPECS[context.model.config.model_type]
    before, names = family.shape_of(context.model.config), family.layer_kinds(context.model.config)
    yield from context.tracker.emit_boundary("cut", done=False)
    whole = context.validate()
    trainings = trainings_of(settings)
    going_on, saved = _saved(context, [phase for phase, _ in trainings])
    scores = saved.scores if saved is not None else (yield from _scored(context, settings))
    if settings.sensitivity:
        context.result.sensitivity = curves(context, scores, settings)
    tables = (yield from error_tables(context)) if settings.search is not None and saved is None else None
    reduce_vocabulary(context)
    start = family.shape_of(context.model.config)
    if tables is not None:
        choose = solved_widths if context.recipe.auto is None else size_rounds.size_rounds
        chosen = yield from choose(context, settings, scores, tables, before, parameter_facts(context.model))
    else:
        chosen = yield from _solved(context, settings, before, scores, saved)
    result, scores, ratios, after, errors = context.result, chosen.scores, chosen.ratios, chosen.shape, chosen.errors
    # Of a network no ratios may lead to its shape: what a target leaves over is filled up.
    progress = PruneProgress(scores, tuple(ratios.values()), {}, after, errors, result.search, result.tables)
    targets = shapes.steps_to(kind, start, settings, ratios, after, family.network(context.model.config))
    for step, ((phase, epochs), to) in enumerate(zip(trainings, targets, strict=True), 1):
        plan = scores.choose(family, to)
        if step > max(going_on, 1):
            whole = context.validate()
        uncut = context.model
        made = apply_cut if tables is None else updated_cut
        context.model, context.result.smoothed = made(context, uncut, plan), {}
        if step < settings.steps:
            scores = scores.after(plan)
        if step < going_on:
            continue  # the save already contains its training
        if step == going_on and saved is not None:
            set_input_ranges(context.model, dict(saved.ranges))
        now = context.validate()
        which = f"Cut {step} of {settings.steps} alone" if settings.steps > 1 else "The cut alone"
        context.notes.append(f"{which}: validation {context.task.metric} {whole} → {now}, before any training.")
        if settings.reconstructs and step > going_on:
            _reconstruct(context, settings, uncut, plan, now)
        elif settings.reconstruct and not settings.reconstructs:
            context.notes.append(NOT_SOLVED)
        del uncut  # recovery needs its memory
        context.layer_inputs = None
        yield from context.tracker.emit_boundary("cut", done=True)
        if settings.recovery is not None and epochs:
            beside = replace(progress, ranges=input_ranges(context.model)).tensors()
            yield from recover(context, settings.recovery, step, phase, epochs, beside)
    result.pruning = with_errors(taken(before, after, settings, ratios), start, after, errors, plan.layers)
    if "layers" in settings.axes and names:
        result.pruning["layers"]["each"] = each_layer(names, progress.scores, plan)
    if chosen.points:
        result.points, result.units = chosen.points, units_after(scores, plan)


def phases(expected: ExpectedWork) -> Iterator[tuple[str, float]]:
    """Yield the cut, including a latency target's measurements, and each step's recovery."""
    settings = expected.recipe.prune
    assert settings is not None, "the job asks for stages that the recipe has"  # noqa: S101
    measuring = PROBES * expected.shipping / 2 if settings.target_latency is not None else 0.0
    yield "cut", 2.0 + measuring + (expected.train + search_seconds(settings) if settings.search is not None else 0.0)
    taught, varies = expected.recipe.recovers_by_teacher, expected.recipe.train.varies
    row = expected.train / max(expected.rows["train"], 1)
    if (few := settings.finalists) is not None:
        yield from short_phases(finalists.phase_of, few.cuts, few.steps, row)
    if (auto := expected.recipe.auto) is not None:
        yield from short_phases(size_rounds.phase_of, auto.rounds, auto.steps, row)
    for name, epochs in trainings_of(settings):
        if taught and epochs:
            yield precompute(name), 0.0 if varies else expected.train / 3
        yield name, epochs * expected.train * (0.7 + (1 / 3 if taught and varies else 0.0))


def inputs(spec: Spec, base: Path) -> dict[str, Any]:
    """Return the distillation settings that this stage reads, which comes before distillation: short distillations all of them,
    a recovery by the teacher's outputs some.
    """
    prune, distill = spec.recipe.prune, spec.recipe.distill
    shortly = spec.recipe.auto is not None or (prune is not None and prune.finalists is not None)
    if shortly and distill is not None:
        unread = {"epochs", "general", "augment"} if spec.recipe.auto is None else set[str]()
        asked_of = [folder_digests(base, folder) for folder in spec.teachers]
        return {"distilled": distill.model_dump(mode="json", exclude=unread), "asked": asked_of}
    if not spec.recipe.recovers_by_teacher:
        return {}
    asked = spec.recipe.distill or Distill()
    spill = 0.0 if asked.spill_gib == "auto" else asked.spill_gib  # the default of before: its checkpoints stay valid
    return {"answers": {"temperature": asked.temperature, "precision": asked.teachers.precision, "spill_gib": spill}}


STAGE = StageRunner(prune, phases, inputs, cuts=True)


def _reconstruct(context: StageContext, settings: Prune, uncut: PreTrainedModel, plan: PruningPlan, before: Validation) -> None:
    """Apply the cut again and solve the remaining weights on calibration rows. before: validation after the cut alone."""
    rows = first_tokens(shuffled_rows(context.rows["train"], settings.calibration_rows, context.recipe.train.seed))
    context.model = uncut  # the first cut goes before the second is built
    context.model = apply_cut(context, uncut, plan, rows)
    now = context.validate()
    change = f"validation {context.task.metric} {before} → {now}"
    context.notes.append(f"What the cut left, solved by least squares on {len(rows)} rows: {change}, still without training.")


def aimed(model: PreTrainedModel, recipe: Recipe, pruner: InputPruner | None, length: int) -> Shape:
    """Return the shape after pruning, before it changes: for a target latency the deepest, without a cut the model's own.
    length: of a row of text, by which operations are counted.

    Raises UnsupportedShape.
    """
    settings = recipe.prune
    if settings is None:
        return adapter_of(model).shape_of(model.config)
    kept = len(pruner.kept) if pruner is not None else None
    shape = plan_shape(model, settings, model_sizes(model, recipe.quantize, length).counts, vocabulary=kept)[1]
    kind, network = ARCHITECTURE_SPECS[model.config.model_type], adapter_of(model).network(model.config)
    return shapes.deepest_shape(kind, shape, settings, network) if settings.target_latency is not None else shape


def plan_shape(
    model: PreTrainedModel,
    settings: Prune,
    counts: shapes.Counts = shapes.NO_COUNTS,
    before: Shape | None = None,
    vocabulary: int | None = None,
) -> tuple[shapes.Ratios, Shape]:
    """Return the ratios and the shape that the recipe gives for a model. Raises UnsupportedShape. counts: of the model's sizes,
    for targets. before: the shape to cut, if not the model's own. vocabulary: the number of tokens that stay, if known.
    """
    family, kind = adapter_of(model), ARCHITECTURE_SPECS[model.config.model_type]
    shape, network = before or family.shape_of(model.config), family.network(model.config)
    return shapes.planned(kind, shape, settings, counts=counts, vocabulary=vocabulary, network=network)


def model_sizes(model: PreTrainedModel, quantize: Quantize | None, length: int) -> Sizes:
    """Return what counts, by shape, the sizes of models like this one, head included. length: of a row of text, in tokens."""
    network = adapter_of(model).network(model.config)
    return sizes_of(parameter_facts(model), ARCHITECTURE_SPECS[model.config.model_type], network, quantize, length)


def parameter_facts(model: PreTrainedModel) -> ParameterFacts:
    """Return what the parameters of models like this one are counted from."""
    family = adapter_of(model)
    if family.network(model.config) is not None:
        return ParameterFacts()
    head = family.head(model)
    outputs = head.out.out_features if head.out is not None else None
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    if head.out is not None and any(head.out.weight is table.weight for table in tables):
        outputs = None  # a tied output layer is the embedding table
    return ParameterFacts(
        rows=shapes.table_rows(family.parameters_of(model), family.shape_of(model.config)),
        outputs=outputs,
        dense=head.dense is not None,
        biases=family.biases(model.config),
        biased=head.out is not None and head.out.bias is not None,
    )


def unit_scores(context: StageContext, settings: Prune) -> ImportanceScores:
    """Score the units of the context's model on calibration rows, and its layers if they may go."""
    layers = "layers" in settings.axes or settings.sensitivity
    rows, seed = context.rows["train"], context.recipe.train.seed
    # Taylor scores need a backward pass; its gradients have the recipe's precision, as in training.
    with undone(context.model, context.result.smoothed), gradient_precision(context.recipe.train.precision):
        return score_units(context.model, settings, rows, seed, context.parts, layers=layers)


def _scored(context: StageContext, settings: Prune) -> Generator[Event, None, ImportanceScores]:
    """Return the scores, with the times of the layers if the recipe takes out some that take different times."""
    scores = unit_scores(context, settings)
    if "layers" not in settings.axes or scores.influence is None or settings.search is not None:
        return scores  # error tables choose the layers of a search
    return replace(scores, milliseconds=(yield from layer_times(context)))


def _solved(
    context: StageContext, settings: Prune, before: Shape, scores: ImportanceScores, saved: PruneProgress | None
) -> Generator[Event, None, SolvedWidths]:
    """Return the recipe's ratios and shape, with its target solved, or what an earlier attempt has saved of them, its search
    included. before: the shape with the whole vocabulary.
    """
    if saved is not None:
        context.result.search, context.result.tables = saved.search, saved.tables
    ratios, shape = yield from _ratios(context, settings, before, scores, saved)
    return SolvedWidths(shape, scores, ratios, saved.errors if saved is not None else {})


def _ratios(
    context: StageContext, settings: Prune, before: Shape, scores: ImportanceScores, saved: PruneProgress | None
) -> Generator[Event, None, tuple[shapes.Ratios, Shape]]:
    """Return the ratios and the shape of `_solved`."""
    config = context.model.config
    here = adapter_of(context.model).shape_of(config)
    if saved is not None and saved.shape is not None:
        return dict(zip(settings.ratios, saved.ratios, strict=False)), saved.shape
    if saved is not None:
        # A save of an earlier version lacks the ratios of axes that were added since, at the end.
        ratios: shapes.Ratios = {**settings.ratios, **dict(zip(settings.ratios, saved.ratios, strict=False))}
        kind, network = ARCHITECTURE_SPECS[config.model_type], adapter_of(context.model).network(config)
        return ratios, shapes.shape_at(kind, here, settings, ratios, network)
    if settings.target_latency is not None:
        return (yield from ratio_for_latency(context, settings, settings.target_latency, scores))
    sizes = model_sizes(context.model, context.recipe.quantize, context.length)
    return plan_shape(context.model, settings, sizes.counts, before, here.vocabulary)


def _saved(context: StageContext, trainings: list[str]) -> tuple[int, PruneProgress | None]:
    """Return the step, from 1, and the progress that the earlier attempt saved; 0 and None if it saved in no step."""
    for step, phase in enumerate(trainings, 1):
        if (tensors := context.saved(phase)) is not None:
            saved = PruneProgress.of_tensors(tensors)
            # A save of an earlier version may lack some scores: they are computed again, on the same model.
            needed = adapter_of(context.model).observed(context.model).keys()
            return step, saved if saved is not None and needed <= saved.scores.units.keys() else None
    return 0, None
