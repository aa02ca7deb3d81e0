"""Artifacts of every family open in stock tools, with as many inputs as the model has, and answer as it does."""

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchao.utils import TorchAOBaseTensor
from transformers import PreTrainedModel

from compression.evaluation.runtimes import transformers as transformers_runtime
from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.evaluation.runtimes.transformers import TransformersRunner
from compression.export.manifest import write_config
from compression.export.onnx.exporter import FILE, compare_interface, plain_model
from compression.export.onnx.flatten_sequence import flatten_sequence
from compression.export.onnx.quantize_graph import to_int8
from compression.export.onnx.trace import graph, inputs_of
from compression.export.parity_check import verify
from compression.export.transformers.exporter import write_transformers
from compression.modalities.text.artifact_tokenizer import write_tokenizer
from compression.modalities.text.inputs import Batch
from compression.modalities.text.scoring.whole_texts import TextClassScorer
from compression.quantization.fake_quantize import insert_fake_quantization, quantizable
from compression.schema.artifact_formats import Kind
from tests.compression.engine.test_shipping import run_card
from tests.compression.export.onnx.test_exporter import answers
from tests.support.cards import card_of
from tests.support.encoder_models import LAYERS, PADDING, WORDS, tiny, write_tokenizer as write_source
from tests.support.tiny_bert import sentences, write_rows

LABELS = ("negative", "positive")
WITHOUT_LATHE = """
import pathlib, runpy, sys
from importlib.util import find_spec
while found := find_spec("compression"):
    sys.path.remove(str(pathlib.Path(found.origin).parents[1]))  # where an editable installation points to
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ROWS = [{"text": text} for text, _ in sentences(12, seed=5)]


def padded(rows: int = 12, length: int = 9) -> Batch:
    draw = np.random.default_rng(3)
    mask = (np.arange(length) < draw.integers(3, length + 1, (rows, 1))).astype(np.int64)
    ids = draw.integers(5, len(WORDS), (rows, length)) * mask + PADDING * (1 - mask)
    return Batch(ids, mask, np.zeros_like(ids))


@cache
def graphs(kind: str) -> dict[bool, onnx.ModelProto]:
    """Trace a family's model, once for all tests: whether its weights are integers → the file."""
    twin = plain_model(tiny(kind))
    traced = flatten_sequence(graph(twin))
    return {False: traced, True: to_int8(traced, dict(quantizable(twin)))}


@pytest.mark.parametrize("kind", ["distilbert", "roberta", "electra", "mpnet"])
def test_the_file_has_the_inputs_that_the_model_needs_and_answers_as_it_does(kind: str, tmp_path: Path) -> None:
    model, batch = tiny(kind), padded()
    names = ("input_ids", "attention_mask", *(["token_type_ids"] if kind == "electra" else []))
    for int8, proto in graphs(kind).items():
        onnx.save(proto, tmp_path / "model.onnx")
        runner = OnnxRunner(tmp_path / "model.onnx", threads=1)
        compare_interface(runner, 2, dict.fromkeys(names, ("tensor(int64)", [True, True])), ("logits",))
        found, wanted = runner.logits(batch), answers(model, batch, simulated=int8)
        # A value on the edge of two integers may fall either way in a few rows; the others agree to the last digits.
        assert (np.median if int8 else np.max)(np.abs(found - wanted)) < 2e-5
        row = int(batch.attention_mask[1].sum())
        alone = runner.logits(Batch(*(value[1:2, :row] for value in vars(batch).values())))
        assert alone[0] == pytest.approx(found[1], abs=2e-5)
    operators = Counter(node.op_type for node in graphs(kind)[True].graph.node)
    # Query, key and value share one quantization in every family; two more for the head, one for ELECTRA's projection.
    projection = int(kind == "electra")
    assert operators["MatMulInteger"] == 6 * LAYERS + 2 + projection
    # Each with its zero points, which are one QuantizeLinear more.
    assert operators["QuantizeLinear"] == 2 * (4 * LAYERS + 2 + projection)


def written(kind: str, form: Kind, folder: Path) -> PreTrainedModel:
    """Write an int8 artifact without its figures: a tokenizer, a config, weights and a card."""
    model, source = tiny(kind), folder.parent / "source"
    source.mkdir()
    folder.mkdir()
    write_source(source)
    if form == "onnx":
        onnx.save(graphs(kind)[True], folder / FILE)
    else:
        write_transformers(model, folder, int8=True)
    write_tokenizer(source, folder, 16, "text-classification")
    assert write_config(model, folder, LABELS, 16, form) == PADDING
    about = card_of(kind=form, labels=LABELS, inputs=inputs_of(model))
    (folder / "README.md").write_text(about.render())
    return model


def test_card_and_script_open_a_file_of_two_inputs(tmp_path: Path) -> None:
    folder, rows = tmp_path / "artifact", sentences(12, seed=5)
    model = written("roberta", "onnx", folder)
    assert "token_type_ids" not in (folder / "README.md").read_text()
    said = run_card(folder, tmp_path, "", "").split()
    assert len(said) == 2
    assert set(said) <= set(LABELS)
    insert_fake_quantization(model)
    verify(model, folder, kind="onnx", int8=True, sample=ROWS, scorer=TextClassScorer("accuracy", 2, 1), pad_id=PADDING)
    write_rows(tmp_path / "test.jsonl", rows)
    script = Path(__file__).parents[4] / "scripts" / "open_onnx.py"
    command = [sys.executable, "-I", "-c", WITHOUT_LATHE, str(script), str(folder), str(tmp_path / "test.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout)
    runner, tokens = OnnxRunner(folder / "model.onnx", threads=1), {word: number for number, word in enumerate(WORDS)}
    right = 0
    for text, label in rows:
        ids = np.array([[0, *(tokens[word] for word in text.split()), 2]])
        right += LABELS[int(runner.logits(Batch(ids, np.ones_like(ids), np.zeros_like(ids))).argmax())] == label
    assert answered == {"rows": len(rows), "correct": right}


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_tables_multiplied_out_once_answer_as_integers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, batch = tmp_path / "artifact", padded()
    written(kind, "transformers", folder)
    runner = TransformersRunner(folder, threads=1)

    def folded() -> set[bool]:
        tables = [module for module in runner.model.modules() if isinstance(module, nn.Embedding)]
        return {isinstance(table.weight, TorchAOBaseTensor) for table in tables}

    before = runner.logits(batch)
    monkeypatch.setattr(transformers_runtime, "UNFOLDED_BYTES", 100)
    runner.unfold_tables()
    assert folded() == {True}
    monkeypatch.undo()
    runner.unfold_tables()
    assert folded() == {False}
    assert np.array_equal(runner.logits(batch), before)


def test_products_by_another_way_answer_as_torchaos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, batch = tmp_path / "artifact", padded()
    written("bert", "transformers", folder)
    runner, stock = TransformersRunner(folder, threads=1), torch.ops.aten._int_mm
    monkeypatch.setattr(torch, "_int_mm", stock)  # what is exchanged here comes back, and was perhaps by tests before
    before = runner.logits(batch)
    monkeypatch.setattr(transformers_runtime, "integers_are_faster", lambda: True)
    runner.hasten()
    assert torch._int_mm is stock
    monkeypatch.setattr(transformers_runtime, "integers_are_faster", lambda: False)
    runner.hasten()
    assert torch._int_mm is not stock
    assert np.array_equal(runner.logits(batch), before)


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_a_checkpoint_keeps_the_padding_that_positions_are_counted_from(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    model = written(kind, "transformers", folder)
    assert TransformersRunner(folder, threads=1).model.config.pad_token_id == PADDING
    insert_fake_quantization(model)
    verify(model, folder, kind="transformers", int8=True, sample=ROWS, scorer=TextClassScorer("accuracy", 2, 1), pad_id=PADDING)
