"""Folders of onnxruntime-genai on the CPU: a decoder's ONNX file, and what its generator must know of it. Torch-free.

The package is an extra of workers (`genai`). It generates with the release of ONNX Runtime that is installed beside it.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from compression.modalities.scoring.base import Floats as Logits
from compression.modalities.text.inputs import Batch, Ids

FILE = "genai_config.json"
PACKAGE = "onnxruntime_genai"


def lacking() -> str | None:
    """Return what this machine lacks to run onnxruntime-genai, or None."""
    if find_spec(PACKAGE) is None:
        return "the extra genai, which has onnxruntime-genai"
    try:
        import onnxruntime_genai  # noqa: F401 (whether it loads)
    except Exception as problem:  # of the package or the loader
        return f"what onnxruntime-genai needs: {problem}"
    return None


@dataclass(frozen=True)
class GenaiCache:
    """One generator for each row, which has the row's real tokens; None before its first."""

    rows: tuple[Any, ...]


class GenaiDecoder:
    """A language model. Each row has a generator of its own, since only one of a single row takes more tokens later."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        """Open a folder. Raises RuntimeError with the package's words."""
        import onnxruntime_genai

        self._package = onnxruntime_genai
        model = json.loads((folder / FILE).read_text("utf-8"))["model"]
        self.outputs, self._most = int(model["vocab_size"]), int(model["context_length"])
        # As in `runtimes.onnx`: spinning threads take the core from the other model that this process measures.
        session = {"intra_op_num_threads": threads, "inter_op_num_threads": 1, "session.intra_op.allow_spinning": "0"}
        config = onnxruntime_genai.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = onnxruntime_genai.Model(config)
        self.name = f"onnxruntime-genai {onnxruntime_genai.__version__} {self._model.device_type}"

    def step(self, ids: Ids, cache: GenaiCache | None = None, mask: Ids | None = None) -> tuple[Logits, GenaiCache]:
        """Process more tokens; see `modalities.text.decoding.Decoder`. Raises RuntimeError if a row becomes too long."""
        found = np.zeros((*ids.shape, self.outputs), np.float32)
        real = np.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        known = (None,) * len(ids) if cache is None else cache.rows
        rows = []
        for row, generator in enumerate(known):
            new = ids[row, real[row]]
            if new.size:
                generator = generator or self._generator()
                generator.append_tokens(new[None].astype(np.int32))
                found[row, real[row]] = generator.get_output("logits")[0]
            rows.append(generator)
        return found, GenaiCache(tuple(rows))

    def logits(self, batch: Batch) -> Logits:
        """Return the logits of a batch, padded on any side. -> (rows, tokens, vocabulary), 0 at padding"""
        return self.step(batch.input_ids, None, batch.attention_mask)[0]

    def _generator(self) -> Any:
        settings = self._package.GeneratorParams(self._model)
        settings.set_search_options(max_length=self._most)
        return self._package.Generator(self._model, settings)


def open_folder(folder: Path, *, threads: int) -> GenaiDecoder:
    """Open a folder with its genai_config.json. Raises RuntimeError with the package's words."""
    return GenaiDecoder(folder, threads=threads)
