"""Translates with a sequence-to-sequence model such as MarianMT: greedily, so the same text gives the same translation."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

AT_ONCE = 32  #: texts in a batch
GROWTH, EXTRA = 1.5, 16  #: a translation may have GROWTH times its source's tokens, plus EXTRA


class Translator:
    """Translates in one direction."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Translate each text; one that is longer than the model's limit is truncated."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        translations = [""] * len(texts)
        for start in range(0, len(order), AT_ONCE):
            some = order[start : start + AT_ONCE]
            options = {"padding": True, "truncation": True, "max_length": self.longest, "return_tensors": "pt"}
            inputs = self.tokenizer([texts[i] for i in some], **options).to(self.model.device)
            given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            lengths = given["attention_mask"].sum(dim=1).tolist()
            limits = [min(int(GROWTH * length) + EXTRA, self.longest - 1) for length in lengths]
            ids = self.model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=max(limits))
            # Each is cut at its own limit: if the model does not stop, its output must not depend on its neighbours' length.
            # The last token is left out: at the model's maximum, it is the forced end token and no word.
            kept = [row[:limit] for row, limit in zip(ids.tolist(), limits, strict=True)]
            for i, text in zip(some, self.tokenizer.batch_decode(kept, skip_special_tokens=True), strict=True):
                translations[i] = text.strip()
        return translations
