"""Runs and times artifacts as users do, by stock ONNX Runtime and tokenizers. `of_shape` alone needs the engine."""

import json
import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from bench.glue.statistics import Floats
from compression.evaluation.turns import settle
from compression.export.onnx.exporter import write_onnx
from compression.schema.report.measurements import Shape

WARM_UP, RUNS = 30, 300
Feed = dict[str, npt.NDArray[np.int64]]


def open_session(folder: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open folder/model.onnx with a fixed number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])


def own_int8(original: Path, folder: Path) -> Path:
    """Write ONNX Runtime's own dynamic INT8 of an FP32 artifact beside it: its quantizer's defaults, int8 weights."""
    if not (folder / "model.onnx").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "config.json"):
            (folder / name).write_bytes((original / name).read_bytes())
        quantize_dynamic(original / "model.onnx", folder / "partial.onnx", weight_type=QuantType.QInt8)
        (folder / "partial.onnx").rename(folder / "model.onnx")
    return folder


def answers(folder: Path, rows: Path, threads: int = 2) -> tuple[Floats, Floats]:
    """Answer the rows of a JSONL file one at a time. -> (answers, wanted), each (rows,): label ids, or values."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    session = open_session(folder, threads)
    names = [item.name for item in session.get_inputs()]
    said, wanted = [], []
    for line in rows.read_text("utf-8").splitlines():
        row = json.loads(line)
        texts = (row["text"], row["text_pair"]) if "text_pair" in row else (row["text"],)
        encoding = tokenizer.encode(*texts)
        parts = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
        logits = session.run(None, {name: np.array([parts[name]], np.int64) for name in names})[0][0]
        if isinstance(row["label"], float):
            said.append(float(logits[0]))
            wanted.append(row["label"])
        else:
            said.append(float(logits.argmax()))
            wanted.append(float(config["label2id"][row["label"]]))
    return np.array(said), np.array(wanted)


def of_shape(model: Path, shape: Shape, labels: int, folder: Path, *, int8: bool) -> Path:
    """Write an artifact of a shape, with random weights: its time does not depend on them. model: where BERT's config lies."""
    if not (folder / "model.onnx").is_file():
        config = AutoConfig.from_pretrained(
            model,
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden,
            num_attention_heads=shape.heads,
            intermediate_size=shape.ffn,
            vocab_size=shape.vocabulary,
            num_labels=labels,
        )
        torch.manual_seed(0)
        folder.mkdir(parents=True, exist_ok=True)
        for path in model.glob("tokenizer*"):
            (folder / path.name).write_bytes(path.read_bytes())
        config.save_pretrained(folder)
        write_onnx(AutoModelForSequenceClassification.from_config(config).eval(), folder, int8=int8)
    return folder


def time_all(
    folders: Mapping[str, Path], *, batch: int = 1, length: int = 128, threads: int = 1, settles: bool = False
) -> dict[str, float]:
    """Return the median milliseconds of each artifact, timed in turn in this process, so that other load affects all.

    settles: after passes that do not count, as jobs time their files: the caches hold what the others have put out of them.
    """
    sessions = {name: open_session(folder, threads) for name, folder in folders.items()}
    feeds: dict[str, Feed] = {}
    for name, folder in folders.items():
        vocabulary = json.loads((folder / "config.json").read_text("utf-8"))["vocab_size"]
        ids = np.random.default_rng(0).integers(0, vocabulary, (batch, length), dtype=np.int64)
        parts = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        feeds[name] = {item.name: parts[item.name] for item in sessions[name].get_inputs()}
    times: dict[str, list[float]] = {name: [] for name in folders}
    for turn in range(WARM_UP + RUNS):
        order = list(sessions) if turn % 2 == 0 else list(reversed(sessions))
        for name in order:
            if settles:
                settle(partial(sessions[name].run, None, feeds[name]))
            start = time.perf_counter_ns()
            sessions[name].run(None, feeds[name])
            if turn >= WARM_UP:
                times[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: statistics.median(values) for name, values in times.items()}
