"""The cut of the vocabulary: models and rows change to the new ids together, and nobody's answer changes."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from transformers import PreTrainedModel

from compression import numerics
from compression.state import State
from compression.vocabulary import Vocabulary


def trim(state: State, *, model: bool = True) -> None:
    """Change to the fitted vocabulary, if there is one; `model` is False where the model knows no other any more.

    Teachers that share the tokenizer go with it: they keep their own vectors for the tokens that are left, so their answers to
    the rows are what they were, and student and teacher read the same ids, as hidden states must to be compared.
    """
    vocabulary = state.vocabulary
    if vocabulary is None:
        return
    if model:
        state.model = _knowing(vocabulary, state.model)
    if state.teacher is not None:
        state.teacher = _knowing(vocabulary, state.teacher).requires_grad_(False)
    state.originals = [_knowing(vocabulary, original).requires_grad_(False) for original in state.originals]
    before = state.rows.pop("test", None)
    state.rows = {name: vocabulary.rows(rows) for name, rows in state.rows.items()}
    if state.unlabelled is not None:
        state.unlabelled = vocabulary.rows(state.unlabelled)
    if state.cast is not None:
        state.cast = state.cast.trimmed(vocabulary)
        reading, task = state.cast.base.reading, state.task
        if before is not None:
            # Nobody looked at test for the tokens, so its texts may need some that are gone: they are read anew.
            state.rows["test"] = reading.split(state.cast.dataset, "test", task)
            if model:
                state.notes.append(_said_of_test(before.tokens, set(vocabulary.kept)))
        if state.material is not None:
            state.material = replace(
                state.material,
                tokenizer=vocabulary.tokenizer,
                encode=lambda texts, labels: reading.rows(texts, labels, task),
            )


def _said_of_test(rows: Sequence[Sequence[int]], kept: AbstractSet[int]) -> str:
    lost = sum(not all(token in kept for token in row) for row in rows)
    return f"The vocabulary is not chosen by test: {lost} of its {len(rows)} rows are read by other tokens now."


def _knowing(vocabulary: Vocabulary, model: PreTrainedModel) -> PreTrainedModel:
    """Build the model that reads the new ids. It computes as before, so its integers keep their ranges."""
    device, simulation = next(model.parameters()).device, numerics.simulation_of(model)
    small = vocabulary.model(model.cpu()).to(device).eval()
    if simulation is not None:
        numerics.insert(small, simulation=simulation)
    return small
