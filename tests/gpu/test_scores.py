"""Scores of artifacts on a card are the CPU's, in each runtime that is there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.evaluation.card_check import EXACT
from compression.evaluation.measure import MeasureSpec, measure
from compression.evaluation.runtimes.runner import lacking_on_card, open_artifact, open_on_card
from compression.export.manifest import write_config
from compression.export.onnx.exporter import write_onnx
from compression.modalities.text.inputs import full_batch
from compression.schema.recipe.recipe import Evaluate
from tests.support import tiny_language
from tests.support.tiny_bert import sentences, tiny_config, write_tokenizer

LABELS = ("negative", "positive")


def scored(folder: Path, kind: str, rows: list[dict[str, Any]], **changes: Any) -> list[Any]:
    """Return the score on the card and that on the CPU."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"kind": kind, "folder": str(folder), "task": "text-classification", "labels": LABELS, "test_rows": str(path)}
    spec = MeasureSpec(**own | changes, evaluate=Evaluate(length=16), seconds=0.1)
    return [measure(spec.model_copy(update={"device": device})).score for device in ("cuda", "cpu")]


@pytest.mark.parametrize("kind", ["transformers", "onnx"])
def test_a_classifier_has_the_score_of_the_cpu(kind: str, card: torch.device, tmp_path: Path) -> None:
    if (lacking := lacking_on_card(kind)) is not None:
        pytest.skip(lacking)
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=2)).eval()
    write_tokenizer(tmp_path)
    if kind == "onnx":
        write_onnx(model, tmp_path, int8=False)
    else:
        model.save_pretrained(tmp_path)
    write_config(model, tmp_path, LABELS, 32, kind)
    rows = [{"text": text, "label": LABELS.index(label)} for text, label in sentences(64, 3)]
    there, here = scored(tmp_path, kind, rows)
    assert (there.device, there.not_on_card) == ("cuda", None)
    assert there.value == here.value
    batch = full_batch(8, 16, 40)
    on_card, on_cpu = open_on_card(kind, tmp_path, batch, threads=1), open_artifact(kind, tmp_path, threads=1)
    found, expected = on_card.logits(batch), on_cpu.logits(batch)
    assert abs(found - expected).max() <= EXACT * abs(expected).max()


def test_a_language_model_has_the_perplexity_of_the_cpu(card: torch.device, tmp_path: Path) -> None:
    tiny_language.tokenizer(bos=True).save_pretrained(tmp_path)
    tiny_language.model("llama").save_pretrained(tmp_path)
    rows = [{"text": text} for text in tiny_language.TEXTS]
    there, here = scored(tmp_path, "transformers", rows, task="causal-lm", labels=())
    assert (there.device, there.not_on_card) == ("cuda", None)
    assert there.value == pytest.approx(here.value, rel=EXACT)


def test_integers_without_kernels_are_left_to_the_cpu(card: torch.device, tmp_path: Path) -> None:
    if (lacking := lacking_on_card("onnx")) is not None:
        pytest.skip(lacking)
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=2)).eval()
    write_tokenizer(tmp_path)
    write_onnx(model, tmp_path, int8=True)
    write_config(model, tmp_path, LABELS, 32, "onnx")
    there, here = scored(tmp_path, "onnx", [{"text": text, "label": 0} for text, _ in sentences(16, 3)], rounds=True)
    assert there.device == "cpu"
    assert "MatMulInteger" in there.not_on_card
    assert there.value == here.value
