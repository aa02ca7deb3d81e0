"""The cut of the vocabulary: model, teacher and rows change to the new ids together, and nobody's answer changes."""

from dataclasses import replace

from compression.stages.cut import remade
from compression.state import State


def trim(state: State, *, model: bool = True) -> None:
    """Change to the fitted vocabulary, if there is one; `model` is False where the model knows no other any more.

    The teacher goes with it: it keeps its own vectors for the tokens that are left, so its answers to the rows are what they
    were, and student and teacher read the same ids, token for token, as hidden states must to be compared.
    """
    vocabulary = state.vocabulary
    if vocabulary is None:
        return
    if model:
        state.model = remade(state.model, vocabulary.model)
    if state.teacher is not None:
        state.teacher = remade(state.teacher, vocabulary.model).requires_grad_(False)
    state.rows = {name: vocabulary.rows(rows) for name, rows in state.rows.items()}
    if state.material is not None and vocabulary.encode is not None:
        state.material = replace(state.material, tokenizer=vocabulary.tokenizer, encode=vocabulary.encode)
