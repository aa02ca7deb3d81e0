"""What a teacher says of each row: asked once, kept in memory or on disk, handed out batch by batch."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression import evaluate, families
from compression.answers import HALF, InMemory, OnDisk, Store
from compression.batches import Batch, Encoded, put, taken
from compression.catalog import TEACHER_BYTES
from compression.numerics import gradient_dtype
from compression.tasks.base import Task


@dataclass(frozen=True)
class Look:
    """What of a model is compared beside its answers, by layer numbers from 1; 0 is the embedding layer.

    states: whose outputs; scores: whose queries and keys; relations: whose queries, keys and values, None for nobody's.
    """

    states: tuple[int, ...] = ()
    scores: tuple[int, ...] = ()
    relations: int | None = None

    def __len__(self) -> int:
        return len(self.states) + 2 * len(self.scores) + 3 * (self.relations is not None)

    @classmethod
    def at_all(cls, model: PreTrainedModel, *, relations: bool = False) -> "Look":
        """Look at the states of every layer and, if asked, at the relations of the last."""
        layers = model.config.num_hidden_layers
        return cls(tuple(range(layers + 1)), relations=layers if relations else None)


ANSWERS_ALONE = Look()


@dataclass(frozen=True)
class Said:
    """A model's answers to one batch.

    logits: (rows, labels); hidden: (states, tokens, width) of the real tokens only, row after row; scores: queries and keys,
    (layers, 2, rows, tokens, width); relations: queries, keys and values of one layer, (3, rows, tokens, width). None where
    nobody asked for them.
    """

    logits: Tensor
    hidden: Tensor
    scores: Tensor | None = None
    relations: Tensor | None = None


def ask(model: PreTrainedModel, batch: Batch, task: Task, look: Look) -> Said:
    """Run a model and keep what distillation compares. Gradients flow where the caller lets them."""
    if not len(look):
        return Said(task.logits(model(**batch.inputs)), torch.empty(0))
    found: dict[nn.Module, Tensor] = {}
    layers = families.of(model).layers(model)
    pairs = [(layers[number - 1].query, layers[number - 1].key) for number in look.scores]
    related = layers[look.relations - 1] if look.relations is not None else None
    trio = (related.query, related.key, related.value) if related is not None else ()
    with ExitStack() as hooks:
        for part in {*trio, *(part for pair in pairs for part in pair)}:
            hooks.callback(part.register_forward_hook(lambda module, _, out: found.__setitem__(module, out)).remove)
        out: Any = model(**batch.inputs, output_hidden_states=bool(look.states))
    real = batch.mask.bool()
    states = [out.hidden_states[number][real] for number in look.states]
    return Said(
        logits=task.logits(out),
        hidden=torch.stack(states) if states else torch.empty(0),
        scores=torch.stack([torch.stack([found[query], found[key]]) for query, key in pairs]) if pairs else None,
        relations=torch.stack([found[part] for part in trio]) if trio else None,
    )


class Teacher:
    """A frozen model whose answers to some rows are known. Logits always; what else is looked at where there is room for it.

    rows: as this model reads them, in the order of the student's and of as many tokens. logits: (rows, ...) where they are
    known from elsewhere, as those of several teachers are. spill: a file, and the bytes that it may have.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Encoded,
        look: Look,
        *,
        parts: int = 1,
        logits: Tensor | None = None,
        spill: tuple[Path, float] | None = None,
    ) -> None:
        self.model, self.task, self.rows, self.look = model, rows.task, rows, look
        lengths = list(map(len, rows.tokens))
        width = model.config.hidden_size
        self.bytes = HALF * sum(lengths) * width * len(look)
        self.store: Store | None = None
        if len(look) and self.bytes <= TEACHER_BYTES:
            self.store = InMemory(len(rows))
        elif len(look) and spill is not None and self.bytes <= spill[1]:
            self.store = OnDisk(spill[0], lengths, len(look), width)
        self._logits = logits
        if self._logits is None or self.store is not None:
            self._ask_all(rows, evaluate.smaller(evaluate.BATCH, parts))

    @property
    def keeps(self) -> bool:
        """Whether all that is looked at is known, and the model need not be asked again."""
        return self.store is not None or not len(self.look)

    @property
    def on_disk(self) -> bool:
        """Whether it is known from a file."""
        return isinstance(self.store, OnDisk)

    @torch.no_grad()
    def _ask_all(self, rows: Encoded, size: int) -> None:
        known = self._logits
        for batch in rows.by_length(size):
            logits, states = self._answers(batch)
            if known is None:
                self._logits = put(self._logits, batch, logits, rows)
            if self.store is not None:
                parts = torch.split(states.half().cpu(), batch.mask.sum(dim=1).tolist(), dim=1)
                for row, part in zip(batch.rows.tolist(), parts, strict=True):
                    self.store.put(row, part)

    def _answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits; then all that is looked at side by side, (states, real tokens, width)."""
        here = batch.to(next(self.model.parameters()).device)
        said = ask(self.model, here, self.task, self.look)
        if not len(self.look):
            return said.logits, torch.empty(0)
        real = here.mask.bool()
        found = [said.hidden] if self.look.states else []
        if said.scores is not None:
            found.append(said.scores.flatten(0, 1)[:, real])
        if said.relations is not None:
            found.append(said.relations[:, real])
        return said.logits, torch.cat(found) if len(found) > 1 else found[0]

    @torch.no_grad()
    def says(self, batch: Batch) -> Said:
        """Answer a batch of the student's, from memory where it is there."""
        device = batch.ids.device
        assert self._logits is not None, "all rows were asked about"  # noqa: S101
        logits = taken(self._logits, batch).to(device)
        if not len(self.look):
            return Said(logits, torch.empty(0))
        rows = batch.rows.tolist()
        if self.store is not None:
            # One by one: under autocast, as without integers on a CPU, torch puts no float16 tensors together.
            states = torch.cat([states.to(device).float() for states in self.store.get(rows)], dim=1)
        else:
            # Beside the student's error that of bfloat16 is nothing, and this is nearly half of a step that asks in float32.
            with torch.autocast(device.type, torch.bfloat16, enabled=gradient_dtype(device) == torch.bfloat16):
                _, states = self._answers(self.rows.batch(rows))
            states = states.float()
        return self._apart(logits, states.to(device), batch.mask)

    def _apart(self, logits: Tensor, states: Tensor, mask: Tensor) -> Said:
        """Take apart what `_answers` put side by side."""
        look, real = self.look, mask.bool()
        ends = len(look.states), len(look.states) + 2 * len(look.scores)

        def padded(flat: Tensor) -> Tensor:
            whole = flat.new_zeros((len(flat), *mask.shape, flat.shape[-1]))
            whole[:, real] = flat
            return whole

        return Said(
            logits,
            states[: ends[0]],
            padded(states[ends[0] : ends[1]]).view(-1, 2, *mask.shape, states.shape[-1]) if look.scores else None,
            padded(states[ends[1] :]) if look.relations is not None else None,
        )

    def close(self) -> None:
        """Free what is kept."""
        if self.store is not None:
            self.store.close()
