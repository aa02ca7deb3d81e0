"""Scores and prunes a decoder layer by layer: memory never holds more than one layer and its outputs.

Scores are those of `pruning.scores`, observed in the stock layers. All rows go through a layer before the next is opened, as in
compressors of large models (GPTQ, Frantar et al. 2023). Between layers the rows' hidden states are kept: rows × tokens × hidden
in the checkpoint's own type. Pruning is that of `models.adapters`, one tensor at a time.
"""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compression.modalities.base import Batch
from compression.models.adapters.adapter import prefix, stored
from compression.models.adapters.registry import decoder_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures import heads
from compression.models.architectures.decoder_tensor_names import stored_parts
from compression.models.files.uploaded import uploaded
from compression.models.sharded_checkpoint import LARGEST_SHARD, PlannedTensor, SafetensorsReader, writing
from compression.models.skeleton import generation_of, skeleton, sources
from compression.pruning.scores import ActivationCollector, ImportanceScores
from compression.system.row_file import RowFile

TOGETHER = 1024  #: Tokens per forward pass of a layer. With more, a small model's activations would outweigh the whole model.


class LayerwiseRunner:
    """A decoder's checkpoint, opened one layer at a time. Raises the errors of `skeleton` and `sources`. dtype: by default, the
    type of most of the checkpoint's bytes. model: the stock model, on the meta device except in open modules, whose
    quantization may be simulated.
    """

    def __init__(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        self.folder = folder
        self.model = skeleton(folder)
        self.family = decoder_of(self.model)
        self.dtype: torch.dtype = dtype or getattr(torch, uploaded(folder).dtype)
        self._checkpoint = SafetensorsReader(folder)
        self._sources = sources(self.model, self._checkpoint)
        kept = (getattr(self.model, name, None) for name in ("_keep_in_fp32_modules_strict", "_keep_in_fp32_modules"))
        self._precise = [name for names in kept for name in names or ()]

    def tensor(self, name: str) -> Tensor:
        """Read one whole tensor of the model; stored experts are concatenated."""
        first, *others = self._sources[name]
        whole = self._checkpoint.tensor(first)
        if others:
            whole = torch.cat([whole, *map(self._checkpoint.tensor, others)]).view(self.model.get_parameter(name).shape)
        return whole.to(self._type(name, self.dtype)) if whole.is_floating_point() else whole

    def opened(self, name: str) -> AbstractContextManager[nn.Module]:
        """Load the weights of a module of the base model for the duration of the block."""
        return self.filled(f"{prefix(self.model)}{name}")

    @contextmanager
    def filled(self, name: str) -> Iterator[nn.Module]:
        """Load the weights of any module of the model for the duration of the block."""
        module = self.model.get_submodule(name)
        module.load_state_dict({key: self.tensor(f"{name}.{key}") for key in module.state_dict()}, assign=True)
        empty = [key for key, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
        if empty:
            raise RuntimeError(f"{name}.{empty[0]} is in no checkpoint")
        try:
            yield module
        finally:
            module.to("meta")

    def scores(
        self, batches: Sequence[Batch], cache_file: Path, norm: Literal["l1", "l2"] = "l1"
    ) -> Generator[tuple[int, int], None, ImportanceScores]:
        """Compute importance scores as `score_activations` does. Yields (layers done, total) after each layer. cache_file: for
        the rows' hidden states, if they are larger than a layer. Raises OSError if the disk has no room.
        """
        collector = ActivationCollector(self.model, norm)
        final = self.model.base_model.get_submodule(self.family.final_norm)

        def next_is(batch: Batch) -> None:
            collector.mask = batch.mask

        with ExitStack() as hooks:
            collector.attach(hooks)
            for done, total, _ in self._through(batches, cache_file, next_is):
                if done < total:
                    collector.forget(final)  # its input was not the last layer's output
                yield done, total
        return collector.scores()

    @torch.no_grad()
    def logits(self, batches: Sequence[Batch], cache_file: Path) -> list[Tensor]:
        """Return each batch's logits: of real tokens, (tokens, vocabulary or 2), of a classifier (rows, labels), which as in
        stock code follow a row's last token that is not padding. cache_file: as above.
        """
        states: list[Tensor] = []
        for _, _, outputs in self._through(batches, cache_file, lambda _: None):
            states = outputs
        out = self.model.get_output_embeddings() or self.family.head(self.model).out
        head = next(name for name, module in self.model.named_modules() if module is out)
        by_row = heads.of_architecture(type(self.model).__name__) is heads.CLASSIFIER
        asked = self._last if by_row else (lambda batch: batch.mask.bool())
        with self.filled(head) as last:
            return [last(each[asked(batch)]) for batch, each in zip(batches, states, strict=True)]

    def _last(self, batch: Batch) -> tuple[Tensor, Tensor]:
        padding = self.model.config.pad_token_id
        ids: Tensor = batch.inputs["input_ids"]
        places = torch.arange(ids.shape[1])
        real = places if padding is None else places * (ids != padding)
        return torch.arange(len(ids)), real.expand_as(ids).argmax(dim=1)

    @torch.no_grad()
    def _through(
        self, batches: Sequence[Batch], cache_file: Path, next_is: Callable[[Batch], None]
    ) -> Iterator[tuple[int, int, list[Tensor]]]:
        """Run rows through the base model by layers; yield (layers done, total, outputs) after each. Only after the last layer
        are there outputs, (rows, tokens, hidden) for each batch. next_is: called with a batch before it goes through a layer.
        """
        base, stack, last = self.model.base_model, self.family.block, self.family.final_norm
        layers = list(base.get_submodule(stack).children())
        with ExitStack() as open_parts:
            states = self._between(batches, layers[0], cache_file)
            if isinstance(states, _OnDisk):
                open_parts.callback(states.close)
            with self.opened(self.family.shallow[0]) as table:  # of tokens: positions are added later
                for place, batch in enumerate(batches):
                    states[place] = table(batch.inputs["input_ids"])
            for name in (*self.family.shallow[1:], last):
                open_parts.enter_context(self.opened(name))
            self._turn_positions()
            for number, layer in enumerate(layers):
                outputs = list[Tensor]()
                with self.opened(f"{stack}.{number}"):
                    shim = _LayerShim(layer)
                    setattr(base, stack, nn.ModuleList([shim if each is layer else _LayerShim() for each in layers]))
                    for place, batch in enumerate(batches):
                        # If the architecture adds position embeddings, stock code adds them to the first states.
                        shim.states = states[place] if number else None
                        next_is(batch)
                        more = {key: value for key, value in batch.inputs.items() if key != "input_ids"}
                        entering = states[place] if shim.states is None else shim.states
                        found = base(**{**more, "inputs_embeds": entering, "use_cache": False}).last_hidden_state
                        states[place] = shim.taken()
                        if number == len(layers) - 1:
                            outputs.append(found)
                    setattr(base, stack, nn.ModuleList(layers))
                yield number + 1, len(layers), outputs

    def _between(self, batches: Sequence[Batch], layer: nn.Module, cache_file: Path) -> "list[Tensor] | _OnDisk":
        width = int(self.family.shape_of(self.model.config).hidden)
        shapes = [(*batch.mask.shape, width) for batch in batches]
        one = sum(parameter.numel() for parameter in layer.parameters())
        return [torch.empty(0)] * len(shapes) if sum(map(prod, shapes)) <= one else _OnDisk(cache_file, shapes, self.dtype)

    def _turn_positions(self) -> None:
        """Build the rotary embedding if the model has one: it has no weights, only values from the config."""
        base: Any = self.model.base_model
        if hasattr(base, "rotary_emb"):
            with torch.device("cpu"):
                base.rotary_emb = type(base.rotary_emb)(config=self.model.config)

    def cut(
        self, plan: PruningPlan, place: Path, *, dtype: torch.dtype | None = None, largest: int = LARGEST_SHARD
    ) -> Generator[tuple[int, int], None, None]:
        """Write the model that `family.narrowed` would build to the folder `place`, with config.json.

        dtype: the type of tensors that stock code does not keep in float32, by default the checkpoint's own. Yields (elements
        written, total) after each tensor. Raises UnsupportedShape if the config cannot express the shape, ValueError if the
        shapes in `plan` do not agree.
        """
        dtype = dtype or self.dtype
        cut = self.family.cut(self.model, plan)
        with torch.device("meta"):
            small = type(self.model)(cut.config)
        wanted = {name: tuple(tensor.shape) for name, tensor in stored(small)}
        types = {name: self._type(cut.source(name), dtype) for name in wanted}
        shards_of = [
            [PlannedTensor(part, types[name], size) for part, size in stored_parts(name, shape).items()]
            for name, shape in wanted.items()
        ]
        done, total = 0, sum(map(prod, wanted.values()))
        with writing(place, shards_of, largest=largest) as shards:
            for name, shape in wanted.items():
                value = cut.of(name, self.tensor(cut.source(name)))
                if tuple(value.shape) != shape:
                    raise ValueError(f"{name} would be {tuple(value.shape)}, and the config says {shape}")
                parts = stored_parts(name, shape)
                rows_of = value.reshape(len(parts), *next(iter(parts.values())))
                for part, rows in zip(parts, rows_of, strict=True):
                    shards.put(part, rows.to(types[name]))
                done += prod(shape)
                yield done, total
            small.config.dtype = str(dtype).removeprefix("torch.")
            small.config.save_pretrained(shards.folder)
            if small.can_generate():
                generation_of(small, self.folder).save_pretrained(shards.folder)

    def _type(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """Return a tensor's type if most tensors are in `dtype`: routers stay in float32, as in stock code."""
        precise = any(re.search(rf"(^|\.){re.escape(part)}(\.|$)", name) for part in self._precise)
        return torch.float32 if precise else dtype


class _OnDisk:
    """The hidden states of each batch, in a file, read one batch at a time. shapes: each batch's shape."""

    def __init__(self, path: Path, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> None:
        self._shapes, self._dtype = shapes, dtype
        self._file = RowFile(path, [prod(shape) * dtype.itemsize for shape in shapes])

    def __getitem__(self, place: int) -> Tensor:
        return torch.frombuffer(self._file.read(place), dtype=self._dtype).view(self._shapes[place])

    def __setitem__(self, place: int, states: Tensor) -> None:
        self._file.write(place, states.to(self._dtype).contiguous().view(torch.uint8).flatten().numpy().data)

    def close(self) -> None:
        self._file.close()


class _LayerShim(nn.Module):
    """Replaces a layer: passes states through, or runs stored states through it and keeps its output."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.states: Tensor | None = None
        self.output: Tensor | None = None

    def taken(self) -> Tensor:
        """Return the layer's output and drop the stored states."""
        assert self.output is not None, "the layer has run"  # noqa: S101
        output, self.output, self.states = self.output, None, None
        return output

    def forward(self, states: Tensor, *more: Any, **named: Any) -> Tensor:
        """Map states of shape (rows, tokens, hidden) to states of the same shape."""
        if self.layer is None:
            return states
        output: Tensor = self.layer(states if self.states is None else self.states, *more, **named)
        self.output = output
        return output
