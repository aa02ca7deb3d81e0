"""What a card says of how far its model reads, and what of that it was trained on."""

import pytest

from compression.export.card import card
from compression.origin import Origin
from compression.recipe import Distill, Prepare, Prune, Qat, Quantize, Recipe, Recovery, Task
from compression.report import NotMeasured, Size, Stage

NOTHING = NotMeasured(not_measured="It is not asked.")
SENT = Recipe(prepare=Prepare(epochs=0), prune=None, distill=None)


def said(recipe: Recipe, stage: Stage, task: Task = "causal-lm", positions: int | None = 8192) -> str:
    origin = Origin(
        license=None, said_in=None, base=None, licenses=(), recipe=recipe, command="lathe submit", sent=(), versions={}
    )
    return card(
        name="tiny",
        kind="transformers",
        stage=stage,
        scheme=None,
        task=task,
        labels=(),
        max_length=512,
        size=Size(bytes=1, dtype="float32", bytes_at_16_bit=1),
        latency=NOTHING,
        score=NOTHING,
        memory=NOTHING,
        inputs=(),
        positions=positions,
        origin=origin,
    )


@pytest.mark.parametrize(
    ("changes", "stage", "trained"),
    [
        ({}, "baseline", False),
        ({}, "quantized", False),  # as all that goes from file to file
        ({"prepare": Prepare(epochs=1)}, "quantized", True),
        ({"quantize": Quantize(qat=Qat())}, "baseline", False),
        ({"quantize": Quantize(qat=Qat())}, "pruned", True),
        ({"prune": Prune()}, "pruned", False),
        ({"prune": Prune(recovery=Recovery(epochs=1))}, "quantized", False),
        ({"prune": Prune(recovery=Recovery(epochs=1))}, "pruned", True),
        ({"prune": Prune(), "distill": Distill()}, "pruned", False),
        ({"distill": Distill()}, "distilled", True),
    ],
)
def test_rows_of_training_are_told_of_what_was_trained(changes: dict[str, object], stage: Stage, trained: bool) -> None:
    text = said(SENT.model_copy(update=changes), stage)
    assert "It reads up to 8,192 tokens." in text
    assert ("It was trained on rows of 512 tokens." in text) is trained


def test_what_answers_about_whole_texts_reads_as_far_as_they_are_cut() -> None:
    text = said(Recipe(), "distilled", "text-regression", None)
    assert "Texts are cut to 512 tokens." in text
    assert "trained on rows" not in text
