"""Artifacts of all tasks and formats that serve: opened as downloaded, and batches answer as single rows do."""

import asyncio
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.modalities.text.scoring import question_answering
from compression.schema.errors import DamagedCheckpoint, MissingFile, NotServable
from compression.schema.prediction_request import RowInputs
from compression.serving.batcher import Batcher
from compression.serving.batching import BatchRules, length_group
from compression.serving.served_model import ServedModel
from tests.support.served import HEADS, KIND, LENGTH, artifact
from tests.support.tiny_bert import sentences
from tests.support.tiny_shipment import Shipment

RULES = BatchRules(most=8, target=10.0)


def inputs_of(task: str, text: str, other: str) -> RowInputs:
    if task == "question-answering":
        return RowInputs(question="good word1", context=" ".join([text, other] * 3))  # several windows
    return RowInputs(text=text, text_pair=other if task == "text-pair-classification" else None)


async def asked(model: ServedModel, rows: list[RowInputs], *, together: bool) -> list[tuple[Any, list[Any], int]]:
    async with Batcher(model.run, RULES, length=model.length, anchors={}) as batcher:

        async def one(given: RowInputs) -> tuple[Any, list[Any], int]:
            row, windows = model.encode(given)
            found = await batcher.answer(windows.windows)
            return model.predicted(row, windows, found.logits), found.logits, found.rows

        if together:
            return list(await asyncio.gather(*map(one, rows)))
        return [await one(given) for given in rows]


def compared(model: ServedModel) -> list[tuple[Any, list[Any], int]]:
    """Ask single rows, then many at once; hold the answers against each other, and return those of batches."""
    texts = [text for text, _ in sentences(41, seed=7)]
    rows = [inputs_of(model.task, text, other) for text, other in pairwise(texts)]
    single, batched = (asyncio.run(asked(model, rows, together=together)) for together in (False, True))
    assert max(size for *_, size in batched) > 4
    for (answer, logits, _), (again, others, _) in zip(single, batched, strict=True):
        for name in ("label", "tags", "text"):
            assert answer.get(name) == again.get(name)
        for one, other in zip(logits, others, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)
    return batched


@pytest.mark.parametrize("task", ["text-pair-classification", "question-answering"])
def test_batching_changes_no_answer(task: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ServedModel(artifact(task, encoder, tmp_path / "made"), threads=1)
    monkeypatch.delattr(question_answering, "Reader")  # it copies the tokenizer: once, when the artifact is opened
    assert (model.task, model.format.name, model.labels) == (task, KIND, HEADS[task][1])
    found = compared(model)
    assert (len(found[0][1]) > 1) is (task == "question-answering")


@pytest.mark.parametrize("form", ["baseline", "int8"])
def test_batching_changes_no_answer_of_onnx_files(form: str, tiny_shipment: Shipment) -> None:
    model = ServedModel(tiny_shipment.folder(getattr(tiny_shipment, form)), threads=1)
    assert model.format.name == "onnx"
    compared(model)


def test_a_job_s_artifact_is_served_and_its_batches_are_timed_at_each_length(tiny_shipment: Shipment, tmp_path: Path) -> None:
    folder = tiny_shipment.folder(tiny_shipment.int8)
    model = ServedModel(folder, threads=1)
    assert (model.task, model.labels) == ("text-classification", ("negative", "positive"))
    times = model.timed(8)
    assert list(times) == sorted({length_group(length) for length in range(1, LENGTH + 1)})
    assert all(list(each) == [1, 8] and min(each.values()) > 0 for each in times.values())
    (tmp_path / "small").mkdir()
    shutil.copytree(folder, tmp_path / "small" / folder.name)
    assert ServedModel(tmp_path / "small", threads=1).folder == tmp_path / "small" / folder.name


def test_it_needs_no_torch(tiny_shipment: Shipment) -> None:
    program = f"""
import sys
from itertools import pairwise
from pathlib import Path
from compression.serving.http import Limits, Server
from compression.serving.served_model import ServedModel
from compression.serving.batching import BatchRules
from compression.schema.prediction_request import RowInputs
model = ServedModel(Path({str(tiny_shipment.folder(tiny_shipment.int8))!r}), threads=1)
row, asked = model.encode(RowInputs(text="good"))
model.run(asked.windows)
Server(model, BatchRules(8, 1.0), Limits(8, 1000)).app()
assert not {{"torch", "transformers", "pyarrow", "fastapi"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_what_cannot_be_served_is_refused_by_its_reason(tiny_shipment: Shipment, tmp_path: Path) -> None:
    checkpoint = tiny_shipment.folder(tiny_shipment.checkpoint)
    with pytest.raises(NotServable, match=r"runs in PyTorch; the formats that are served are onnx, "):
        ServedModel(checkpoint, threads=1)
    with pytest.raises(MissingFile, match="holds 3 artifacts"):
        ServedModel(checkpoint.parent, threads=1)
    with pytest.raises(MissingFile, match="holds no artifact"):
        ServedModel(tmp_path / "nowhere", threads=1)

    copy = Path(shutil.copytree(tiny_shipment.folder(tiny_shipment.int8), tmp_path / "copy"))
    before = json.loads((copy / "before.json").read_text())
    (copy / "before.json").write_text(json.dumps({**before, "task": "causal-lm"}))
    with pytest.raises(NotServable, match="no answer to a single row"):
        ServedModel(copy, threads=1)
    (copy / "before.json").write_text(json.dumps({**before, "task": "unknown"}))
    with pytest.raises(DamagedCheckpoint, match="does not say what it predicts"):
        ServedModel(copy, threads=1)
    (copy / "before.json").write_text(json.dumps(before))
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:1000])
    with pytest.raises(DamagedCheckpoint, match="ONNX Runtime cannot open"):
        ServedModel(copy, threads=1)
    (copy / "model.onnx").unlink()
    with pytest.raises(MissingFile, match="no weights"):
        ServedModel(copy, threads=1)
