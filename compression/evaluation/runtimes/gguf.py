"""GGUF files in llama.cpp on the CPU, by its C interface. Torch-free.

The package llama-cpp-py-sync is llama.cpp's library for x86-64 Linux with its public functions; it is an extra of workers
(`gguf`). Settings are llama.cpp's own defaults, so keys and values are kept in 16 bits.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from compression.modalities.scoring.base import Floats as Logits
from compression.modalities.text.inputs import Batch, Ids

FILE = "model.gguf"
PACKAGE = "llama_cpp_py_sync"
INSTRUCTIONS = frozenset({"avx2", "bmi2", "f16c", "fma"})  #: that the package's library is compiled for
CPU = Path("/proc/cpuinfo")
AT_ONCE = 128  #: tokens in one call of llama.cpp: their logits are in its memory until they are copied
WARNING = 3  #: llama.cpp's level of messages; errors are above
messages: list[str] = []
"""llama.cpp's latest warnings and errors, for the exception that a failed call becomes."""


def lacking() -> str | None:
    """Return what this machine lacks to run llama.cpp, or None. A processor without its instructions would end the process."""
    if find_spec(PACKAGE) is None:
        return "the extra gguf, which has llama.cpp"
    known = next((line for line in CPU.read_text("ascii", "replace").splitlines() if line.startswith("flags")), "")
    if missing := sorted(INSTRUCTIONS - set(known.split())):
        return f"instructions that llama.cpp is compiled for ({', '.join(missing)})"
    try:
        _library()
    except Exception as problem:  # of the package or the loader
        return f"what llama.cpp needs: {problem}"
    return None


@cache
def _library() -> tuple[Any, Any, Any]:
    """Load llama.cpp -> cffi's FFI, the library, and the callback that takes its messages, which must stay alive."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    ffi, lib = get_ffi(), get_lib()

    def note(level: int, text: Any, _: object) -> None:
        if level >= WARNING:
            messages.append(cast(bytes, ffi.string(text)).decode("utf-8", "replace").strip())
            del messages[:-5]

    noted = ffi.callback("void(int, const char *, void *)", note)
    lib.llama_log_set(ffi.cast("ggml_log_callback", noted), ffi.NULL)
    lib.llama_backend_init()
    return ffi, lib, noted


def name() -> str:
    """Return the runtime with its version."""
    import llama_cpp_py_sync

    return f"llama.cpp {llama_cpp_py_sync.__llama_cpp_tag__} CPU"


class GgufModel:
    """An open file: the whole model, or its vocabulary alone. Raises RuntimeError with llama.cpp's messages."""

    def __init__(self, path: Path, *, vocabulary_only: bool = False) -> None:
        self.ffi, self.lib, _ = _library()
        messages.clear()
        settings = self.lib.llama_model_default_params()
        settings.n_gpu_layers, settings.vocab_only = 0, vocabulary_only
        opened = self.lib.llama_model_load_from_file(str(path).encode(), settings)
        if opened == self.ffi.NULL:
            raise RuntimeError(f"llama.cpp does not open {path.name}: {' '.join(messages)}")
        self.model = self.ffi.gc(opened, self.lib.llama_model_free)
        self.vocabulary = self.lib.llama_model_get_vocab(self.model)

    def tokenize(self, text: str) -> list[int]:
        """Tokenize a text as llama.cpp does, with what the file puts before and behind it; special tokens in it are found."""
        given = text.encode()
        room = len(given) + 8
        found = self.ffi.new("llama_token[]", room)
        count = self.lib.llama_tokenize(self.vocabulary, given, len(given), found, room, True, True)
        return [int(found[place]) for place in range(count)]


@dataclass(frozen=True)
class GgufCache:
    """The tokens so far and their mask, (rows, tokens), and which run of the context has their keys and values."""

    ids: Ids
    mask: Ids
    run: int


class GgufDecoder:
    """A language model. Its context has the keys and values of one cache; another cache's tokens are run again."""

    def __init__(self, path: Path, *, threads: int) -> None:
        self.opened, self.threads, self.name = GgufModel(path), threads, name()
        self.ffi, self.lib = self.opened.ffi, self.opened.lib
        self.outputs = int(self.lib.llama_vocab_n_tokens(self.opened.vocabulary))
        self._context: Any = None
        self._rows = self._room = self._run = 0

    def step(self, ids: Ids, cache: GgufCache | None = None, mask: Ids | None = None) -> tuple[Logits, GgufCache]:
        """Process more tokens; see `modalities.text.decoding.Decoder`. Raises RuntimeError if llama.cpp fails."""
        return self._step(ids, cache, mask, answers=ids.shape[1])

    def last_step(self, ids: Ids, cache: GgufCache | None = None) -> tuple[Logits, GgufCache]:
        """Process more tokens, and compute the head for the last alone, as llama-server does. -> (rows, 1, vocabulary)"""
        return self._step(ids, cache, None, answers=1)

    def _step(self, ids: Ids, cache: GgufCache | None, mask: Ids | None, *, answers: int) -> tuple[Logits, GgufCache]:
        new = np.ones(ids.shape, np.int64) if mask is None else mask
        every = ids if cache is None else np.concatenate([cache.ids, ids], axis=1)
        seen = new if cache is None else np.concatenate([cache.mask, new], axis=1)
        width = ids.shape[1]
        if cache is None or cache.run != self._run or seen.shape[1] > self._room:
            self._start(*seen.shape)
            width = seen.shape[1]
        logits = self._decode(every, seen, width, answers)
        self._run += 1
        return logits, GgufCache(every, seen, self._run)

    def logits(self, batch: Batch) -> Logits:
        """Return the logits of a batch, padded on any side. -> (rows, tokens, vocabulary), 0 at padding"""
        return self.step(batch.input_ids, None, batch.attention_mask)[0]

    def _start(self, rows: int, tokens: int) -> None:
        """Empty the context, or make a larger one."""
        if self._context is not None and rows == self._rows and tokens <= self._room:
            self.lib.llama_memory_clear(self.lib.llama_get_memory(self._context), True)
            return
        self._rows, self._room = rows, max(256, 1 << (2 * tokens - 1).bit_length())
        settings = self.lib.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = rows * self._room, rows
        settings.n_batch = settings.n_ubatch = max(AT_ONCE, rows)
        settings.n_threads = settings.n_threads_batch = self.threads
        self._context = None  # frees the smaller one first
        made = self.lib.llama_init_from_model(self.opened.model, settings)
        if made == self.ffi.NULL:
            raise RuntimeError(f"llama.cpp makes no context of {rows} rows: {' '.join(messages)}")
        self._context = self.ffi.gc(made, self.lib.llama_free)

    def _decode(self, ids: Ids, seen: Ids, width: int, answers: int) -> Logits:
        """Run the real ones of the last `width` tokens. -> (rows, answers, vocabulary), of the last `answers` of them"""
        places = np.maximum(seen.cumsum(axis=1) - 1, 0)
        start = ids.shape[1] - width
        real = np.argwhere(seen[:, start:].astype(bool))
        found = np.zeros((len(ids), answers, self.outputs), np.float32)
        batch = self.lib.llama_batch_init(max(AT_ONCE, self._rows), 0, 1)
        try:
            for first in range(0, len(real), AT_ONCE):
                some = real[first : first + AT_ONCE]
                asked = some[:, 1] >= width - answers
                batch.n_tokens = len(some)
                for number, (row, place) in enumerate(some.tolist()):
                    batch.token[number], batch.pos[number] = int(ids[row, start + place]), int(places[row, start + place])
                    batch.n_seq_id[number], batch.seq_id[number][0], batch.logits[number] = 1, row, int(asked[number])
                if failed := self.lib.llama_decode(self._context, batch):
                    raise RuntimeError(f"llama.cpp does not run these tokens ({failed}): {' '.join(messages)}")
                if not (size := int(asked.sum()) * self.outputs):
                    continue
                answer = np.frombuffer(self.ffi.buffer(self.lib.llama_get_logits(self._context), 4 * size), np.float32)
                found[some[asked, 0], some[asked, 1] - (width - answers)] = answer.reshape(-1, self.outputs)
        finally:
            self.lib.llama_batch_free(batch)
        return found


def open_folder(folder: Path, *, threads: int) -> GgufDecoder:
    """Open folder/model.gguf. Raises RuntimeError with llama.cpp's messages."""
    return GgufDecoder(folder / FILE, threads=threads)
