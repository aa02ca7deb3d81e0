"""The cut of a model's inputs (of its vocabulary): models and rows change to the new ids together, and no answer changes."""

from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.modalities.modality import InputPruner
from compression.quantization.fake_quantize import insert_fake_quantization, simulation_of


def reduce_vocabulary(context: StageContext, *, model: bool = True) -> None:
    """Change to the fitted vocabulary, if there is one; `model` is False where the model knows no other any more.

    Teachers that share the tokenizer go with it: they keep their own vectors for the tokens that are left, so their answers to
    the rows are what they were, and student and teacher read the same ids, as hidden states must to be compared.
    """
    pruner = context.input_pruner
    if pruner is None:
        return
    if model:
        context.model = _knowing(pruner, context.model)
    if context.teacher is not None:
        context.teacher = _knowing(pruner, context.teacher).requires_grad_(False)
    context.originals = [_knowing(pruner, original).requires_grad_(False) for original in context.originals]
    before = context.rows.pop("test", None)
    context.rows = {name: pruner.rows(rows) for name, rows in context.rows.items()}
    if context.unlabelled is not None:
        context.unlabelled = pruner.rows(context.unlabelled)
    if context.cast is not None:
        context.cast = context.cast.trimmed(pruner)
        reading, task = context.cast.base.reading, context.task
        if before is not None:
            # Nobody looked at test for the tokens, so its texts may need some that are gone: they are read anew.
            context.rows["test"] = reading.encode(context.cast.dataset, "test", task)
            if model:
                context.notes.append(pruner.note_on_test(before))
        if context.augmenter is not None:
            context.augmenter = pruner.augmenter(context.augmenter, reading, task)


def _knowing(pruner: InputPruner, model: PreTrainedModel) -> PreTrainedModel:
    """Build the model that reads the new ids. It computes as before, so its integers keep their ranges."""
    device, simulation = next(model.parameters()).device, simulation_of(model)
    small = pruner.model(model.cpu()).to(device).eval()
    if simulation is not None:
        insert_fake_quantization(small, simulation=simulation)
    return small
