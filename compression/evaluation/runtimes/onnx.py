"""ONNX files in stock ONNX Runtime on the CPU. Torch-free."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from compression.modalities.scoring.base import Floats as Logits
from compression.modalities.scoring.base import Inputs
from compression.modalities.text.inputs import Batch, Ids

FILE = "model.onnx"
EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""Session option by which x86 without VNNI multiplies weights within ±127 exactly. Where VNNI is it only costs time (three
quarters more, seen with 1.32), and of portable files it changes nothing."""
CPU = Path("/proc/cpuinfo")
PAST = "past_key_values."
"""What the names of a cache's inputs begin with."""


class OnnxRunner:
    """An inference session with fixed threads."""

    def __init__(self, path: Path, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Spinning threads steal the core from whoever else is measured in this process.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not has_vnni():
            options.add_session_config_entry(*EXACT_PRODUCTS)
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [item.name for item in self.session.get_inputs()]
        self.outputs = [item.name for item in self.session.get_outputs()]
        self.name = name_of(self.session)

    def logits(self, batch: Inputs) -> Logits:
        """Answer one batch; starts and ends, where the file has both, side by side."""
        # A file of a model that tells no token types apart has no input for them.
        arrays = batch.arrays
        found: list[Logits] = self.session.run(self.outputs, {name: arrays[name] for name in self.inputs})
        return found[0] if len(found) == 1 else np.stack(found, axis=-1)


@dataclass(frozen=True)
class OnnxCache:
    """What tokens read so far have left: keys and values of each layer, and which of them are real, (rows, tokens)."""

    values: list[onnxruntime.OrtValue]
    mask: Ids


class OnnxDecoder:
    """A language model's session. Keys and values stay where ONNX Runtime has put them; nothing copies them between steps."""

    def __init__(self, opened: onnxruntime.InferenceSession) -> None:
        self.session = opened
        self.name = name_of(opened)
        self._past = [item for item in opened.get_inputs() if item.name.startswith(PAST)]
        self._outputs = [item.name for item in self.session.get_outputs()]

    def step(self, ids: Ids, cache: OnnxCache | None = None, mask: Ids | None = None) -> tuple[Logits, OnnxCache]:
        """Read some tokens more; see `modalities.text.decoding.Decoder`."""
        rows, width = ids.shape
        new = np.ones((rows, width), np.int64) if mask is None else mask
        seen = new if cache is None else np.concatenate([cache.mask, new], axis=1)
        places = np.maximum(seen.cumsum(axis=1) - 1, 0)[:, -width:]
        given = {"input_ids": ids, "attention_mask": seen, "position_ids": np.ascontiguousarray(places)}
        feeds = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in given.items()}
        names = [item.name for item in self._past]
        feeds |= zip(names, self._empty(rows) if cache is None else cache.values, strict=True)
        logits, *values = self.session.run_with_ort_values(self._outputs, feeds)
        return logits.numpy(), OnnxCache(values, seen)

    def logits(self, batch: Batch) -> Logits:
        """Answer one batch, padded on any side."""
        return self.step(batch.input_ids, None, batch.attention_mask)[0]

    def _empty(self, rows: int) -> list[onnxruntime.OrtValue]:
        shapes = ((rows, item.shape[1], 0, item.shape[3]) for item in self._past)
        return [onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for shape in shapes]


@cache
def has_vnni() -> bool:
    """Say whether the processor is known to add products of 8 bits in 32."""
    return CPU.is_file() and any(flag in CPU.read_text("ascii", "replace") for flag in ("avx512_vnni", "avx_vnni"))


def name_of(opened: onnxruntime.InferenceSession) -> str:
    """Name runtime, version and device."""
    return f"onnxruntime {onnxruntime.__version__} {opened.get_providers()[0]}"


def open_folder(folder: Path, *, threads: int) -> OnnxRunner | OnnxDecoder:
    """Open folder/model.onnx; with a cache among its inputs, it is a language model. Raises onnxruntime's own errors."""
    runner = OnnxRunner(folder / FILE, threads=threads)
    return OnnxDecoder(runner.session) if any(name.startswith(PAST) for name in runner.inputs) else runner
