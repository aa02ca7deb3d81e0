"""What a job keeps at hand for augmentation, from the time its data was read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from compression.augment.resources import Resources
from compression.augment.rows import Texts
from compression.batches import Encoded


@dataclass(frozen=True)
class Material:
    """Train's texts, one or more a row; how rows become tokens; and where other words come from. encode: (rows, labels)."""

    texts: Sequence[Texts]
    encode: Callable[[Sequence[Texts], list[int]], Encoded]
    tokenizer: PreTrainedTokenizerFast
    resources: Resources
