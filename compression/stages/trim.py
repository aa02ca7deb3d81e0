"""The cut of the vocabulary: models and rows change to the new ids together, and nobody's answer changes."""

from dataclasses import replace

from compression.stages.cut import remade
from compression.state import State


def trim(state: State, *, model: bool = True) -> None:
    """Change to the fitted vocabulary, if there is one; `model` is False where the model knows no other any more.

    Teachers that share the tokenizer go with it: they keep their own vectors for the tokens that are left, so their answers to
    the rows are what they were, and student and teacher read the same ids, as hidden states must to be compared.
    """
    vocabulary = state.vocabulary
    if vocabulary is None:
        return
    if model:
        state.model = remade(state.model, vocabulary.model)
    if state.teacher is not None:
        state.teacher = remade(state.teacher, vocabulary.model).requires_grad_(False)
    state.originals = [remade(original, vocabulary.model).requires_grad_(False) for original in state.originals]
    state.rows = {name: vocabulary.rows(rows) for name, rows in state.rows.items()}
    if state.unlabelled is not None:
        state.unlabelled = vocabulary.rows(state.unlabelled)
    if state.cast is not None:
        state.cast = state.cast.trimmed(vocabulary)
        reading, task = state.cast.base.reading, state.task
        if state.material is not None:
            state.material = replace(
                state.material,
                tokenizer=vocabulary.tokenizer,
                encode=lambda texts, labels: reading.rows(texts, labels, task),
            )
