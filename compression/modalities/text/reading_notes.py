"""Notes on how a model's tokenizer reads the texts of a job. Torch-free."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANY_UNKNOWN = 0.2
"""Share of unknown tokens from which a tokenizer hardly reads its texts; one of their language knows nearly all."""
MUCH_SHORTER = 4
"""How many times as long as the median text a timed row may be before that is told."""


def reading_notes(
    tokens: Sequence[Sequence[int]], tokenizer: "PreTrainedTokenizerBase", timed: int, *, windows: bool
) -> Iterator[str]:
    """Yield notes on the texts of train. tokens: ids of each; timed: tokens of a row whose latency is measured; windows:
    whether a text may be several rows, whose lengths say nothing of it.
    """
    if not tokens:
        return
    unknown = tokenizer.unk_token_id
    # GPT-2's stands at the ends of texts too, and its vocabulary has every byte.
    if unknown is not None and unknown not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        share = sum(row.count(unknown) for row in map(list, tokens)) / max(sum(map(len, tokens)), 1)
        if share >= MANY_UNKNOWN:
            yield (
                f"{share:.0%} of the tokens of train are {tokenizer.unk_token}: the model's tokenizer does not know these "
                "texts, and little can be learned from them. See whether the uploaded tokenizer is the model's."
            )
    usual = median(map(len, tokens))
    if not windows and usual * MUCH_SHORTER <= timed:
        yield (
            f"Half of the training texts have at most {usual:.0f} tokens, and latency is timed at {timed}: the speed-up of "
            "such texts is another. Set evaluate.length to theirs to have it measured."
        )
