"""Reduces a model's vocabulary: models and rows change to the new ids together; no output changes."""

from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.modalities.modality import InputPruner
from compression.quantization.fake_quantize import insert_fake_quantization, simulation_of


def reduce_vocabulary(context: StageContext, *, model: bool = True) -> None:
    """Change to the fitted vocabulary, if there is one. `model` is False if the model already has it. Teachers that share the
    tokenizer change too, for hidden states are compared on the same ids; their outputs stay the same.
    """
    pruner = context.input_pruner
    if pruner is None:
        return
    if model:
        context.model = with_fitted_tokens(pruner, context.model)
    if context.teacher is not None:
        context.teacher = with_fitted_tokens(pruner, context.teacher).requires_grad_(False)
    context.originals = [with_fitted_tokens(pruner, original).requires_grad_(False) for original in context.originals]
    before = context.rows.pop("test", None)
    context.rows = {name: pruner.rows(rows) for name, rows in context.rows.items()}
    if context.unlabelled is not None:
        context.unlabelled = pruner.rows(context.unlabelled)
    context.models = context.models.trimmed(pruner)
    reading, task = context.models.base.reading, context.task
    if before is not None:
        # The vocabulary was not fitted to test, so its texts may contain removed tokens: they are encoded again.
        context.rows["test"] = reading.encode(context.models.dataset, "test", task)
        if model:
            context.notes.append(pruner.note_on_test(before))
    if context.augmenter is not None:
        context.augmenter = pruner.augmenter(context.augmenter, reading, task)


def with_fitted_tokens(pruner: InputPruner, model: PreTrainedModel) -> PreTrainedModel:
    """Build the model for the new ids. It computes as before, so quantization ranges stay valid."""
    device, simulation = next(model.parameters()).device, simulation_of(model)
    small = pruner.model(model.cpu()).to(device).eval()
    if simulation is not None:
        insert_fake_quantization(small, simulation=simulation)
    return small
