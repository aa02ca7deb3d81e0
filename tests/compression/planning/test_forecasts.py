"""Forecasts stay as they are, to the byte and the tenth of a minute, until somebody says otherwise."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compression.planning.preflight import preflight
from compression.schema.recipe.presets import PRESETS
from compression.schema.recipe.recipe import JobEvaluate, Recipe
from compression.schema.report.measurements import Shape
from compression.schema.validation import DataFacts
from tests.compression.planning import test_planning as test_catalog
from tests.support.facts import SMOLLM2, V2_LITE, decoder_facts

GOLDEN = Path(__file__).parents[2] / "golden" / "forecasts.txt"
RECIPES: dict[str, dict[str, Any]] = {
    "all in floats": {"quantize": None, "prune": None, "distill": None},
    "integers alone": {"prepare": {"epochs": 0}, "quantize": {"scheme": "weight-only-int4"}, "prune": None, "distill": None},
    "file to file": {"prepare": {"epochs": 0}, "prune": {"ratio": {"ffn": 0.3}}, "distill": None},
    "solved": {"prepare": {"epochs": 0}, "prune": {"ratio": {"ffn": 0.3}, "reconstruct": True}, "distill": None},
    "steps": {"prune": {"ratio": {"ffn": 0.5}, "steps": 3, "recovery": {"epochs": 4, "by": "teacher"}}},
    "qat and curves": {"quantize": {"qat": {}}, "prune": {"axes": ["ffn"], "sensitivity": True}, "train": {"max_steps": 400}},
    "latency": {"prune": {"axes": ["ffn", "layers"], "target_latency": {"speed_up": 2}}, "train": {"max_minutes": 90}},
    "insides": {"distill": {"attention": 1.0, "embedding": 1.0, "spill_gib": 40}, "train": {"checkpointing": "on", "batch": 8}},
    "teachers": {"distill": {"teachers": {"seeds": 3}, "general": {}, "augment": {"synonyms": {}, "splices": 1}}},
    "one teacher": {"distill": {"kept": 64, "teachers": {"precision": "float32"}}},
}


LARGE = Shape(layers=80, hidden=8192, heads=64, ffn=28672, vocabulary=128256, groups=8, head_size=128)
MODELS = {
    "bert": test_catalog.MODEL,
    "llama": decoder_facts("llama", SMOLLM2),
    "llama of 70 G": decoder_facts("llama", LARGE, LARGE.vocabulary, dtype="Q4_1"),
    "deepseek": decoder_facts("deepseek_v2", V2_LITE, V2_LITE.vocabulary),
}


def of_task(task: str) -> DataFacts:
    rows = {"train": 40_000, "test": 3000, "unlabelled": 200_000}
    changes: dict[str, Any] = {"task": task, "rows": rows, "unlabelled_words": 9.5}
    if task == "causal-lm":
        changes |= {"labels": (), "label_counts": {"train": {}}, "characters": {"train": 40_000_000, "test": 3_000_000}}
    return test_catalog.DATA.model_copy(update=changes)


def forecasts() -> Iterator[str]:
    presets = {name: recipe for name, (recipe, _) in PRESETS.items()}
    for name, model in MODELS.items():
        data = of_task("text-classification" if model is test_catalog.MODEL else "causal-lm")
        for asked, recipe in (presets | {key: Recipe.model_validate(value) for key, value in RECIPES.items()}).items():
            distill = recipe.distill
            if distill is not None and (distill.kept if data.labels else distill.general or distill.teachers.seeds > 1):
                continue  # of the other tasks
            found = preflight(model, data, recipe, JobEvaluate()).estimate
            sizes = f"{found.memory_bytes:,} bytes of memory, {found.disk_bytes:,} of disk"
            yield f"{name}, {asked}: {sizes}, {found.minutes} minutes"


def test_forecasts_are_those_on_record() -> None:
    assert list(forecasts()) == GOLDEN.read_text(encoding="utf-8").splitlines()
