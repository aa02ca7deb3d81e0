"""Finds and opens the worker's resources for augmentation: WordNet, Apertium and helper models."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from compression.modalities.text.augmentation.apertium import Apertium
from compression.modalities.text.augmentation.back_translation import Translator
from compression.modalities.text.augmentation.embedding_neighbours import Neighbours, Vocabulary
from compression.modalities.text.augmentation.helper_models import open_helper
from compression.modalities.text.augmentation.masked_lm import MaskedLM
from compression.modalities.text.augmentation.wordnet import FILES, REMEDY, WordNet
from compression.modalities.text.augmentation.words import Source
from compression.schema.errors import ConfigMismatch, MissingResource
from compression.schema.job_spec import Spec
from compression.schema.recipe.augment import Augment, BackTranslation, Synonyms

CPU = torch.device("cpu")
Translate = Callable[[Sequence[str]], list[str]]
SYNONYMS, BACK = "recipe.distill.augment.synonyms", "recipe.distill.augment.back_translation"


@dataclass(frozen=True)
class Resources:
    """The available folders: WordNet's, that of helper models, and that of the job's own model."""

    wordnet: Path | None
    helpers: Path | None
    base: Path

    @classmethod
    def of(cls, spec: Spec, base: Path) -> "Resources":
        """Take the folders from a specification; relative paths start at `base`."""
        wordnet = base / spec.wordnet if spec.wordnet is not None else None
        helpers = base / spec.helper_models if spec.helper_models is not None else None
        return cls(wordnet, helpers, base / spec.model)

    def source(self, asked: Synonyms) -> str:
        """Return the source of synonyms; `auto` becomes wordnet if this worker has it, else embeddings."""
        return asked.source if asked.source != "auto" else "wordnet" if self._lacks_wordnet() is None else "embeddings"

    def resolve(self, settings: Augment) -> tuple[Augment, tuple[str, ...]]:
        """Return the settings that this worker can apply, and a sentence with the reason for each omission.

        Only the source `auto` and an optional back-translation, with its copy, are left out; `rows` may become 0.
        """
        changes: dict[str, Any] = {}
        left_out: list[str] = []
        words, asked = settings.synonyms, settings.back_translation
        if words is not None and words.source == "auto":
            changes["synonyms"] = words.model_copy(update={"source": self.source(words)})
            if (lacking := self._lacks_wordnet()) is not None:
                left_out.append(f"WordNet was left out: {lacking}. Other words come from the teacher's own table.")
        if asked is not None and asked.optional:
            try:
                _ = self._pair(asked) if asked.models is None else self._folders(asked)
            except MissingResource as problem:
                changes |= {"back_translation": None, "copies": max(settings.copies - 1, 1)}
                left_out.append(f"Back-translation was left out: {problem.cause}.")
        return settings.model_copy(update=changes), tuple(left_out)

    def _lacks_wordnet(self) -> str | None:
        if self.wordnet is None:
            return "this worker has no WordNet"
        missing = [name for name in FILES if not (self.wordnet / name).is_file()]
        return f"this worker's WordNet has no {missing[0]}" if missing else None

    def helper(self, name: str, param: str) -> Path:
        """Return a helper model's folder. Raises MissingResource."""
        if self.helpers is None:
            remedy = "Ask who runs the worker to set LATHE_HELPER_MODELS, or choose another source in the recipe."
            raise MissingResource(f"this worker has no helper models, so no {name!r}", param=param, remedy=remedy)
        if not (self.helpers / name).is_dir():
            there = ", ".join(sorted(path.name for path in self.helpers.iterdir() if path.is_dir())) or "none"
            raise MissingResource(f"there is no helper model {name!r}; there are: {there}", param=param)
        return self.helpers / name

    def digests(self, settings: Augment) -> dict[str, str]:
        """Return digests of the worker's files that augmented rows depend on, and whether back-translation is left out."""
        asked = settings.back_translation is not None
        settings, _ = self.resolve(settings)
        words, back = settings.synonyms, settings.back_translation
        digests: dict[str, str] = {}
        if words and self.source(words) == "wordnet" and self.wordnet is not None:
            digests["wordnet"] = _digest(self.wordnet, FILES)
        named = [*([words.model] if words and words.model else []), *(back.models or () if back else ())]
        for name in named if self.helpers is not None else ():
            folder = self.helpers / name
            digests[name] = _digest(folder, sorted(path.name for path in folder.glob("*") if path.is_file()))
        return digests | ({"back_translation": "left out"} if asked and back is None else {})

    def check(self, settings: Augment) -> None:
        """Open all needed resources before any training. Raises MissingResource and the errors of `open_helper`."""
        settings, _ = self.resolve(settings)
        if settings.synonyms is not None and self.source(settings.synonyms) != "embeddings":
            self.open_synonyms(settings.synonyms, None, None)
        if settings.back_translation is not None:
            self.open_translators(settings.back_translation)

    def open_synonyms(
        self, asked: Synonyms, tokenizer: PreTrainedTokenizerFast | None, table: Tensor | None, device: torch.device = CPU
    ) -> Source:
        """Open the source of synonyms. table: the teacher's input embeddings, (vocabulary, width), for `embeddings`. device: of
        a helper model.
        """
        source = self.source(asked)
        if source == "embeddings" and tokenizer is not None and table is not None:
            return Neighbours(Vocabulary(tokenizer), table, asked.candidates)
        if source == "masked-lm":
            return self._masked_lm(asked, device)
        if self.wordnet is None:
            raise MissingResource("this worker has no WordNet", param=f"{SYNONYMS}.source", remedy=REMEDY)
        return WordNet(self.wordnet)

    def open_translators(self, asked: BackTranslation, device: torch.device = CPU) -> tuple[Translate, Translate]:
        """Open both directions, models on `device`. Raises MissingResource and the errors of opening a helper model."""
        if asked.models is None:
            return self._pair(asked)
        opened = []
        for folder in self._folders(asked):
            model, tokenizer, lost = open_helper(AutoModelForSeq2SeqLM, folder, f"{BACK}.models", device)
            if lost:
                raise ConfigMismatch(f"the weights of {folder.name} lack {lost[0]}", param=f"{BACK}.models")
            opened.append(Translator(model, tokenizer))
        return opened[0], opened[1]

    def _folders(self, asked: BackTranslation) -> list[Path]:
        return [self.helper(name, f"{BACK}.models") for name in asked.models or ()]

    def _pair(self, asked: BackTranslation) -> tuple[Apertium, Apertium]:
        here, _, abroad = (asked.apertium or "").partition("-")
        return Apertium(f"{here}-{abroad}"), Apertium(f"{abroad}-{here}")

    def _masked_lm(self, asked: Synonyms, device: torch.device) -> MaskedLM:
        folder = self.helper(asked.model, f"{SYNONYMS}.model") if asked.model else self.base
        model, tokenizer, lost = open_helper(AutoModelForMaskedLM, folder, f"{SYNONYMS}.model", device)
        name = folder.name if asked.model else "the model"
        if lost:
            cause = f"{name} has no head of a masked language model (its weights lack {lost[0]})"
            remedy = "Name a helper model with such a head, or choose the source embeddings or wordnet."
            raise MissingResource(cause, param=f"{SYNONYMS}.model", remedy=remedy)
        if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.mask_token_id is None:
            raise ConfigMismatch(f"the tokenizer of {name} has no mask token or no tokenizer.json", param=f"{SYNONYMS}.model")
        return MaskedLM(model, tokenizer, asked.candidates)


def _digest(folder: Path, files: Sequence[str]) -> str:
    whole = hashlib.sha256()
    for name in files:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                whole.update(name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
