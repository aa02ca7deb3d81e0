"""Teachers that run on each batch of the student, so that they see the very same: of rows that vary, and for feature maps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.distillation.teacher import LOGITS_ALONE, FeatureRequest, TeacherOutputs, request_features
from compression.modalities.base import Batch, Examples
from compression.modalities.logit_store import stored_logits
from compression.quantization.precision import half_products


@dataclass(frozen=True)
class Member:
    """One of the teachers, frozen and in evaluation mode, on the student's device."""

    model: PreTrainedModel
    rows: Examples  #: as this model's preprocessor reads them, cut like the student's
    weight: float = 1.0  #: of its answers among all


class LiveTeacher:
    """Teachers whose answers are fused for each batch at `temperature`; features are the first one's, the guide's.

    logits: (rows, ...) if the fused ones are known, because rows do not vary. Nothing is cached.
    """

    asks = 0  #: number of rows that are run before training
    caches: Sequence[bool] = ()  #: nothing of any teacher

    def __init__(
        self, members: Sequence[Member], look: FeatureRequest, temperature: float = 1.0, *, logits: Tensor | None = None
    ) -> None:
        self.guide, *self.others = members
        self.model, self.task, self.look, self.temperature = self.guide.model, self.guide.rows.task, look, temperature
        self._logits = logits

    @property
    def models(self) -> list[PreTrainedModel]:
        """All teachers."""
        return [each.model for each in (self.guide, *self.others)]

    @property
    def note(self) -> str:
        """Say when the teachers run."""
        who = "Each teacher" if self.others else "The teacher"
        return f"{who} runs on each batch: of rows that vary, and of feature maps, nothing is kept."

    def precompute(self) -> Iterator[int]:
        """Yield nothing: nothing is computed before training."""
        return iter(())

    @torch.no_grad()
    def outputs(self, batch: Batch) -> TeacherOutputs:
        """Return the outputs for a batch of the student."""
        # bfloat16's error is negligible against the student's, and in float32 the teacher takes nearly half of a step.
        device = batch.mask.device
        with half_products(device):
            found = self._of(self.guide, batch, self.look)
            if self._logits is not None:
                return replace(found, logits=stored_logits(self._logits, batch).to(device))
            if not self.others:
                return found
            answers = [found.logits, *(self._of(each, batch, LOGITS_ALONE).logits for each in self.others)]
        together = torch.stack([each.float() for each in answers])
        weights = torch.tensor([each.weight for each in (self.guide, *self.others)], device=device)
        mask = batch.mask if together.ndim > 3 else None
        return replace(found, logits=self.task.fused(together, weights, mask, self.temperature))

    def _of(self, member: Member, batch: Batch, look: FeatureRequest) -> TeacherOutputs:
        device = next(member.model.parameters()).device
        found = request_features(member.model, member.rows.seen_in(batch).to(device), self.task, look)
        return replace(found, logits=found.logits.float(), maps=tuple(each.float() for each in found.maps))

    def close(self) -> None:
        """Release all teachers but the guide."""
        self.others = []
