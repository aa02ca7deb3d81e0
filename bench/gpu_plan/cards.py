"""What a job on Llama-3.1-8B needs of one card and of several that train together, by the forecast alone."""

from typing import Any

from bench.gpu_plan.shapes import SHAPES
from bench.gpu_plan.step import cut_of, facts_of_texts
from compression.planning.card_memory import card_memory
from compression.planning.cut_memory import cut_bytes
from compression.planning.estimator import PlannedJob
from compression.planning.memory import trainings
from compression.schema.recipe.presets import preset
from compression.schema.recipe.recipe import JobEvaluate

SHAPE, BATCH = "llama-3.1-8b", 8
CARD_BYTES = 80 * 2**30
"""Of an A100 or H100 with 80 GB."""
UNTUNED = {"epochs": 0}
CARDS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("eight cards", {"devices": 8}, {}),
    ("one card", {}, {}),
    ("one card, `prepare.epochs: 0`", {}, UNTUNED),
    ("one card, `optimizer: adamw-8bit`", {"optimizer": "adamw-8bit"}, {}),
    ("one card, `optimizer: adamw-8bit`, `prepare.epochs: 0`", {"optimizer": "adamw-8bit"}, UNTUNED),
)
"""What the recipe `language` changes: name → keys of `train`, and of `prepare`."""
HEAD = (
    "| {}, preset `language`, batches of {} | `card_bytes` | most of it | host beside it | fits 80 GiB |\n" + "| --- " * 5 + "|"
)


def job_of(train: dict[str, Any], prepare: dict[str, Any]) -> PlannedJob:
    """Return the job by the preset `language`, with other keys of two sections."""
    recipe = preset("language", "causal-lm")
    own = {"train": recipe.train.model_copy(update={"batch": BATCH, **train})}
    recipe = recipe.model_copy(update=own | {"prepare": recipe.prepare.model_copy(update=prepare)})
    published = SHAPES[SHAPE]
    return PlannedJob(
        published.counted(), published.counted(cut_of(published, recipe)), facts_of_texts(), recipe, JobEvaluate()
    )


def table() -> str:
    """Return a line for each of CARDS, in Markdown."""
    return "\n".join([HEAD.format(SHAPE, BATCH), *(_line(name, job_of(*changes)) for name, *changes in CARDS)])


def _line(name: str, job: PlannedJob) -> str:
    parts = {f"training `{one.name}`": one.total - one.copies for one in trainings(job, "cuda")}
    parts["the cut"] = cut_bytes(job, "cuda")
    (card, host), most = card_memory(job), max(parts, key=lambda part: parts[part])
    return f"| {name} | {card / 1e9:.0f} GB | {most} | {host / 1e9:.0f} GB | {'yes' if card <= CARD_BYTES else 'no'} |"
