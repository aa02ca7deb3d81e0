"""ONNX files in stock ONNX Runtime, on the CPU or to be scored on a GPU. Torch-free."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from compression.evaluation.runtimes.onnx_times import computed_by, node_times, providers_in
from compression.evaluation.runtimes.runner import NotOnCard
from compression.modalities.scoring.base import Declared, Floats as Logits, Inputs, Runner
from compression.modalities.text.inputs import Batch, Ids
from compression.schema.profile import LayerTime
from compression.schema.report.operators import Operators

FILE = "model.onnx"
EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""Session option that makes x86 without VNNI multiply weights within ±127 exactly. With VNNI it only costs time (three quarters
more, measured with 1.32), and for portable files it changes nothing."""
CPU = Path("/proc/cpuinfo")
CPU_PROVIDER, CARD_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
Provider = str | tuple[str, dict[str, str]]
ON_CARD: tuple[Provider, ...] = ((CARD_PROVIDER, {"use_tf32": "0"}), CPU_PROVIDER)
"""By default products are TF32, which has 10 bits after the point."""
PAST = "past_key_values."  #: prefix of the names of the cache's inputs
DTYPES = {
    **{f"tensor({name})": name for name in ("int8", "uint8", "int16", "int32", "int64", "bool", "float16")},
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}


class OnnxRunner:
    """An inference session with fixed threads.

    times: the beginning of the path of a file that gets the time of each node, which slows the session.
    """

    def __init__(
        self, path: Path, *, threads: int, times: Path | None = None, providers: Sequence[Provider] = (CPU_PROVIDER,)
    ) -> None:
        self.path, self.threads = path, threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Spinning threads take the core from the other model that this process measures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not has_vnni():
            options.add_session_config_entry(*EXACT_PRODUCTS)
        options.log_severity_level = 3
        if times is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(times)
        # By default a session whose provider fails in a pass goes on with others, in silence.
        self.session = onnxruntime.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
        self.inputs = [item.name for item in self.session.get_inputs()]
        self.outputs = [item.name for item in self.session.get_outputs()]
        self.name = name_of(self.session)

    def declared(self) -> tuple[list[Declared], list[Declared]]:
        """Return the file's inputs and outputs."""
        return declared_by(self.session)

    def logits(self, batch: Inputs) -> Logits:
        """Return the logits of a batch; start and end logits are stacked if the file has both."""
        # If a model has no token types, its file has no input for them.
        arrays = batch.arrays
        found: list[Logits] = self.session.run(self.outputs, {name: arrays[name] for name in self.inputs})
        return found[0] if len(found) == 1 else np.stack(found, axis=-1)

    def layers(self, batch: Inputs, passes: int) -> list[LayerTime]:
        """Return the mean time of each node in a pass over a batch, from a session of its own."""
        with tempfile.TemporaryDirectory(prefix="lathe-") as place:
            twin = OnnxRunner(self.path, threads=self.threads, times=Path(place) / "nodes")
            for _ in range(passes + 1):
                twin.logits(batch)
            return node_times(Path(twin.session.end_profiling()), passes)


@dataclass(frozen=True)
class OnnxCache:
    """KV cache of the tokens so far: keys and values per layer, and the attention mask, (rows, tokens)."""

    values: list[onnxruntime.OrtValue]
    mask: Ids


class OnnxDecoder:
    """A language model's session. Keys and values stay in ONNX Runtime's memory; steps do not copy them."""

    def __init__(self, opened: OnnxRunner) -> None:
        self.session, self.name = opened.session, opened.name
        self.path, self.threads = opened.path, opened.threads
        self._past = [item for item in self.session.get_inputs() if item.name.startswith(PAST)]
        self._outputs = [item.name for item in self.session.get_outputs()]

    def declared(self) -> tuple[list[Declared], list[Declared]]:
        """Return the file's inputs and outputs."""
        return declared_by(self.session)

    def step(self, ids: Ids, cache: OnnxCache | None = None, mask: Ids | None = None) -> tuple[Logits, OnnxCache]:
        """Process more tokens; see `modalities.text.decoding.Decoder`."""
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
        """Return the logits of a batch, padded on any side."""
        return self.step(batch.input_ids, None, batch.attention_mask)[0]

    def layers(self, prompts: Batch, passes: int) -> list[LayerTime]:
        """Return the mean time of each node in a pass over prompts, from a session of its own."""
        with tempfile.TemporaryDirectory(prefix="lathe-") as place:
            twin = OnnxDecoder(OnnxRunner(self.path, threads=self.threads, times=Path(place) / "nodes"))
            for _ in range(passes + 1):
                twin.step(prompts.input_ids)
            return node_times(Path(twin.session.end_profiling()), passes)

    def _empty(self, rows: int) -> list[onnxruntime.OrtValue]:
        shapes = ((rows, item.shape[1], 0, item.shape[3]) for item in self._past)
        return [onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for shape in shapes]


@cache
def has_vnni() -> bool:
    """Return whether the processor is known to accumulate 8-bit products in 32 bits (VNNI)."""
    return CPU.is_file() and any(flag in CPU.read_text("ascii", "replace") for flag in ("avx512_vnni", "avx_vnni"))


def declared_by(opened: onnxruntime.InferenceSession) -> tuple[list[Declared], list[Declared]]:
    """Return the inputs and the outputs that a session's file declares."""
    inputs, outputs = (
        [Declared(one.name, DTYPES.get(one.type, one.type), tuple(one.shape)) for one in found]
        for found in (opened.get_inputs(), opened.get_outputs())
    )
    return inputs, outputs


def name_of(opened: onnxruntime.InferenceSession) -> str:
    """Return the runtime, version and device as text."""
    return f"onnxruntime {onnxruntime.__version__} {opened.get_providers()[0]}"


def open_folder(folder: Path, *, threads: int, providers: Sequence[Provider] = (CPU_PROVIDER,)) -> OnnxRunner | OnnxDecoder:
    """Open folder/model.onnx, as a language model if it has cache inputs. Raises onnxruntime's errors."""
    return _as_decoder(OnnxRunner(folder / FILE, threads=threads, providers=providers))


def lacking_on_card() -> str | None:
    """Return what this build lacks to use an NVIDIA GPU, or None."""
    if CARD_PROVIDER in onnxruntime.get_available_providers():
        return None
    return f"this build of onnxruntime has no {CARD_PROVIDER}: install onnxruntime-gpu in its place"


def open_on_card(folder: Path, example: Inputs, *, threads: int) -> OnnxRunner | OnnxDecoder:
    """Open folder/model.onnx on the GPU, to be scored there. Raises what `open_by` does."""
    return open_by(ON_CARD, folder, example, threads=threads)


def open_by(providers: Sequence[Provider], folder: Path, example: Inputs, *, threads: int) -> OnnxRunner | OnnxDecoder:
    """Open folder/model.onnx by the first of some providers, which are a GPU's but for the last. A pass over an example tells
    which of them compute it.

    Raises NotOnCard if the first does not start or computes nothing, or if an operator of the file is left to the CPU, which
    would go through the host's memory with each pass; and onnxruntime's errors.
    """
    first, *further = (provider if isinstance(provider, str) else provider[0] for provider in providers)
    onnxruntime.preload_dlls()  # of CUDA, from its packages: a process without torch has not loaded them
    with tempfile.TemporaryDirectory(prefix="lathe-") as place:
        tried = OnnxRunner(folder / FILE, threads=threads, times=Path(place) / "nodes", providers=providers)
        if tried.session.get_providers()[0] != first:
            raise NotOnCard(f"{first} did not start")
        opened: Runner[Any] = _as_decoder(tried)
        opened.logits(example)
        written = Path(tried.session.end_profiling())
        left, working = computed_by(written, CPU_PROVIDER), providers_in(written)
    del opened, tried
    if left:
        raise NotOnCard(f"there are no kernels for the file's {', '.join(left)} in {' or '.join([first, *further[:-1]])}")
    if first not in working:
        raise NotOnCard(f"{first} computes nothing of the file")
    return open_folder(folder, threads=threads, providers=providers)


def _as_decoder(runner: OnnxRunner) -> OnnxRunner | OnnxDecoder:
    return OnnxDecoder(runner) if any(name.startswith(PAST) for name in runner.inputs) else runner


def operators(folder: Path, example: Inputs) -> Operators:
    """Count the operators of folder/model.onnx, and those that a pass over an example executes. Raises onnxruntime's errors."""
    import onnx  # which processes that only serve a file do without

    nodes = onnx.load(folder / FILE, load_external_data=False).graph.node
    before = Counter(node.op_type for node in nodes if node.op_type != "Constant")
    del nodes  # with the weights of the file
    with tempfile.TemporaryDirectory(prefix="lathe-") as place:
        runner = OnnxRunner(folder / FILE, threads=1, times=Path(place) / "nodes")
        opened: Runner[Any] = _as_decoder(runner)
        for _ in range(2):  # `node_times` leaves the first pass out
            opened.logits(example)
        executed = node_times(Path(runner.session.end_profiling()), 1)
    return Operators(before=before, after=Counter(one.type for one in executed))
