"""Buffers beside a model's parameters: those that its checkpoint holds, and running statistics that training changes."""

from torch import Tensor, nn


def saved_buffers(model: nn.Module) -> list[Tensor]:
    """Return the buffers that a checkpoint of the model holds, in its order."""
    saved = model.state_dict(keep_vars=True)
    return [buffer for name, buffer in model.named_buffers() if name in saved]


def set_training_mode(model: nn.Module, *, dropout: bool) -> None:
    """Set a model for training. dropout: whether modules drop values, or act otherwise at random. Modules whose parameters only
    training mode ties (`ties_in_training`) are in it either way.

    Running statistics (torch: `track_running_stats`) follow their inputs in either case, also where parameters are frozen:
    other statistics than those of the trained weights would make another model of it in evaluation.
    """
    model.train(dropout)
    for module in model.modules():
        if getattr(module, "track_running_stats", False) or getattr(module, "ties_in_training", False):
            module.train()
