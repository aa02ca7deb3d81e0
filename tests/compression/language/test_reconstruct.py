"""Least squares after a cut of a language model: on rows with documents side by side its loss falls before any training."""

import itertools
import math

import pytest
import torch

from compression.language.rows import TextRows
from compression.language.sequences import Sequences
from compression.recipe import AxisRatios, Evaluate, Prepare, Prune, Recipe, Split, Train
from compression.reconstruct import drawn
from compression.stages.cut import cut
from compression.stages.prepare import prepare
from compression.stages.prune import prune
from compression.stages.scores import calibration_draw
from compression.state import State
from compression.tasks import of
from tests.compression.conftest import all_phases
from tests.compression.language.tiny import model, tokenizer
from tests.compression.test_language_job import texts

LENGTH, DRAWN = 48, 1000
RECIPE = Recipe(
    prepare=Prepare(epochs=4, rate=1e-2),
    quantize=None,
    prune=Prune(ratio=AxisRatios(ffn=0.75), multiple=8, calibration_rows=64, reconstruct=True),
    distill=None,
    train=Train(batch=4, max_length=LENGTH),
)


def learned(monkeypatch: pytest.MonkeyPatch) -> State:
    task, counts = of("causal-lm", (), Evaluate(window=LENGTH)), {"train": 160, "validation": 60, "test": 8}
    rows: dict[Split, TextRows] = {
        split: TextRows.of(texts(count, seed=len(split)), tokenizer(bos=True), LENGTH, task)  # type: ignore[misc]
        for split, count in counts.items()
    }
    network = model("llama", intermediate_size=64, initializer_range=0.05, tie_word_embeddings=True)
    state = State(RECIPE, rows, network, all_phases())  # type: ignore[arg-type]
    torch.manual_seed(0)
    list(prepare(state))
    monkeypatch.setattr("compression.stages.prune.drawn", lambda found: drawn(found, most=DRAWN))
    return state


def test_the_loss_on_rows_of_several_documents_falls_and_the_note_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    state, solved_on = learned(monkeypatch), []

    def watched(state_: State, whole: object, kept: object, calibration: TextRows | None = None) -> object:
        solved_on.append(calibration)
        return cut(state_, whole, kept, calibration)  # type: ignore[arg-type]

    monkeypatch.setattr("compression.stages.prune.cut", watched)
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
    assert len(rows) == len(drawn(calibration_draw(state.rows["train"], 64, RECIPE.train.seed), most=DRAWN)) < 64
    assert sum(map(len, rows.tokens)) <= DRAWN
    batches = list(itertools.islice(rows.by_length(8), 2))
    assert all(isinstance(batch, Sequences) for batch in batches)
    assert all(((batch.positions[:, 1:] == 0).sum(dim=1) > 0).any() for batch in batches)
