"""The runtimes that a model is timed in on a GPU. Each opens a model, or says why it cannot."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, cast

import onnxruntime
import torch
import transformers
from torch import nn

from compression.evaluation.on_card.timing import CLOCK, EVENTS, Timer, by_clock, by_events
from compression.evaluation.runtimes.onnx import CARD_PROVIDER, CPU_PROVIDER, open_by
from compression.evaluation.runtimes.runner import NotOnCard
from compression.modalities.registry import modality_of, scorer_of
from compression.models.architectures.heads import of_task
from compression.models.loading import open_whole
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Evaluate
from compression.schema.tasks import TASKS
from compression.system.cards import SLICE, VISIBLE, list_cards
from compression.system.device import CARD

NO_FILE = "the job has no ONNX file of it."
EXAMPLE = 2, 8  #: rows and tokens of the pass that tells which of ONNX Runtime's providers compute a file


class Unavailable(Exception):
    """A runtime cannot time a model here; its text says why."""


@dataclass(frozen=True)
class CardModel:
    """A model that is timed: its stock checkpoint, and its ONNX file if it has one."""

    folder: Path
    onnx: Path | None
    task: Task
    lacks: str = NO_FILE  #: why there is no ONNX file


class Opened(Protocol):
    """A model in a runtime on the GPU."""

    @property
    def version(self) -> str:
        """Return the packages and their versions."""

    @property
    def timer(self) -> Timer:
        """Return what times a pass."""

    @property
    def timed_by(self) -> str:
        """Return by which clock, for people."""

    @property
    def continues(self) -> bool:
        """Return whether it generates tokens after a prompt."""

    def call(self, batch: int, length: int, tokens: int = 0) -> Callable[[], object]:
        """Return what runs a pass over a batch, and generates so many tokens after it, one a step."""

    def peak_bytes(self) -> int | None:
        """Return the most that it held of the GPU since it was opened; None if it does not tell."""


class TorchModel:
    """A stock model in PyTorch, in bfloat16. A compiled one is timed in passes alone: each step of a cache is another shape."""

    timed_by = EVENTS

    def __init__(self, model: CardModel, *, compiled: bool = False, device: torch.device = CARD) -> None:
        self.device, self.task, self.timer = device, model.task, by_events
        self.continues = TASKS[model.task].generates and not compiled
        self.version = f"torch {torch.__version__}, transformers {transformers.__version__}"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.model: nn.Module = open_whole(model.folder, of_task(model.task)).to(device, torch.bfloat16)
        if compiled:
            self.model.compile()

    def call(self, batch: int, length: int, tokens: int = 0) -> Callable[[], object]:
        """See `Opened`."""
        given = modality_of(self.task).example_inputs(self.model, batch, length)
        inputs = {name: self._moved(value) for name, value in given.items()}
        if "attention_mask" in inputs:
            inputs["attention_mask"].fill_(1)  # no row is padded

        @torch.no_grad()
        def run() -> object:
            out = self.model(**inputs, use_cache=True) if self.continues else self.model(**inputs)
            for _ in range(tokens):
                out = self.model(input_ids=inputs["input_ids"][:, -1:], cache=out.cache, use_cache=True)
            return out

        return run

    def _moved(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.device, torch.bfloat16 if value.is_floating_point() else value.dtype)

    def peak_bytes(self) -> int | None:
        """See `Opened`."""
        return int(torch.cuda.max_memory_allocated()) if self.device.type == "cuda" else None


class OnnxModel:
    """An artifact's ONNX file in ONNX Runtime. Inputs and answers are in the host's memory, and their transfer counts. So would
    a cache's with each token, which nobody serves so: of language models prompts alone are timed.

    providers: of the GPU, the one that is timed first; the further ones take what it leaves. What all of them leave goes to the
    CPU, whose time is no GPU's: such a file is not timed.
    """

    timed_by, continues = CLOCK, False

    def __init__(self, model: CardModel, providers: Sequence[str]) -> None:
        if model.onnx is None:
            raise Unavailable(model.lacks)
        if providers[0] not in onnxruntime.get_available_providers():
            raise Unavailable(f"this build of onnxruntime has no {providers[0]}: install onnxruntime-gpu in its place.")
        self.timer, self.version = by_clock, f"onnxruntime {onnxruntime.__version__}"
        self.reader = scorer_of(model.task, Evaluate(), ()).reader(model.onnx)
        try:
            self.runner: Any = open_by((*providers, CPU_PROVIDER), model.onnx, self.reader.example(*EXAMPLE), threads=1)
        except NotOnCard as reason:
            raise Unavailable(f"{reason}.") from None

    def call(self, batch: int, length: int, tokens: int = 0) -> Callable[[], object]:
        """See `Opened`."""
        if tokens:
            raise ValueError("tokens are not generated in this runtime")
        example = self.reader.example(batch, length)
        return lambda: self.runner.logits(example)

    def peak_bytes(self) -> int | None:
        """See `Opened`."""
        return None


@contextmanager
def numbered() -> Iterator[None]:
    """Name this process's card by its number within this context, and not by its UUID: vLLM reads CUDA_VISIBLE_DEVICES itself,
    and takes numbers alone. Raises Unavailable for a slice of MIG, which has none.
    """
    visible = os.environ.get(VISIBLE, "")
    if visible.startswith(SLICE):
        raise Unavailable("vLLM takes a card by its number, and a slice of MIG has none.")
    place = next((place for place, card in enumerate(list_cards()) if card.uuid and card.uuid == visible), None)
    if place is None:
        yield
        return
    os.environ[VISIBLE] = str(place)
    try:
        yield
    finally:
        os.environ[VISIBLE] = visible


class VllmModel:
    """A language model in vLLM, in bfloat16. Its time is that of a whole request to its engine."""

    timed_by, continues = CLOCK, True

    def __init__(self, model: CardModel) -> None:
        if not TASKS[model.task].generates:
            raise Unavailable("vLLM is timed with language models alone.")
        try:
            self.version = f"vllm {version('vllm')}"
        except PackageNotFoundError:
            raise Unavailable("vLLM is not installed.") from None
        self.timer, self.vllm = by_clock, cast(Any, import_module("vllm"))
        options = {"dtype": "bfloat16", "skip_tokenizer_init": True, "enable_prefix_caching": False}
        with numbered():
            self.engine = self.vllm.LLM(model=str(model.folder), **options)

    def call(self, batch: int, length: int, tokens: int = 0) -> Callable[[], object]:
        """See `Opened`. A request for a prompt generates one token: as soon as its prompt is read, it has it."""
        asked = self.vllm.SamplingParams(temperature=0.0, max_tokens=tokens + 1, ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": [row + 1] * length} for row in range(batch)]
        return lambda: self.engine.generate(prompts, asked, use_tqdm=False)

    def peak_bytes(self) -> int | None:
        """See `Opened`. vLLM reserves most of the GPU whatever the model."""
        return None


RUNTIMES: dict[str, Callable[[CardModel], Opened]] = {
    "PyTorch bfloat16": TorchModel,
    "PyTorch bfloat16, compiled": partial(TorchModel, compiled=True),
    "ONNX Runtime CUDA": partial(OnnxModel, providers=(CARD_PROVIDER,)),
    "ONNX Runtime TensorRT": partial(OnnxModel, providers=("TensorrtExecutionProvider", CARD_PROVIDER)),
    "vLLM": VllmModel,
}
"""By the name of its row."""
