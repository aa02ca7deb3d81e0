"""Widths that only some decoders have: of experts, and of latent attention."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class Experts(Config):
    """The experts of a decoder's layers. A token is sent to some routed experts; all tokens go through the shared ones."""

    count: Annotated[int, Field(description="Routed experts of a layer.")]
    ffn: Annotated[int, Field(description="Units of one routed expert.")]
    shared: Annotated[int, Field(description="Units of a layer's shared experts together: a multiple of `ffn`.")]
    chosen: Annotated[int, Field(description="Routed experts that a token is sent to.")]
    groups: Annotated[int, Field(description="Groups that the router chooses among before experts; 1 where it does not.")] = 1
    chosen_groups: int = 1
    dense_layers: Annotated[int, Field(description="Layers, the shallow ones, that have one feed-forward part in their place.")]


class Latent(Config):
    """The ranks and head widths of multi-head latent attention (DeepSeek-V2)."""

    query: Annotated[int | None, Field(description="Rank that queries are squeezed to; null where they are not.")]
    kv: Annotated[int, Field(description="Rank that keys and values are squeezed to together.")]
    rope: Annotated[int, Field(description="Channels of a head's query and key that carry the position.")]
    value: Annotated[int, Field(description="Channels of a head's value.")]
