"""What the teacher says of each row of train: asked once, kept in memory, handed out batch by batch."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression import evaluate, families
from compression.batches import Batch, Encoded, put, taken
from compression.catalog import TEACHER_BYTES
from compression.tasks.base import Task


@dataclass(frozen=True)
class Said:
    """A model's answers to one batch.

    logits: (rows, labels); hidden: (layers + 1, tokens, width) of the real tokens only, row after row; relations: queries,
    keys and values of the last layer, (3, rows, tokens, width), or None where nobody asked for them.
    """

    logits: Tensor
    hidden: Tensor
    relations: Tensor | None


def ask(model: PreTrainedModel, batch: Batch, task: Task, *, relations: bool) -> Said:
    """Run a model and keep what distillation compares. Gradients flow where the caller lets them."""
    found: dict[Any, Tensor] = {}
    last = families.of(model).layers(model)[-1]
    parts = (last.query, last.key, last.value) if relations else ()
    with ExitStack() as hooks:
        for part in parts:
            hooks.callback(part.register_forward_hook(lambda module, _, out: found.__setitem__(module, out)).remove)
        out = model(**batch.inputs, output_hidden_states=True)
    real = batch.mask.bool()
    return Said(
        logits=task.logits(out),
        hidden=torch.stack([state[real] for state in out.hidden_states]),
        relations=torch.stack([found[part] for part in parts]) if parts else None,
    )


class Teacher:
    """A frozen model whose answers to the rows of train are known. Logits always; hidden states where memory allows it."""

    def __init__(self, model: PreTrainedModel, rows: Encoded, *, hidden: bool, relations: bool, parts: int = 1) -> None:
        self.model, self.task, self.relations = model, rows.task, relations
        self.needs_states = hidden or relations
        width, layers = model.config.hidden_size, model.config.num_hidden_layers + 1
        tokens = sum(map(len, rows.tokens))
        self.bytes = 2 * tokens * width * (layers + 3 * relations) if self.needs_states else 0
        self.keeps = self.needs_states and self.bytes <= TEACHER_BYTES
        self._logits: Tensor | None = None
        self._states: list[Tensor] = [torch.empty(0)] * len(rows)
        self._ask_all(rows, evaluate.smaller(evaluate.BATCH, parts))

    @torch.no_grad()
    def _ask_all(self, rows: Encoded, size: int) -> None:
        for batch in rows.by_length(size):
            logits, states = self._answers(batch)
            self._logits = put(self._logits, batch, logits, rows)
            if self.keeps:
                # float16 holds the states to three digits, far finer than a narrower student can follow them.
                parts = torch.split(states.half().cpu(), batch.mask.sum(dim=1).tolist(), dim=1)
                for row, part in zip(batch.rows.tolist(), parts, strict=True):
                    self._states[row] = part.clone()

    def _answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits; hidden states, then queries, keys and values where asked for: (layers + 1 [+ 3], real tokens, width)."""
        here = batch.to(next(self.model.parameters()).device)
        if not self.needs_states:
            return self.task.logits(self.model(**here.inputs)), torch.empty(0)
        said = ask(self.model, here, self.task, relations=self.relations)
        if said.relations is None:
            return said.logits, said.hidden
        return said.logits, torch.cat([said.hidden, said.relations[:, here.mask.bool()]])

    @torch.no_grad()
    def says(self, batch: Batch) -> Said:
        """Answer a batch of train rows, from memory where it is there."""
        device = batch.ids.device
        assert self._logits is not None, "all rows were asked about"  # noqa: S101
        logits = taken(self._logits, batch).to(device)
        if not self.needs_states:
            return Said(logits, torch.empty(0), None)
        if self.keeps:
            # One by one: under autocast, as without integers on a CPU, torch puts no float16 tensors together.
            states = torch.cat([self._states[row].to(device).float() for row in batch.rows.tolist()], dim=1)
        else:
            _, states = self._answers(batch)
        if not self.relations:
            return Said(logits, states, None)
        relations = states.new_zeros((3, *batch.mask.shape, states.shape[-1]))
        relations[:, batch.mask.bool()] = states[-3:]
        return Said(logits, states[:-3], relations)
