"""What a card says of how far its model reads, and what of that it was trained on."""

from typing import Any, get_args

import pytest

from compression.export.provenance import Origin
from compression.schema.artifact_formats import ARTIFACT_FORMATS, Kind
from compression.schema.recipe.base import Task
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Prepare, Recipe
from compression.schema.report.before import Figures
from compression.schema.report.folding import Folding
from compression.schema.report.operators import Operators
from compression.schema.schemes import SCHEMES
from compression.schema.stages import Stage
from compression.schema.tasks import TASKS
from tests.client.figures import validated
from tests.support.cards import NOTHING, card_of
from tests.support.verdict_rows import BASELINE, QUANTIZED

SENT = Recipe(prepare=Prepare(epochs=0), prune=None, distill=None)


def origin_of(recipe: Recipe) -> Origin:
    unknown = dict.fromkeys(("license", "stated_in", "base"))
    return Origin(**unknown, licenses=(), recipe=recipe, command="lathe submit", sent=(), versions={})


def test_a_card_says_what_is_kept_on_validation_and_that_a_baseline_has_not_converged() -> None:
    for known in (True, False, None):
        rows = validated(is_converged=known).rows
        last = rows[-1]
        own = {name: getattr(last, name) for name in ("size", "latency", "score", "validation")}
        figures = Figures(**own, peak_memory_bytes=NOTHING)
        text = card_of(name=last.artifact, stage="distilled", figures=figures, origin=origin_of(SENT), rows=rows).render()
        assert "| accuracy on 500 validation rows, by which the job chooses | 79.50% ± 1.00% |" in text
        assert "99.4% kept (95 % interval 97.1% to 101.5%)" in text
        assert ("**baseline_not_converged**" in text) == (known is False)
        says = "has not settled. A test says so. The share of its score that is kept is unproven."
        assert (says in text) == (known is False)


def said(recipe: Recipe, stage: Stage, task: Task = "causal-lm", positions: int | None = 8192, **about: Any) -> str:
    form: dict[str, Any] = {"kind": "transformers", "scheme": None, "inputs": (), **about}
    return card_of(
        stage=stage, task=task, labels=(), max_length=512, positions=positions, origin=origin_of(recipe), **form
    ).render()


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


@pytest.mark.parametrize("task", ["causal-lm", "text-classification", "question-answering"])
@pytest.mark.parametrize("scheme", ["dynamic-int8", "static-int8"])
def test_a_card_tells_the_range_of_its_weights_and_opens_full_range_files_with_exact_products(task: Task, scheme: str) -> None:
    form = {"kind": "onnx", "scheme": scheme, "inputs": ("input_ids", "attention_mask")}
    portable, full = (said(SENT, "quantized", task, portable=each, **form) for each in (True, False))
    assert "within ±63" in portable
    assert "x64quantprecision" not in portable
    assert "within ±127" in full
    code = full.split("```python\n")[1].split("```")[0]
    assert '"session.x64quantprecision", "1"' in code
    compile(code, "card", "exec")


@pytest.mark.parametrize("about", [{"scheme": None}, {"scheme": "weight-only-int8"}, {"scheme": "weight-only-int4"}])
def test_files_that_round_no_activations_need_no_option(about: dict[str, Any]) -> None:
    text = said(SENT, "quantized", kind="onnx", **{"inputs": ("input_ids", "attention_mask"), **about})
    assert "±" not in text
    assert "x64quantprecision" not in text


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_networks_card_tells_the_integers_of_convolutions(scheme: str) -> None:
    form = {"kind": "onnx", "scheme": scheme, "inputs": ("pixel_values",), "positions": None}
    text = said(SENT, "quantized", "image-classification", **form)
    assert "onvolutions" in text
    assert ("uint8" in text) == SCHEMES[scheme].rounds_activations
    assert "embeddings" not in text


def test_a_card_tells_symmetric_values_and_what_was_not_tried() -> None:
    form = {"kind": "onnx", "scheme": "static-int8", "inputs": ("pixel_values",), "positions": None, "symmetric": True}
    text = said(SENT, "quantized", "image-classification", **form)
    assert "int8, each with a scale that was calibrated for it and zero point 0" in text
    assert "not tried in TensorRT" in text
    assert "uint8" not in text


def test_a_card_tells_what_a_network_s_file_does_without() -> None:
    folding = Folding(norms=20, folded=19, elements=4800, activations=17)
    form = {"kind": "onnx", "scheme": "static-int8", "inputs": ("pixel_values",), "positions": None}
    rows = (BASELINE, QUANTIZED.model_copy(update={"folding": folding}))
    text = card_of(task="image-classification", stage="quantized", rows=rows, **form).render()
    assert "| 19 of 20 batch normalizations folded (4,800 elements fewer), 17 activations behind convolutions |" in text
    assert "joined in the file" not in card_of(task="image-classification", stage="baseline", rows=(BASELINE,), **form).render()


def test_a_card_counts_operators_before_and_after_the_runtime_joins_them() -> None:
    joined = Operators(before={"Conv": 21, "Relu": 17}, after={"Conv": 4, "FusedConv": 17, "Reorder": 2})
    assert joined.short == "38 in the file, 23 executed; 17 FusedConv, 2 Reorder are the runtime's own"
    assert Operators(before={"Gemm": 2, "Cast": 1}, after={"Gemm": 2}).short == "3 in the file, 2 executed"
    assert f"| operators | {joined.short} |" in card_of(operators=joined).render()


SHIPPED = [
    (task, kind)
    for task in get_args(Task)
    for kind, spec in ARTIFACT_FORMATS.items()
    if (kind != "timm" or task == "image-classification") and spec.generates in (None, TASKS[task].generates)
]


@pytest.mark.parametrize(("task", "kind"), SHIPPED)
def test_every_task_has_code_for_every_kind_and_a_card_shows_it(task: Task, kind: Kind) -> None:
    card = card_of(kind=kind, task=task, pairs=task == "text-pair-classification", positions=None)
    compile(card.usage(), "card", "exec")
    assert f"## Open it\n\n```python\n{card.usage()}```\n" in card.render()
