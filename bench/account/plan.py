"""The preflight of a shape of which there are no weights, as the service makes it, and minutes by data sheets of cards."""

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as ARCHITECTURES

from bench.account.published import TARGETS
from bench.glue.cells import AUGMENT
from bench.glue.datasets import Set
from bench.gpu_plan.shapes import SHAPES, Published
from compression.models.adapters.registry import adapter_of
from compression.planning.preflight import preflight
from compression.planning.rates import REFERENCE, Rates
from compression.planning.work import Work, time_work
from compression.schema.described_devices import DescribedDevice, described_devices
from compression.schema.errors import CompressionError
from compression.schema.recipe.base import Task
from compression.schema.recipe.presets import PUBLISHED, preset
from compression.schema.recipe.prune import AxisRatios
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.validation import DataFacts, ModelFacts

CARDS = ("a100-80gb", "h100-sxm")
HOST_CORES = 12
"""Cores beside a card, where artifacts are made and scored: those of a host that clouds lend with one A100."""
CUT = {"ratio": AxisRatios(ffn=0.5), "axes": ("ffn",)}
PREPARE_RATE, DISTILL_RATE = 3e-5, 1e-4
LENGTH = 64
"""Tokens of the rows that are timed."""


def recipe_of(name: str, task: Task, *, seed: int = 0) -> Recipe:
    """Return a preset for a decoder that classifies, cut by the account's share of its parameters.

    Its feed-forward units go, as in the preset `language`, and rates are those of bench/classifier: presets' are of encoders.
    """
    found = preset(name, task)
    assert found.prune is not None, f"{name} prunes"
    assert found.distill is not None, f"{name} distils"
    cut = {**CUT, **PUBLISHED, "reconstruct": True}
    distill: dict[str, Any] = {"rate": DISTILL_RATE}
    if found.distill.augment is not None:
        distill["augment"] = AUGMENT
    changed = {
        "prepare": found.prepare.model_copy(update={"rate": PREPARE_RATE, "patience": 2}),
        "distill": found.distill.model_copy(update=distill),
        "prune": type(found.prune).model_validate({**found.prune.model_dump(exclude={"ratio", "axes"}), **cut}),
        "train": found.train.model_copy(update={"batch": 16, "seed": seed}),
    }
    return found.model_copy(update=changed)


def facts_of(shape: Published) -> ModelFacts:
    """Return what the service would know of a checkpoint in bfloat16 of a shape."""
    counted, stock = shape.counted(), shape.stock
    return ModelFacts(
        family=shape.kind,
        architecture=ARCHITECTURES[shape.kind],
        shape=counted.shape,
        max_positions=stock.max_position_embeddings,
        parameters=counted.parameters,
        labels=None,
        dtype="bfloat16",
        bytes=2 * counted.parameters.total,
        biases=adapter_of(stock).biases(stock),
    )


def evaluate_of(chosen: Set) -> Evaluate:
    """Return how a set's jobs are evaluated."""
    return chosen.evaluate.model_copy(update={"length": LENGTH})


def plan(shape: str, chosen: Set, data: DataFacts, recipe: str) -> dict[str, Any]:
    """Return a shape's preflight as a record: what it expects, and minutes by machine and stage; or why it refuses.

    data: of the set. recipe: a preset's name.
    """
    asked = {"shape": shape, "set": chosen.name, "recipe": recipe, "rows": data.rows, "data": data.model_dump(mode="json")}
    whole, wanted = facts_of(SHAPES[shape]), recipe_of(recipe, chosen.task)
    try:
        found = preflight(whole, data, wanted, evaluate_of(chosen), targets=TARGETS)
    except CompressionError as problem:
        return {**asked, "refused": problem.as_dict()}
    times = {name: minutes(found.estimate.work, rates) for name, rates in machines().items()}
    return {**asked, "preflight": found.model_dump(mode="json"), "minutes": times}


def machines() -> dict[str, Rates]:
    """Return the rates of the reference machine, and of cards as their data sheets state their products."""
    return {"two cores": REFERENCE} | {name: by_data_sheet(described_devices()[name]) for name in CARDS}


def by_data_sheet(device: DescribedDevice) -> Rates:
    """Return the rates that a worker with a card would have if its probe found the data sheet's figures. None was measured."""
    stated = {"float32": device.fp32_flops, "tf32": device.tf32_flops, "bfloat16": device.half_flops, "int8": device.int8_ops}
    found = Rates.measured(stated | {"bytes": device.bandwidth}, kind="cuda", cores=HOST_CORES)
    assert found is not None, "a described card states its products and its bandwidth"
    return found


def minutes(work: tuple[Work, ...], rates: Rates) -> dict[str, float]:
    """Return the minutes of a job's work by stage, of all of it, and of these its training."""
    found = time_work(work, rates)
    stages = {stage: round(seconds / 60, 1) for stage, seconds in found.stages.items()}
    return {**stages, "total": round(found.total / 60, 1), "training": round(found.training / 60, 1)}
