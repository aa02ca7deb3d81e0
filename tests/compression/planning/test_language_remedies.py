"""What is offered to a language model that misses its targets: stages as they suit one, and no training that memory forbids."""

from pathlib import Path
from typing import Any

import pytest

from compression.engine.on_disk import backend, shipping_on_disk
from compression.planning.on_disk import untrained
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.presets import preset
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Targets
from compression.schema.report.measurements import Row, Score
from tests.client.figures import row
from tests.compression.engine.on_disk.test_backend import done, model_into, spec_of
from tests.support.verdict_rows import offered, perplexity_of, scored

LANGUAGE = preset("language", "causal-lm")
UNTRAINED = Recipe(prepare=Prepare(epochs=0), quantize=Quantize(), prune=None, distill=None)
CUT = UNTRAINED.model_copy(update={"prune": Prune(ratio=0.3)})


def perplexity(value: float) -> Score:
    return perplexity_of(value, 0.01, rows=1000, chance=400.0)


def table(*scores: float) -> list[Row]:
    rows = [
        row("baseline", 20_000_000, 80_000_000, 16.0, 0.8),
        row("quantized", 20_000_000, 20_000_000, 8.0, 0.8),
        row("pruned", 13_000_000, 14_000_000, 6.4, 0.8),
    ]
    before = perplexity(scores[0])
    return [scored(own, perplexity(value), rows[0], before) for own, value in zip(rows, scores, strict=False)]


def test_a_stage_that_is_left_out_is_offered_as_the_preset_for_language_models_has_it() -> None:
    found = offered(LANGUAGE.model_copy(update={"distill": None}), *table(20.0, 20.1, 30.0), task="causal-lm")
    assert list(found) == ["recipe.distill"]
    assert Distill.model_validate(found["recipe.distill"].proposed) == LANGUAGE.distill
    uncut = LANGUAGE.model_copy(update={"prune": None, "distill": None})
    found = offered(uncut, *table(20.0, 20.01), task="causal-lm")
    assert list(found) == ["recipe.prune"]
    assert Prune.model_validate(found["recipe.prune"].proposed) == LANGUAGE.prune
    assert "parameter reduction is 0.000" in found["recipe.prune"].why
    # An encoder is offered what it was.
    found = offered(uncut, *table(20.0, 20.01), task="text-classification")
    assert found["recipe.prune"].proposed == {"ratio": 0.22}


@pytest.mark.parametrize("recipe", [UNTRAINED, CUT])
@pytest.mark.parametrize("scores", [(20.0, 40.0, 60.0), (20.0, 20.01, 20.02), (399.0, 399.5, 399.6)])
@pytest.mark.parametrize("task", ["causal-lm", "text-classification"])
def test_what_memory_does_not_hold_is_offered_nothing_that_trains(recipe: Recipe, scores: Any, task: str) -> None:
    rows = table(*scores)[: 2 if recipe.prune is None else 3]
    for targets in (Targets(), Targets(parameter_reduction=0.6, speed_up=8)):
        everything = offered(recipe, *rows, targets=targets, task=task)
        found = offered(recipe, *rows, targets=targets, task=task, held="on disk")
        assert found.keys() <= everything.keys()
        for key, remedy in found.items():
            changed = recipe.model_dump(mode="json")
            place, _, last = key.removeprefix("recipe.").rpartition(".")
            (changed[place] if place else changed)[last] = remedy.proposed
            assert untrained(Recipe.model_validate(changed)), key
        training = {"recipe.distill", "recipe.quantize.qat", "recipe.prepare.epochs"}
        assert not training & found.keys()
        if targets == Targets() and scores[1] == 40.0:
            assert training & everything.keys()


def test_a_job_from_file_to_file_offers_a_cut_and_no_lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "whole_bytes", lambda parameters: 1 << 62)
    monkeypatch.setattr(shipping_on_disk, "opened_bytes", lambda file, table: 1 << 62)
    model = model_into(tmp_path / "model", "llama", "ForCausalLM")
    targets = {"parameter_reduction": 0.3, "size_reduction": 0.1, "speed_up": 1.2, "retention": 1.0}
    last = done(spec_of(tmp_path, model, task="causal-lm", memory_bytes=8 << 30, targets=targets), tmp_path).rows[-1]
    assert {"parameter_reduction"} <= {*last.verdict.missed}
    (remedy,) = last.verdict.remedies
    assert remedy.key == "recipe.prune"
    assert Prune.model_validate(remedy.proposed) == Prune.model_validate({"ratio": {"ffn": 0.55}, "axes": ["ffn"]})
