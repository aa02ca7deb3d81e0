"""Parts of the method on decoders, stage by stage: the schedule of integers, the general phase, several teachers."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from compression.distillation import teacher as caches
from compression.engine.context import StageContext
from compression.engine.stages.quantize import depths
from compression.models.adapters.registry import adapter_of
from compression.quantization.dynamic_int8 import FakeQuantEmbedding, FakeQuantLinear
from compression.schema.recipe.distill import Distill, General
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from tests.support import decoder_models, placement, tiny_bert
from tests.support.stage_runs import distill, prepare, quantize

CPU = torch.device("cpu")
WHOLE: dict[str, Any] = {"prepare": Prepare(epochs=2, rate=1e-2), "quantize": None, "prune": None, "distill": None}


def language(**settings: Any) -> StageContext:
    """A language model's job."""
    train = Train(batch=2, max_length=placement.LENGTH)
    return placement.decoder(CPU, Recipe(**{**WHOLE, "train": train, **settings}), tie_word_embeddings=True)


def classifier(**settings: Any) -> StageContext:
    """The job of a decoder that classifies."""
    config = decoder_models.tiny_config("llama", vocab_size=len(tiny_bert.WORDS), pad_token_id=0, initializer_range=0.1)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    state = tiny_bert.state_of(model, Recipe(**{**WHOLE, "train": Train(batch=16), **settings}))
    state.rows = {split: rows.at(list(range(min(len(rows), 48)))) for split, rows in state.rows.items()}
    return state


def simulated(model: nn.Module) -> set[int]:
    depth = adapter_of(model).quantization_group  # type: ignore[arg-type]
    kinds = FakeQuantLinear, FakeQuantEmbedding
    return {depth(name) for name, module in model.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("made", [language, classifier])
def test_a_tuned_decoder_goes_through_the_published_schedule(made: Any) -> None:
    """5 epochs in full precision, 10 with ever more depths, 5 with all: by default, from the weights that preparation left."""
    state = made(quantize=Quantize(calibration_rows=16, qat=Qat(rate=1e-3)))
    list(prepare(state))
    tuned = copy.deepcopy(state.model.state_dict())
    base, seen = state.model.base_model, list[set[int]]()
    base.register_forward_pre_hook(lambda *_: seen.append(simulated(state.model)) if torch.is_grad_enabled() else None)
    scores = [event.score for event in quantize(state) if getattr(event, "score", None) is not None]
    every, steps = set(depths(state.model)), len(seen) // 20
    assert (len(scores), len(seen)) == (20, 20 * steps)
    assert steps > 1
    epochs = [seen[start : start + steps] for start in range(0, len(seen), steps)]
    assert all(epoch == epoch[:1] * steps for epoch in epochs)
    counts = [len(epoch[0]) for epoch in epochs]
    assert counts[:5] == [0] * 5
    assert counts[5:15] == sorted(counts[5:15])
    assert 0 < counts[5] < len(every)
    assert counts[15:] == [len(every)] * 5
    assert simulated(state.model) == every
    assert any(note.startswith("Quantization-aware training") for note in state.notes)
    assert any("each depth quantized alone" in note for note in state.notes)
    assert any(not value.equal(tuned[name]) for name, value in state.model.state_dict().items())


def following(state: StageContext) -> PreTrainedModel:
    """Replace the state's model by one that has learned nothing, and return its teacher."""
    list(prepare(state))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in state.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.05)
    assert state.teacher is not None
    return state.teacher


@pytest.mark.parametrize("made", [language, classifier])
def test_the_general_phase_compares_states_and_relations(made: Any) -> None:
    general = General(epochs=8, rate=5e-3)
    state = made(distill=Distill(epochs=1, rate=1e-3, hidden=1.0, attention=1.0, embedding=1.0, general=general))
    following(state)
    events = list(distill(state))
    (note,) = [note for note in state.notes if note.startswith("General phase on train's")]
    before, after = map(float, re.findall(r"loss on validation's texts ([\d.]+) → ([\d.]+)", note)[0])
    assert after < before
    assert any("relations of the last layers" in note for note in state.notes)
    told = [event.message for event in events if "attention" in getattr(event, "message", "")]
    assert all(term in told[0] for term in ("hidden", "attention", "embedding"))


@pytest.mark.parametrize("kept", [None, 8])
@pytest.mark.parametrize("room", [True, False])
def test_three_originals_teach_a_language_model(
    room: bool, kept: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not room:
        monkeypatch.setattr(caches, "TEACHER_BYTES", 0)
    state = language(distill=Distill(epochs=8, rate=1e-2, hidden=0.5, hard=0.0, kept=kept, spill_gib=0.0))
    state.scratch = tmp_path
    following(state)
    placement.seeds_of(state)
    with torch.no_grad():
        for original in state.originals:  # another seed leads elsewhere
            for parameter in original.parameters():
                parameter.mul_(1 + torch.randn_like(parameter) * 0.02)
    before = tiny_apart(state)
    events = list(distill(state))
    (note,) = [note for note in state.notes if note.startswith("Teachers, with validation perplexity")]
    assert note.count("×") == 3
    assert "the original with seed 2" in note
    asked = any("asked again in each epoch" in getattr(event, "message", "") for event in events)
    assert asked == (not room)
    assert tiny_apart(state) < 0.7 * before
    assert state.originals == []


def tiny_apart(state: StageContext) -> float:
    """The divergence of the model's next tokens from its teacher's on validation."""
    total = 0.0
    with torch.no_grad():
        for batch in state.rows["validation"].by_length(8):
            given, wanted = (one(**batch.inputs).logits.log_softmax(-1) for one in (state.model.eval(), state.teacher))
            total += float((wanted.exp() * (wanted - given)).sum())
    return total
