"""The distillation loss: logits against teachers and labels, features against one teacher."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.distillation.live_teacher import LiveTeacher
from compression.distillation.loss_weights import LossWeights, loss_weights
from compression.distillation.losses import (
    ProjectionFit,
    attention_score_loss,
    fit_projections,
    hidden_state_loss,
    relation_heads,
    relation_loss,
)
from compression.distillation.map_losses import attention_transfer_loss, positions, projected_map_loss
from compression.distillation.teacher import FeatureRequest, Teacher, TeacherOutputs, request_features
from compression.modalities.base import Batch, Examples, Targets, TaskAdapter
from compression.modalities.sampling import first_tokens, micro_batch_size
from compression.models.adapters.registry import adapter_of
from compression.planning.distillation_rules import attention_form, layer_pairs
from compression.quantization.precision import half_products
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.distill import Distill

FIT_ROWS, FIT_TOKENS = 256, 32_768
"""Limits of the train rows and tokens that the initial projections are fitted on: some thousand tokens for some hundred
unknowns. Rows of language models are long, so fewer rows give as many tokens."""
FIT_BATCH = 32
FEATURES = frozenset({"hidden", "attention", "embedding"})
"""Terms of a loss that compare what layers make."""
AnyTeacher = Teacher | LiveTeacher


@dataclass(frozen=True)
class FeatureAlignment:
    """The features of student and teacher that are compared."""

    student: FeatureRequest
    teacher: FeatureRequest
    apart: bool  #: whether the first state is the embedding layer's and has its own term
    form: Literal["scores", "relations", "maps"] | None  #: how attention is compared
    heads: int  #: number of heads of that comparison
    projected: bool = True  #: whether states or maps are compared through projections, if there are any
    without_maps: bool = False  #: whether features were asked for of networks that have none

    @classmethod
    def of(
        cls, student: PreTrainedModel, teacher: PreTrainedModel, settings: Distill, terms: Collection[str], *, apart: bool
    ) -> "FeatureAlignment":
        """Return the features that `terms` need. Raises InvalidSpec if layers or heads do not match."""
        mine, theirs = (len(adapter_of(model).feature_maps(model)) for model in (student, teacher))
        if (mine or theirs) and not FEATURES.isdisjoint(terms):
            return cls._of_maps(mine, theirs, settings, terms)
        if adapter_of(student).network(student.config) is not None:
            return cls._of_outputs(terms)
        one, other = (adapter_of(model).shape_of(model.config) for model in (student, teacher))
        pairs = layer_pairs(settings.layers, one.layers, other.layers)
        states = list(pairs) if "hidden" in terms else []
        if ("embedding" in terms) if apart else states:
            states.insert(0, (0, 0))
        form = attention_form(settings.attention_by, one, other) if "attention" in terms else None
        heads = one.heads
        if form == "relations":
            heads = relation_heads(one.attended, other.attended, most=other.heads)
        own, wanted = (
            FeatureRequest(
                states=tuple(pair[side] for pair in states),
                scores=tuple(pair[side] for pair in pairs) if form == "scores" else (),
                relations=pairs[-1][side] if form == "relations" else None,
            )
            for side in (0, 1)
        )
        return cls(own, wanted, apart and "embedding" in terms, form, heads)

    @classmethod
    def _of_maps(cls, student: int, teacher: int, settings: Distill, terms: Collection[str]) -> "FeatureAlignment":
        """Return the comparison of feature maps by stage; a recipe's layers are stages here."""
        if "embedding" in terms:
            cause = "models that are compared by feature maps have no embedding layer"
            raise InvalidSpec(cause, param="recipe.distill.embedding", remedy="Set embedding to 0, also of distill.general.")
        if not student or not teacher:
            cause = f"the {'teacher' if student else 'student'} has no feature maps, the other model has"
            raise InvalidSpec(cause, param="recipe.distill.hidden", remedy="Set hidden and attention to 0.")
        pairs = layer_pairs(settings.layers, student, teacher)
        one, other = (FeatureRequest(maps=tuple(pair[side] for pair in pairs)) for side in (0, 1))
        return cls(one, other, False, "maps" if "attention" in terms else None, 0, "hidden" in terms)

    @classmethod
    def _of_outputs(cls, terms: Collection[str]) -> "FeatureAlignment":
        """Return the comparison of networks of which no stage leaves a map, as of dense layers alone: of their outputs."""
        if terms and not set(terms) - FEATURES:
            cause = "the networks have no feature maps, and nothing else is compared"
            raise InvalidSpec(cause, param="recipe.distill.hidden", remedy="Give soft or hard a weight, and leave general out.")
        return cls(FeatureRequest(), FeatureRequest(), False, None, 0, without_maps=not FEATURES.isdisjoint(terms))

    def notes(self) -> list[str]:
        """Return notes on choices that the recipe does not determine."""
        notes = []
        if self.without_maps:
            notes.append("The networks have no stages whose feature maps could be compared: their outputs alone are.")
        if self.student.maps:
            pairs = zip(self.student.maps, self.teacher.maps, strict=True)
            compared = ", ".join(f"{one} ← {other}" for one, other in pairs)
            notes.append(f"Stages whose last feature maps are compared, the student's and the teacher's: {compared}.")
        elif self.form is not None:
            what = "scores before the softmax, layer by layer" if self.form == "scores" else "relations of the last layers"
            notes.append(f"Attention is compared by {what} ({self.heads} heads).")
        if self.student.states != self.teacher.states:
            pairs = zip(self.student.states, self.teacher.states, strict=True)
            followed = ", ".join(f"{one} ← {other}" for one, other in pairs)
            notes.append(f"Layers of the student and of the teacher that they follow: {followed}.")
        return notes


class FeatureLosses:
    """Losses on hidden states, attention and embeddings against one teacher, with learned projections."""

    def __init__(
        self, student: PreTrainedModel, teacher: AnyTeacher, comparison: FeatureAlignment, rows: Examples, parts: int
    ) -> None:
        self.student, self.teacher, self.comparison = student, teacher, comparison
        look, self.projections = comparison.student, list[nn.Parameter]()
        if comparison.projected and (look.states or look.maps):
            self.projections = [nn.Parameter(one) for one in self._fitted(rows, micro_batch_size(FIT_BATCH, parts))]

    @torch.no_grad()
    def _fitted(self, rows: Examples, size: int) -> list[Tensor]:
        some = first_tokens(rows.at(list(range(min(len(rows), FIT_ROWS)))), FIT_TOKENS)
        device, own = next(self.student.parameters()).device, self.comparison.student
        look = FeatureRequest(states=own.states, maps=own.maps)
        batches = (batch.to(device) for batch in some.by_length(size))
        both = ((request_features(self.student, batch, rows.task, look), self.teacher.outputs(batch)) for batch in batches)
        if not look.maps:
            return [fit_projections((given.hidden, wanted.hidden) for given, wanted in both)]
        fits = [ProjectionFit() for _ in look.maps]
        for given, wanted in both:
            for fit, one, other in zip(fits, given.maps, wanted.maps, strict=True):
                fit.add(*positions(one, other))
        return [fit.solved()[0] for fit in fits]

    def terms(self, given: TeacherOutputs, wanted: TeacherOutputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of the comparison, each a scalar."""
        found: dict[str, Tensor] = {}
        comparison = self.comparison
        if comparison.student.maps:
            return self._map_terms(given.maps, wanted.maps)
        if self.projections:
            # The projections are discarded after training, so they may use the fastest precision.
            maps, first = self.projections[0], int(comparison.apart)
            with half_products(batch.mask.device):
                if first < len(maps):
                    found["hidden"] = hidden_state_loss(given.hidden[first:], wanted.hidden[first:], maps[first:])
                if comparison.apart:
                    found["embedding"] = hidden_state_loss(given.hidden[:1], wanted.hidden[:1], maps[:1])
        if given.scores is not None and wanted.scores is not None:
            found["attention"] = attention_score_loss(given.scores, wanted.scores, batch.mask, comparison.heads)
        if given.relations is not None and wanted.relations is not None:
            both, packed = (given.relations, wanted.relations), self.teacher.task.packed
            if packed is not None:
                found["attention"] = packed.relation_loss(*both, batch, comparison.heads)
            else:
                found["attention"] = relation_loss(*both, batch.mask, comparison.heads)
        return found

    def _map_terms(self, given: Sequence[Tensor], wanted: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the terms of feature maps, each the mean over the stages."""
        found: dict[str, Tensor] = {}
        if self.projections:
            each = zip(given, wanted, self.projections, strict=True)
            found["hidden"] = torch.stack([projected_map_loss(*one) for one in each]).mean()
        if self.comparison.form == "maps":
            pairs = zip(given, wanted, strict=True)
            found["attention"] = torch.stack([attention_transfer_loss(*pair) for pair in pairs]).mean()
        return found


class DistillationObjective:
    """Weighted distillation loss; `parameters` are trained with it and discarded afterwards."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: AnyTeacher,
        comparison: FeatureAlignment,
        settings: Distill,
        rows: Examples,
        *,
        parts: int = 1,
        weigher: LossWeights | None = None,
        targets: Targets | None = None,
    ) -> None:
        """Build the losses and fit the initial projections on `rows`, the student's.

        weigher: replaces the recipe's loss weights; targets: replace the teacher's last hidden states.
        """
        self.targets = targets
        self.student, self.teacher, self.settings, self.task = student, teacher, settings, rows.task
        self.feature_losses = FeatureLosses(student, teacher, comparison, rows, parts)
        self.weighting = weigher or loss_weights(settings, next(student.parameters()).device)
        self.loss_meter = LossMeter()

    @property
    def projections(self) -> list[nn.Parameter]:
        """Learned projections to the teacher's states, (states, narrow, wide), or of each feature map, (narrow, wide)."""
        return self.feature_losses.projections

    @property
    def reads_layers(self) -> bool:
        """Whether it compares what is computed within a layer, which it reads by hooks: queries, keys and values."""
        look = self.feature_losses.comparison.student
        return bool(look.scores) or look.relations is not None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that are trained beside the student."""
        return [*self.projections, *self.weighting.parameters]

    @property
    def inside(self) -> bool:
        """Whether it compares what layers make, and not their last outputs alone."""
        return len(self.feature_losses.comparison.student) > 0

    @property
    def models(self) -> Sequence[nn.Module]:
        """The frozen models that it asks."""
        return self.teacher.models

    def close(self) -> None:
        """Free the cached teacher outputs and targets."""
        self.teacher.close()
        if self.targets is not None:
            self.targets.close()

    def before_step(self, step: int, total: int) -> None:
        """Update the loss weights' schedule. step: from 0; total: number of steps."""
        self.weighting.at(step / max(total - 1, 1))

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of a batch; terms without a weight are not computed."""
        terms = self.terms(batch)
        self.loss_meter.add(terms)
        return self.weighting.total(terms)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return each unweighted term of a batch's loss."""
        asked, task, temperature = self.weighting.weights(), self.task, self.settings.temperature
        wanted = self.teacher.outputs(batch)
        given = request_features(self.student, batch, task, self.feature_losses.comparison.student)
        terms: dict[str, Tensor] = {}
        if task.packed is not None:
            terms = task.packed.terms(asked, (self.student, given.logits), wanted.states, batch, temperature, self.targets)
        else:
            if "soft" in asked:
                terms["soft"] = task.soft_loss(given.logits, wanted.logits, batch, temperature)
            if "hard" in asked:
                terms["hard"] = hard_label_loss(task, given.logits, batch)
        return terms | self.feature_losses.terms(given, wanted, batch)


class LossMeter:
    """Mean of each term since the last report."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add a batch's terms, without waiting for the device."""
        for term, value in terms.items():
            self._sums[term] = self._sums.get(term, 0.0) + value.detach().float()
        self._batches += 1

    def forget(self) -> None:
        """Reset the means."""
        self._sums, self._batches = {}, 0

    def describe(self, weights: Mapping[str, float]) -> str:
        """Return each term's mean over the batches and its current weight as text, and reset."""
        means = {term: value.item() / self._batches for term, value in self._sums.items()}
        self.forget()
        return ", ".join(f"{term} {mean:.4g} × {weights[term]:.4g}" for term, mean in means.items())


def hard_label_loss(task: TaskAdapter, logits: Tensor, batch: Batch) -> Tensor:
    """Return the loss on the labels, as a mean over all rows; rows without their own label count as 0."""
    if batch.labelled is None:
        return task.loss(logits, batch)
    if not batch.labelled.any():
        return logits[batch.labelled].sum()  # 0, with a graph: it may be the only term
    return task.loss(logits[batch.labelled], batch.at(batch.labelled)) * batch.labelled.float().mean()
