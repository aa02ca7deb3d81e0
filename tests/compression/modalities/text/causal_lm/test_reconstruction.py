"""Least squares after a cut of a language model: on rows with documents side by side its loss falls before any training."""

import itertools
import math

import pytest
import torch

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import apply_cut
from compression.modalities.registry import task_of
from compression.modalities.sampling import first_tokens, shuffled_rows
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.schema.recipe.base import Split
from compression.schema.recipe.prune import AxisRatios, Prune
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe, Train
from tests.compression.engine.test_language_job import texts
from tests.support.job_models import alone
from tests.support.stage_runs import prepare, prune
from tests.support.tiny_bert import all_phases
from tests.support.tiny_language import model, tokenizer

LENGTH, DRAWN = 48, 1000
RECIPE = Recipe(
    prepare=Prepare(epochs=4, rate=1e-2),
    quantize=None,
    prune=Prune(ratio=AxisRatios(ffn=0.75), multiple=8, calibration_rows=64, reconstruct=True),
    distill=None,
    train=Train(batch=4, max_length=LENGTH),
)


def learned(monkeypatch: pytest.MonkeyPatch) -> StageContext:
    task, counts = task_of("causal-lm", (), Evaluate(window=LENGTH)), {"train": 160, "validation": 60, "test": 8}
    rows: dict[Split, PackedDataset] = {
        split: PackedDataset.of(texts(count, seed=len(split)), tokenizer(bos=True), LENGTH, task)  # type: ignore[misc]
        for split, count in counts.items()
    }
    network = model("llama", intermediate_size=64, initializer_range=0.05, tie_word_embeddings=True)
    state = StageContext(RECIPE, rows, network, all_phases(), alone(network, rows))  # type: ignore[arg-type]
    torch.manual_seed(0)
    list(prepare(state))
    monkeypatch.setattr("compression.engine.stages.prune.first_tokens", lambda found: first_tokens(found, most=DRAWN))
    return state


def test_the_loss_on_rows_of_several_documents_falls_and_the_note_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    state, solved_on = learned(monkeypatch), []

    def watched(state_: StageContext, whole: object, kept: object, calibration: PackedDataset | None = None) -> object:
        solved_on.append(calibration)
        return apply_cut(state_, whole, kept, calibration)  # type: ignore[arg-type]

    monkeypatch.setattr("compression.engine.stages.prune.apply_cut", watched)
    whole = state.validate().value
    list(prune(state))
    alone, solved = state.notes[-2:]
    before, after = map(float, solved.partition("validation perplexity ")[2].partition(",")[0].split(" → "))
    assert f"→ {before:.4f}, before any training" in alone
    assert f"{state.validate()}" == f"{after:.4f}"
    assert math.log(after / whole) < 0.5 * math.log(before / whole)  # nats of the loss
    nothing, rows = solved_on
    assert nothing is None
    assert rows is not None
    assert solved.startswith(f"What the cut left, solved by least squares on {len(rows)} rows: ")
    assert len(rows) == len(first_tokens(shuffled_rows(state.rows["train"], 64, RECIPE.train.seed), most=DRAWN)) < 64
    assert sum(map(len, rows.tokens)) <= DRAWN
    batches = list(itertools.islice(rows.by_length(8), 2))
    assert all(isinstance(batch, PackedBatch) for batch in batches)
    assert all(((batch.positions[:, 1:] == 0).sum(dim=1) > 0).any() for batch in batches)
