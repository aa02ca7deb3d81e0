"""The cut of the vocabulary: models and rows change to the new ids together, and nobody's answer changes."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.modalities.text.vocabulary.reduced import ReducedVocabulary
from compression.quantization.fake_quantize import insert_fake_quantization, simulation_of


def reduce_vocabulary(context: StageContext, *, model: bool = True) -> None:
    """Change to the fitted vocabulary, if there is one; `model` is False where the model knows no other any more.

    Teachers that share the tokenizer go with it: they keep their own vectors for the tokens that are left, so their answers to
    the rows are what they were, and student and teacher read the same ids, as hidden states must to be compared.
    """
    vocabulary = context.vocabulary
    if vocabulary is None:
        return
    if model:
        context.model = _knowing(vocabulary, context.model)
    if context.teacher is not None:
        context.teacher = _knowing(vocabulary, context.teacher).requires_grad_(False)
    context.originals = [_knowing(vocabulary, original).requires_grad_(False) for original in context.originals]
    before = context.rows.pop("test", None)
    context.rows = {name: vocabulary.rows(rows) for name, rows in context.rows.items()}
    if context.unlabelled is not None:
        context.unlabelled = vocabulary.rows(context.unlabelled)
    if context.cast is not None:
        context.cast = context.cast.trimmed(vocabulary)
        reading, task = context.cast.base.reading, context.task
        if before is not None:
            # Nobody looked at test for the tokens, so its texts may need some that are gone: they are read anew.
            context.rows["test"] = reading.split(context.cast.dataset, "test", task)
            if model:
                context.notes.append(_said_of_test(before.tokens, set(vocabulary.kept)))
        if context.augmentation_source is not None:
            context.augmentation_source = replace(
                context.augmentation_source,
                tokenizer=vocabulary.tokenizer,
                encode=lambda texts, labels: reading.rows(texts, labels, task),
            )


def _said_of_test(rows: Sequence[Sequence[int]], kept: AbstractSet[int]) -> str:
    lost = sum(not all(token in kept for token in row) for row in rows)
    return f"The vocabulary is not chosen by test: {lost} of its {len(rows)} rows are read by other tokens now."


def _knowing(vocabulary: ReducedVocabulary, model: PreTrainedModel) -> PreTrainedModel:
    """Build the model that reads the new ids. It computes as before, so its integers keep their ranges."""
    device, simulation = next(model.parameters()).device, simulation_of(model)
    small = vocabulary.model(model.cpu()).to(device).eval()
    if simulation is not None:
        insert_fake_quantization(small, simulation=simulation)
    return small
