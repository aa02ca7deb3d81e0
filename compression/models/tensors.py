"""Type aliases for tensors by name and for their shapes; and a model's tensors for a file, each once."""

from torch import Tensor, nn

Tensors = dict[str, Tensor]


Shapes = tuple[tuple[int, ...], ...]


def unshared_state(model: nn.Module) -> Tensors:
    """Return a model's state dict with each tensor once: files refuse the two names of one, as of tied embeddings."""
    state = model.state_dict(keep_vars=True)
    first = {id(value): name for name, value in reversed(state.items())}
    return {name: value.detach() for name, value in state.items() if first[id(value)] == name}


def load_unshared(model: nn.Module, state: Tensors) -> None:
    """Copy the tensors of `unshared_state` into a model whose tensors are shared alike. Raises RuntimeError if one has no
    place in it.
    """
    model.load_state_dict(model.state_dict() | state)
