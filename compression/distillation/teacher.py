"""Teacher outputs per row: computed once, cached in memory or on disk, and returned batch by batch.

`live_teacher` has those that are computed for each batch anew.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compression.distillation.feature_cache import HALF, DiskFeatureStore, FeatureStore, MemoryFeatureStore
from compression.modalities.base import Batch, Examples, StatesOf, TaskAdapter
from compression.modalities.logit_store import store_logits, stored_logits
from compression.modalities.sampling import BATCH, micro_batch_size
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import Attention, view_of
from compression.planning.teacher_cost import TEACHER_BYTES
from compression.quantization.precision import half_products

LARGEST_HALF = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class FeatureRequest:
    """Features to compare beside the logits, by layer number from 1; 0 is the embedding layer."""

    states: tuple[int, ...] = ()  #: layers whose outputs are compared
    scores: tuple[int, ...] = ()  #: layers whose queries and keys are compared
    relations: int | None = None  #: the layer whose queries, keys and values are compared
    maps: tuple[int, ...] = ()  #: feature maps that are compared, by number from 1; there is then nothing else

    def __len__(self) -> int:
        return len(self.states) + 2 * len(self.scores) + 3 * (self.relations is not None) + len(self.maps)


LOGITS_ALONE = FeatureRequest()


@dataclass(frozen=True)
class TeacherOutputs:
    """A model's outputs for one batch."""

    logits: Tensor  #: (rows, labels)
    hidden: Tensor  #: (states, tokens, width) of the real tokens only, row after row
    scores: Tensor | None = None  #: queries and keys, (layers, 2, rows, tokens, width), if requested
    relations: Tensor | None = None  #: queries, keys and values of one layer, (3, rows, tokens, width), if requested
    maps: tuple[Tensor, ...] = ()  #: (rows, channels, height, width) each
    states: tuple[StatesOf, ...] = ()  #: of all teachers of a `packed` task, if their output layers make the targets


def request_features(model: PreTrainedModel, batch: Batch, task: TaskAdapter, look: FeatureRequest) -> TeacherOutputs:
    """Run a model and return the features that distillation compares, with gradients.

    For a language model, `logits` are the inputs of its head: the last states at the scored positions, (positions, width).
    """
    if not len(look) and task.packed is None:
        return TeacherOutputs(task.logits(model(**batch.inputs)), torch.empty(0))
    found: dict[nn.Module, Tensor] = {}
    layers = adapter_of(model).attentions(model) if look.scores or look.relations is not None else []
    scored = [layers[number - 1] for number in look.scores]
    related = [layers[look.relations - 1]] if look.relations is not None else []
    maps = adapter_of(model).feature_maps(model) if look.maps else ()
    mapped = [maps[number - 1] for number in look.maps]
    with ExitStack() as hooks:
        for maker in {maker for layer in (*scored, *related) for maker in layer.makers} | {tap[0] for tap in mapped}:
            hooks.callback(maker.register_forward_hook(lambda module, _, out: found.__setitem__(module, out)).remove)
        asked = {"output_hidden_states": bool(look.states)}
        if task.packed is not None:
            out, logits = task.packed.forward(model, batch, **asked)
        else:
            out = model(**batch.inputs, **asked)
            logits = task.logits(out)
    if look.maps:
        return TeacherOutputs(logits, torch.empty(0), maps=tuple(view_of(tap)(found[tap[0]]) for tap in mapped))
    real = batch.mask.bool()
    states = [out.hidden_states[number][real] for number in look.states]

    def made(layer: Attention) -> tuple[Tensor, Tensor, Tensor]:
        return layer.read(*(found[maker] for maker in layer.makers))

    return TeacherOutputs(
        logits=logits,
        hidden=torch.stack(states) if states else torch.empty(0),
        scores=torch.stack([torch.stack(made(layer)[:2]) for layer in scored]) if scored else None,
        relations=torch.stack(made(related[0])) if related else None,
    )


class Teacher:
    """A frozen model with cached outputs: always the logits, other features if there is room. Call `precompute` first.

    rows: as this model's preprocessor reads them, cut like the student's. logits: (rows, ...) if they are known already, as for
    several teachers. cache_file: path of a cache file and its byte limit; taken: bytes of memory that other
    teachers' features take of TEACHER_BYTES. half: whether to multiply in bfloat16 for all that is
    asked; otherwise only features that are asked again are rounded so, as the recipe's precision says.
    """

    states_answer = False  #: whether logits are computed from the states; the states may then not be rounded more than logits

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Examples,
        look: FeatureRequest,
        *,
        parts: int = 1,
        logits: Tensor | None = None,
        cache_file: tuple[Path, float] | None = None,
        half: bool = False,
        taken: int = 0,
    ) -> None:
        if self.states_answer:
            states = (*look.states, model.config.num_hidden_layers)
            look, logits = replace(look, states=states), torch.zeros((len(rows), 0))
        self.model, self.task, self.rows, self.look, self.half = model, rows.task, rows, look, half
        lengths = rows.lengths
        shape = adapter_of(model).shape_of(model.config)
        self.widths = shape.hidden, shape.attended
        self.width = width = max(shape.hidden * bool(look.states), shape.attended * (len(look) > len(look.states)))
        self.bytes = HALF * sum(lengths) * width * len(look)
        self.store: FeatureStore | None = None
        if len(look) and self.bytes <= TEACHER_BYTES - taken:
            self.store = MemoryFeatureStore(len(rows))
        elif len(look) and cache_file is not None and self.bytes <= cache_file[1]:
            self.store = DiskFeatureStore(cache_file[0], lengths, len(look), width)
        self._logits, self._size = logits, micro_batch_size(BATCH, parts)

    @property
    def models(self) -> list[PreTrainedModel]:
        """The model."""
        return [self.model]

    @property
    def keeps(self) -> bool:
        """Whether all requested features are cached, so that the model does not have to run again."""
        return self.store is not None or not len(self.look)

    @property
    def caches(self) -> list[bool]:
        """Whether each teacher's features are cached: as float16 then, and once for all epochs."""
        return [self.keeps]

    @property
    def on_disk(self) -> bool:
        """Whether the features are cached in a file."""
        return isinstance(self.store, DiskFeatureStore)

    @property
    def note(self) -> str | None:
        """Say where the features are, or None if they are in memory."""
        if not self.keeps:
            return f"The teacher's states would take {self.bytes / 2**30:.1f} GiB: it is asked again in each epoch."
        return f"The teacher's states are kept on disk ({self.bytes / 2**30:.1f} GiB)." if self.on_disk else None

    @property
    def asks(self) -> int:
        """Number of rows that `precompute` runs: 0 if the logits are known and no other feature is cached."""
        return len(self.rows) if self._logits is None or self.store is not None else 0

    @property
    def logits(self) -> Tensor:
        """Return the logits of all rows, in order, on the CPU."""
        assert self._logits is not None, "all rows were asked about"  # noqa: S101
        return self._logits

    def asked(self) -> Self:
        """Run `precompute` to its end and return the teacher."""
        for _ in self.precompute():
            pass
        return self

    @torch.no_grad()
    def precompute(self) -> Iterator[int]:
        """Run the model once on every row if any output is missing; yield the number of rows of each batch."""
        if not self.asks:
            return
        known = self._logits
        for batch in self.rows.by_length(self._size):
            with half_products(next(self.model.parameters()).device, wanted=self.half):
                logits, states = self._answers(batch)
            if known is None:
                self._logits = store_logits(self._logits, batch, logits, self.rows)
            if self.store is not None:
                halves = states.clamp(-LARGEST_HALF, LARGEST_HALF).half().cpu()  # some channels of decoders exceed float16
                parts = torch.split(halves, batch.mask.sum(dim=1).tolist(), dim=1)
                for row, part in zip(batch.rows.tolist(), parts, strict=True):
                    self.store.put(row, part)
            yield len(batch.rows)

    def _answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits, and all features stacked and zero-padded to (states, real tokens, width)."""
        here = batch.to(next(self.model.parameters()).device)
        outputs = request_features(self.model, here, self.task, self.look)
        if not len(self.look):
            return outputs.logits, torch.empty(0)
        real = here.mask.bool()
        features = [outputs.hidden] if self.look.states else []
        if outputs.scores is not None:
            features.append(outputs.scores.flatten(0, 1)[:, real])
        if outputs.relations is not None:
            features.append(outputs.relations[:, real])
        even = [functional.pad(part, (0, more)) if (more := self.width - part.shape[-1]) else part for part in features]
        return outputs.logits, torch.cat(even) if len(even) > 1 else even[0]

    @torch.no_grad()
    def outputs(self, batch: Batch) -> TeacherOutputs:
        """Return the outputs for a batch of the student, from the cache if possible."""
        device = batch.mask.device
        logits = stored_logits(self.logits, batch).to(device)
        if not len(self.look):
            return TeacherOutputs(logits, torch.empty(0))
        rows = batch.rows.tolist()
        if self.store is not None:
            # One by one: under autocast (used without integers on a CPU) torch does not concatenate float16 tensors.
            states = torch.cat([states.to(device).float() for states in self.store.get(rows)], dim=1)
        else:
            # bfloat16's error is negligible against the student's, and in float32 the teacher takes nearly half of a step.
            with half_products(device, wanted=self.half or not self.states_answer):
                _, states = self._answers(self.rows.batch(rows))
            states = states.float()
        return self._apart(logits, states.to(device), batch.mask)

    def _apart(self, logits: Tensor, states: Tensor, mask: Tensor) -> TeacherOutputs:
        """Split the features that `_answers` stacked."""
        look, real = self.look, mask.bool()
        ends = len(look.states), len(look.states) + 2 * len(look.scores)
        hidden, attended = self.widths

        def padded(flat: Tensor) -> Tensor:
            whole = flat.new_zeros((len(flat), *mask.shape, flat.shape[-1]))
            whole[:, real] = flat
            return whole

        return TeacherOutputs(
            logits,
            states[: ends[0], ..., :hidden],
            padded(states[ends[0] : ends[1], ..., :attended]).view(-1, 2, *mask.shape, attended) if look.scores else None,
            padded(states[ends[1] :, ..., :attended]) if look.relations is not None else None,
        )

    def close(self) -> None:
        """Free the cached features."""
        if self.store is not None:
            self.store.close()
