"""ELECTRA: BERT's encoder behind tables that may be narrower than the stream, and are then projected into it.

`embedding_size` is a width of its own in the config, but the stock model builds the projection only where it differs from
`hidden_size`. So the stream alone shrinks where there is a projection (the small models: their tables are narrow already),
and tables and stream shrink together where there is none (base, large). docs/decisions/ says more.
"""

from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.encoder import PostNormEncoder
from compression.models.adapters.structure import Axes, PruningPlan
from compression.schema.report.measurements import Shape


class Electra(PostNormEncoder):
    """The stream starts at the projection where there is one. The head for sequences is like RoBERTa's."""

    shallow = ("embeddings", "embeddings_project")

    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Read the widths from a stock config."""
        projected = config.embedding_size != config.hidden_size
        return super().shape_of(config).model_copy(update={"embedding": config.embedding_size if projected else None})

    def _stream_start(self, model: PreTrainedModel) -> Any:
        return _projection(model) or super()._stream_start(model)

    def _first_makers(self, model: PreTrainedModel) -> list[Tensor]:
        projection = _projection(model)
        return [projection.weight] if projection is not None else super()._first_makers(model)

    def _set_widths(self, config: PretrainedConfig, kept: PruningPlan) -> None:
        projected = config.embedding_size != config.hidden_size
        super()._set_widths(config, kept)
        if not projected:
            config.embedding_size = config.hidden_size
        elif config.embedding_size == config.hidden_size:
            raise ValueError(f"{config.hidden_size} channels, as many as the tables have: the projection cannot be expressed")

    def _axes(self, model: PreTrainedModel, kept: PruningPlan) -> dict[nn.Module, Axes]:
        axes = super()._axes(model, kept)
        if _projection(model) is not None:
            for module in self.embeddings(model).modules():
                axes.pop(module, None)
        return axes


def _projection(model: PreTrainedModel) -> nn.Linear | None:
    return getattr(model.base_model, "embeddings_project", None)


ELECTRA = Electra()
