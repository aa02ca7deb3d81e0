"""What a language model is taught of: a teacher's next tokens in chunks, the text's own, and insides where they count."""

from collections.abc import Generator
from pathlib import Path
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from compression.distillation import next_token_cache
from compression.distillation.next_token_cache import TopKTargetFile
from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.teacher import LanguageTeacher, Teacher, request_features
from compression.engine.context import StageContext
from compression.evaluation.validate import BATCH
from compression.modalities.sampling import micro_batch_size
from compression.modalities.text.batches import Batch, TokenizedDataset
from compression.modalities.text.causal_lm import chunked_head, hidden_states, packed_examples
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.losses import FullTargets, NextTokenTargets, Term, next_token_terms
from compression.schema.recipe.distill import Distill
from compression.system.progress import Step, count_rows

FILE = "teacher-tokens"


class CausalLMObjective(DistillationObjective):
    """`soft`: KL(teacher ‖ student) × τ² over the vocabulary, `hard`: the text's own next tokens; means over tokens.

    Neither model's logits are there for more than some tokens at a time (`language.chunks`).
    """

    kept: TopKTargetFile | None = None
    """What of the teacher is known in the place of its last states."""

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return each term of a batch's loss, not weighted."""
        assert isinstance(batch, PackedBatch), "rows are a language model's"  # noqa: S101
        asked = self.weighting.weights()
        wanted = self.teacher.outputs(batch)
        given = request_features(self.student, batch, self.task, self.feature_losses.comparison.student)
        teacher: NextTokenTargets | None = None
        if "soft" in asked and self.kept is not None:
            teacher = self.kept.get(batch.rows.tolist(), batch.ids.device)
        elif "soft" in asked:
            teacher = FullTargets(wanted.logits, hidden_states.output_layer(self.teacher.model), self.settings.temperature)
        sides = cast(list[Term], [term for term in ("soft", "hard") if term in asked])
        size = chunked_head.chunk_size(self.student.config.vocab_size)
        found: dict[str, Tensor] = {}
        if sides:
            own = next_token_terms(
                given.logits, hidden_states.output_layer(self.student), batch.wanted, teacher, sides, size=size
            )
            found |= {str(term): value for term, value in own.items()}
        return found | self.feature_losses.terms(given, wanted, batch)

    def close(self) -> None:
        """Free what is kept of the teacher."""
        super().close()
        if self.kept is not None:
            self.kept.close()


def causal_lm_objective(
    context: StageContext, settings: Distill, guide: PreTrainedModel, own: TokenizedDataset, theirs: TokenizedDataset
) -> Generator[Step, None, CausalLMObjective]:
    """Ask a teacher of every row, tell how far that is, and make of it what a student is held against.

    own, theirs: train as either reads it. Raises Pause where one is asked for.
    """
    asked = settings.weights()
    comparison = FeatureAlignment.of(context.model, guide, settings, asked, apart=settings.embedding is not None)
    cache_file = context.cache_file("task")
    if "soft" in asked and settings.kept is None:
        teacher: Teacher = LanguageTeacher(guide, theirs, comparison.teacher, parts=context.parts, cache_file=cache_file)
    else:
        nothing = theirs.labels.new_zeros((len(theirs), 0))
        teacher = Teacher(guide, theirs, comparison.teacher, parts=context.parts, logits=nothing, cache_file=cache_file)
    askings, kept = [teacher.precompute()] if teacher.asks else [], None
    if "soft" in asked and settings.kept is not None:
        vocabulary, packed = guide.config.vocab_size, packed_examples.packed_split(theirs).packed
        kept = TopKTargetFile(_place(context), packed.asked, vocabulary, settings.kept, settings.temperature)
        batch = max(
            micro_batch_size(BATCH, context.parts)
            * packed_examples.TOGETHER
            // (BATCH * packed_examples.packed_split(theirs).length),
            1,
        )
        askings.append(next_token_cache.keeping(guide, packed, kept, batch=batch, size=chunked_head.chunk_size(vocabulary)))
    yield from count_rows(context.check_pause, len(theirs) * max(len(askings), 1), *askings)
    objective = CausalLMObjective(context.model, teacher, comparison, settings, own, parts=context.parts)
    objective.kept = kept
    return objective


def _place(context: StageContext) -> Path:
    if context.scratch is None:
        raise ValueError("what is kept of a teacher needs a folder")
    return context.scratch / FILE
