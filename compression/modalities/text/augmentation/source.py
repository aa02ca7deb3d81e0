"""What a job keeps at hand for augmentation, from the time its data was read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from compression.modalities.text.augmentation.augmenter import Texts
from compression.modalities.text.augmentation.resources import Resources
from compression.modalities.text.batches import TokenizedDataset


@dataclass(frozen=True)
class AugmentationSource:
    """Train's texts, one or more a row; how rows become tokens; and where other words come from. encode: (rows, labels)."""

    texts: Sequence[Texts]
    encode: Callable[[Sequence[Texts], list[int]], TokenizedDataset]
    tokenizer: PreTrainedTokenizerFast
    resources: Resources
