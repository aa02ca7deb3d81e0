"""The stage that cuts, with real numbers: scores of units, the cut, and what is left solved by least squares on a CPU."""

import copy
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from bench.gpu_plan.step import Case
from compression.engine.context import StageContext
from compression.engine.job_models import JobModels, ModelSource
from compression.engine.stages.registry import job_progress, run_stage
from compression.modalities.registry import task_of
from compression.modalities.text.causal_lm.documents import TokenizedDocuments
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.modalities.text.causal_lm.packing import Packed
from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.schema.stages import PRUNED

JUDGED = 4
"""Rows of validation: each pass over them takes a batch at most, whatever their number."""


def cut(case: Case, model: PreTrainedModel) -> PreTrainedModel:
    """Return a model as a job's stage `pruned` cuts it, with simulated integers and the teacher beside it."""
    recipe, task = case.recipe, task_of("causal-lm")
    teacher = copy.deepcopy(model).requires_grad_(False)
    assert recipe.quantize is not None, "the preset quantizes"
    insert_fake_quantization(model, simulation=Simulation.of(recipe.quantize))
    rows: dict[Any, Any] = {split: made_rows(case, count) for split, count in (("train", case.batch), ("validation", JUDGED))}
    family, unread = adapter_of(model), cast(Any, None)
    own = ModelSource("models.base", Path("unread"), unread, family.shape_of(model.config), case.length, model.config)
    tracker = job_progress(recipe, {"": {"train": case.batch, "validation": JUDGED, "test": JUDGED}})
    context = StageContext(recipe, rows, model, tracker, JobModels(own, unread, task), teacher=teacher)
    for _ in run_stage(context, PRUNED):
        pass
    assert any("least squares" in note for note in context.notes), "the preset solves what a cut leaves"
    return context.model


def made_rows(case: Case, count: int) -> PackedDataset:
    """Return rows of drawn tokens, one document each."""
    draw = torch.Generator().manual_seed(count)
    each = torch.full((count,), case.length + 1)  # the last token is a target alone
    ids = torch.randint(case.published.config["vocab_size"], (int(each.sum()),), generator=draw, dtype=torch.int32)
    documents = TokenizedDocuments(ids, each.cumsum(0), 1, torch.zeros(count, dtype=torch.long), 4 * each)
    packed = Packed(documents, case.length)
    tokens, scored = [packed.ids_of(row).tolist() for row in range(count)], sum(packed.asked)
    whole: dict[str, Any] = {"length": case.length, "whole": scored, "left_out": 0, "bytes": 4 * len(ids)}
    return PackedDataset(tokens, torch.zeros(count), 0, task_of("causal-lm"), packed=packed, **whole)
