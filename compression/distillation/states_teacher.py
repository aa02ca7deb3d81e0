"""Teachers of a language model, which cache last hidden states: their output layers make logits of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.distillation.live_teacher import Member
from compression.distillation.teacher import LOGITS_ALONE, FeatureRequest, Teacher, TeacherOutputs
from compression.modalities.base import Batch


class StatesTeacher(Teacher):
    """A frozen model of a `packed` task that caches last hidden states, and the `others` that teach with it.

    The features that are compared are its own. weight: of its distribution among all.
    """

    states_answer = True
    weight = 1.0
    others: Sequence["StatesTeacher"] = ()

    @classmethod
    def of(
        cls, members: Sequence[Member], look: FeatureRequest, *, cache_file: tuple[Path, float] | None, **settings: Any
    ) -> "StatesTeacher":
        """Return the first of some teachers, with the others. All together have the room that one has: whoever comes first is
        kept in memory, the next ones on disk, and who finds no room is asked in each epoch. settings: as of `Teacher`.
        """
        memory, disk, found = 0, cache_file[1] if cache_file is not None else 0.0, list[StatesTeacher]()
        for number, member in enumerate(members):
            own = (cache_file[0].with_name(f"{cache_file[0].name}-{number}"), disk) if cache_file is not None else None
            asked = look if number == 0 else LOGITS_ALONE
            teacher = cls(member.model, member.rows, asked, cache_file=own, taken=memory, **settings)
            teacher.weight = member.weight
            if teacher.on_disk:
                disk -= teacher.bytes
            elif teacher.keeps:
                memory += teacher.bytes
            found.append(teacher)
        guide, *guide.others = found
        return guide

    @property
    def models(self) -> list[PreTrainedModel]:
        """All teachers."""
        return [self.model, *(model for each in self.others for model in each.models)]

    @property
    def asks(self) -> int:
        """Number of rows that `precompute` runs, of all teachers together."""
        return super().asks + sum(each.asks for each in self.others)

    @property
    def caches(self) -> list[bool]:
        """Whether each teacher's states are cached."""
        return [*super().caches, *(each.keeps for each in self.others)]

    @property
    def note(self) -> str | None:
        """Say where the features are, of each teacher that does not have them in memory; None if all have."""
        own = (super().note, *(each.note for each in self.others))
        return " ".join(note for note in own if note is not None) or None

    def precompute(self) -> Iterator[int]:
        """Run each teacher once on every row, if it has room to keep the states; yield the number of rows of each batch.

        Of another teacher whose states are kept, only the output layer stays on the device.
        """
        if self.store is not None:
            yield from super().precompute()
        device = next(self.model.parameters()).device
        for each in self.others:
            each.model.to(device)
            yield from each.precompute()
            if each.keeps:
                each.model.cpu()
                each.model.get_output_embeddings().to(device)

    @torch.no_grad()
    def outputs(self, batch: Batch) -> TeacherOutputs:
        """Return the outputs for a batch of the student; `logits` are the last states at the scored positions, `states` those
        of all teachers.
        """
        assert self.task.packed is not None, "the caller has looked"  # noqa: S101
        found = super().outputs(batch)
        scored: Tensor = self.task.packed.scored(found.hidden[-1], batch)
        beside = (one for each in self.others for one in each.outputs(batch).states)
        states = ((self.model, scored, self.weight), *beside)
        return replace(found, logits=scored, hidden=found.hidden[:-1], states=states)

    def close(self) -> None:
        """Free the cached features, and release the other teachers."""
        super().close()
        for each in self.others:
            each.close()
        self.others = ()
