"""What distillation's own stage makes more rows of, with each of the sources that a worker may have."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from compression.engine.stages.distill import augment_rows
from compression.modalities.registry import task_of
from compression.modalities.text.augmentation.apertium import Apertium
from compression.modalities.text.augmentation.augmenter import Texts
from compression.modalities.text.augmentation.resources import Resources
from compression.modalities.text.augmentation.source import AugmentationSource
from compression.modalities.text.batches import TokenizedDataset
from compression.schema.recipe.augment import Augment, BackTranslation, Synonyms
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Recipe
from compression.system.progress import run_silently
from tests.compression.engine.stages.test_augment import PHASES
from tests.compression.modalities.text.augmentation.conftest import TEXTS
from tests.compression.modalities.text.augmentation.test_sources import write_wordnet
from tests.compression.modalities.text.augmentation.test_translation import PAIR, needs_pair
from tests.support.tiny_bert import state_of, tiny_config


def numbered(texts: Sequence[str]) -> TokenizedDataset:
    """A token for each word: what it stands for is no matter here."""
    tokens = [[5 + len(word) for word in text.split()] for text in texts]
    return TokenizedDataset(tokens, torch.zeros(len(texts)).long(), 0, task_of("text-classification"))


def made(asked: Augment, texts: list[str], sources: Resources) -> tuple[list[str], str]:
    """Let distillation's own stage make more rows of texts; return their texts and what the job says of them."""
    torch.manual_seed(0)
    state = state_of(BertForSequenceClassification(tiny_config(num_labels=2)), Recipe(distill=Distill(augment=asked)))
    state.rows["train"], state.teacher, state.tracker = numbered(texts), state.model, PHASES
    tokenizer = PreTrainedTokenizerFast.from_pretrained(sources.base)

    def encode(new: Sequence[Texts], labels: list[int]) -> TokenizedDataset:
        return numbered([text for (text,) in new])

    state.begin("distilled")
    work = augment_rows(state, asked, AugmentationSource([(text,) for text in texts], encode, tokenizer, sources))
    done = run_silently(work)
    assert done.rows.labelled.tolist() == [True] * len(texts) + [False] * len(done.made)
    assert [len(row) for row in done.rows.tokens[len(texts) :]] == [len(row) for row in encode(done.made, []).tokens]
    return [text for (text,) in done.made], state.notes[-1]


def test_a_jobs_rows_go_there_and_back_by_the_models_that_it_names(helpers: Path, encoder: Path) -> None:
    sources = Resources(wordnet=None, helpers=helpers, base=encoder)
    there, back = sources.open_translators(PAIR)
    texts = TEXTS[:12]
    found, said = made(Augment(copies=1, synonyms=None, back_translation=PAIR), texts, sources)
    assert found == [new for new, old in zip(back(there(texts)), texts, strict=True) if new != old]
    assert "back-translation by there and back" in said


@needs_pair
def test_a_jobs_rows_go_there_and_back_by_an_installed_pair(encoder: Path) -> None:
    asked = Augment(copies=1, synonyms=None, back_translation=BackTranslation(apertium="eng-spa"))
    texts = ["The house is very big.", "She told me that the film was boring."]
    there, back = (Apertium(pair) for pair in ("eng-spa", "spa-eng"))
    found, said = made(asked, texts, Resources(None, None, encoder))
    assert found == [new for new, old in zip(back(there(texts)), texts, strict=True) if new != old]
    assert len(found) == 1, "the first comes back as it was, and is left out"
    assert "film" in found[0]
    assert "back-translation by eng-spa" in said


def test_a_jobs_words_are_exchanged_by_the_workers_wordnet(tmp_path: Path, encoder: Path) -> None:
    sources = Resources(write_wordnet(tmp_path / "wordnet"), None, encoder)
    found, said = made(Augment(copies=1, synonyms=Synonyms(share=1.0)), ["a film word1", "it is good", "nothing"], sources)
    assert found[0] == "a moving picture word1"
    assert found[1] in {f"it is {word}" for word in (*(f"fine{n}" for n in "abcdefghij"), "well")}
    assert len(found) == 2
    assert "other words from wordnet" in said
