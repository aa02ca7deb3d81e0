"""augmented(): new rows are made of old ones, each time the same, and nothing else changes."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from compression.modalities.text.augmentation.augmenter import CHUNK, AugmentedRow, Sources, Texts, augment
from compression.modalities.text.augmentation.words import WordSpan, word_spans
from compression.schema.recipe.augment import Augment, BackTranslation, Synonyms
from compression.schema.recipe.presets import ARTICLE, STANDARD
from compression.schema.recipe.recipe import Recipe
from compression.system.progress import Returning


class Numbered:
    """Words from a list of six; none for those that begin with x."""

    def candidates(self, places: Sequence[WordSpan]) -> list[list[str]]:
        return [[] if place.word.startswith("x") else ["one", "two", "three", "four", "five", "six"] for place in places]


def backwards(texts: Sequence[str]) -> list[str]:
    return [" ".join(reversed(text.split())) for text in texts]


def shouted(texts: Sequence[str]) -> list[str]:
    return [text.upper() for text in texts]


def make(texts: Sequence[Texts], settings: Augment, seed: int = 0, **sources: Any) -> tuple[list[AugmentedRow], list[Any]]:
    told = list(work := Returning(augment(texts, settings, seed, Sources(**{"synonyms": Numbered(), **sources}))))
    return work.result, told


def synonyms(copies: int = 1, **settings: Any) -> Augment:
    return Augment(copies=copies, synonyms=Synonyms(**settings))


ROWS = [(f"alpha beta gamma delta epsilon {number}",) for number in range(1, 2 * CHUNK + 5)]


def changed(one: AugmentedRow, old: Texts) -> int:
    pairs = zip(word_spans(" ".join(one.texts)), word_spans(" ".join(old)), strict=True)
    return sum(new.word != before.word for new, before in pairs)


def test_about_the_share_of_words_is_replaced_and_the_rest_stays() -> None:
    made, told = make(ROWS, synonyms(share=0.4))
    assert len(made) == len(ROWS)  # one word of a row always changes
    assert told == [(done, len(ROWS)) for done in (CHUNK, 2 * CHUNK, len(ROWS))]
    for one in made:
        assert changed(one, ROWS[one.row]) == one.replaced
        assert one.texts[0].endswith(f" {one.row + 1}")
    assert 0.35 < sum(one.replaced for one in made) / (5 * len(ROWS)) < 0.45
    assert {one.replaced for one in made} >= {1, 2, 3, 4}


def test_the_seed_decides_and_copies_differ() -> None:
    first, _ = make(ROWS[:40], synonyms(copies=3), seed=1)
    assert make(ROWS[:40], synonyms(copies=3), seed=1)[0] == first
    assert make(ROWS[:40], synonyms(copies=3), seed=2)[0] != first
    assert len({(one.row, one.texts) for one in first}) == len(first)
    # A row's copies do not hang on who stands beside it.
    assert [one.texts for one in make(ROWS[:7], synonyms())[0]] == [one.texts for one in make(ROWS[:40], synonyms())[0]][:7]


def test_candidates_bound_what_is_drawn_from() -> None:
    made, _ = make(ROWS[:60], synonyms(share=1, candidates=2))
    assert {word for one in made for word in one.texts[0].split()[:5]} == {"one", "two"}


def test_what_came_out_as_it_was_or_twice_is_left_out() -> None:
    assert make([("xx xxx",), ("",), ("5 %",)], synonyms(copies=2))[0] == []
    made, _ = make([("word",)], synonyms(copies=50, candidates=2))
    assert sorted(one.texts[0] for one in made) == ["one", "two"]


def test_rows_of_two_texts_keep_both() -> None:
    made, _ = make([("alpha beta", "gamma xx"), ("xx", "delta")], synonyms(share=1))
    assert [len(one.texts) for one in made] == [2, 2]
    assert made[0].texts[1].endswith(" xx")
    assert (made[1].texts[0], made[1].replaced) == ("xx", 1)


def test_the_first_copy_is_the_back_translation_and_others_are_of_words() -> None:
    settings = Augment(copies=2, back_translation=BackTranslation(apertium="eng-spa"), synonyms=Synonyms(share=1))
    rows = [("alpha beta", "gamma"), ("LONE", "")]
    made, _ = make(rows, settings, translators=(backwards, shouted))
    assert made[0] == AugmentedRow(0, ("BETA ALPHA", "GAMMA"), by="back_translation")
    assert [one.row for one in made[1:]] == [0, 1]  # LONE came back as it was
    assert made[1].replaced == 3


def test_two_rows_are_put_together_in_either_order() -> None:
    texts = [(f"own{number}",) for number in range(300)]
    made, _ = make(texts, Augment(splices=2))
    assert [one.row for one in made] == [*range(300), *range(300)]
    words = [one.texts[0].split() for one in made]
    assert all(len(each) == 2 and f"own{one.row}" in each for one, each in zip(made, words, strict=True))
    behind = sum(each[0] == f"own{one.row}" for one, each in zip(made, words, strict=True))
    assert 230 < behind < 370
    others = {word for one, each in zip(made, words, strict=True) for word in each if word != f"own{one.row}"}
    assert len(others) > 200  # from all over train
    assert make(texts, Augment(splices=2))[0] == made
    assert make(texts, Augment(splices=2), seed=1)[0] != made


def test_half_of_the_pairs_get_anothers_second_text_and_half_stay_in_step() -> None:
    texts = [(f"a{number}", f"b{number}") for number in range(300)]
    made, _ = make(texts, Augment(splices=1))
    exchanged = [one for one in made if " " not in one.texts[0]]
    assert 110 < len(exchanged) < 190
    for one in made:
        first, second = one.texts
        if one in exchanged:
            assert first == f"a{one.row}"
            assert second in {pair[1] for pair in texts} - {f"b{one.row}"}
        else:
            assert first.replace("a", "b") == second
            assert f"a{one.row}" in first.split()


def test_splices_come_behind_the_copies() -> None:
    made, _ = make(ROWS[:3], Augment(splices=1, synonyms=Synonyms()))
    assert [one.replaced > 0 for one in made] == [True] * 3 + [False] * 3
    assert Augment(splices=2).rows == 2
    assert Augment(splices=2, copies=3, synonyms=Synonyms()).rows == 5


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "name synonyms"),
        ({"copies": 2, "splices": 1}, "copies are made by"),
        ({"copies": 0, "synonyms": {}}, "greater than or equal to 1"),
        ({"copies": 2, "back_translation": {"apertium": "eng-spa"}}, "copies is 1"),
        ({"copies": 1, "back_translation": {"apertium": "eng-spa"}, "synonyms": {}}, "at least 2"),
        ({"back_translation": {}}, "either models or apertium"),
        ({"back_translation": {"apertium": "eng-spa; rm"}}, "pattern"),
        ({"back_translation": {"models": ["../../etc", "b"]}}, "pattern"),
        ({"synonyms": {"source": "embeddings", "model": "bert"}}, "only the source masked-lm has a model"),
        ({"synonyms": {"share": 0}}, "greater than 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Recipe.model_validate({"distill": {"augment": settings}})


def test_presets_augment_with_nothing_that_a_worker_must_have() -> None:
    asked = ARTICLE.distill.augment
    assert asked.synonyms == Synonyms(source="auto")
    assert asked.back_translation == BackTranslation(apertium="eng-spa", optional=True)
    assert STANDARD.distill.augment is None
