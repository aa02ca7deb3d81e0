"""What a recipe leaves to the worker: it is used where the worker has it, and else left out, and the job says so."""

from pathlib import Path
from typing import Any

import pytest

from compression.engine import checkpoints
from compression.engine.job import Job
from compression.engine.pipeline import compress
from compression.modalities.text.augmentation.resources import Resources
from compression.planning.augmentation_cost import augment_seconds
from compression.schema.errors import MissingResource
from compression.schema.events import Log
from compression.schema.recipe.augment import Augment, BackTranslation, Synonyms
from compression.schema.recipe.presets import ARTICLE, merged
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Row
from tests.compression.engine.stages.test_augment import spec
from tests.compression.modalities.text.augmentation.test_sources import write_wordnet
from tests.compression.modalities.text.augmentation.test_translation import needs_pair

ASKED = ARTICLE.distill.augment
SHORT: dict[str, Any] = {
    "prepare": {"epochs": 1, "rate": 3e-3},
    "quantize": {"qat": None, "calibration_rows": 32},
    "prune": {"multiple": 8, "calibration_rows": 32, "sensitivity": False, "recovery": {"epochs": 2}},
    "distill": {"epochs": 1, "general": None, "teachers": {"seeds": 1}},
    "train": {"batch": 64, "max_length": 32},
    "artifacts": [],
}
"""The preset's trainings, short; what it asks of augmentation stays."""


@pytest.fixture
def no_apertium(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def article(
    encoder: Path, reviews: Path, place: Path, monkeypatch: pytest.MonkeyPatch, **changes: str
) -> tuple[Row, list[str]]:
    """Do a short job of the preset; return its last row and what its log says."""
    recipe = Recipe.model_validate(merged(ARTICLE, SHORT))
    assert recipe.distill.augment == ASKED
    asked = spec(encoder, reviews, place / "out", ASKED, **changes).model_copy(update={"recipe": recipe, "threads": 1})
    events = list(compress(asked, place))
    return events[-1].report.rows[-1], [event.message for event in events if isinstance(event, Log)]


@pytest.mark.usefixtures("no_apertium")
def test_article_names_what_it_left_out(encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, log = article(encoder, reviews, tmp_path, monkeypatch)
    (note,) = [note for note in row.notes if note.startswith("Augmentation: ")]
    assert "with other words from embeddings)" in note
    assert note.endswith(
        "WordNet was left out: this worker has no WordNet. Other words come from the teacher's own table. "
        "Back-translation was left out: apertium is not installed."
    )
    assert note in log


@needs_pair
def test_article_takes_what_a_worker_has(encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wordnet(tmp_path / "wordnet")
    row, _ = article(encoder, reviews, tmp_path, monkeypatch, wordnet="wordnet")
    (note,) = [note for note in row.notes if note.startswith("Augmentation: ")]
    assert "by back-translation by eng-spa" in note
    assert "with other words from wordnet" in note
    assert "left out: " not in note


@pytest.mark.usefixtures("no_apertium")
def test_what_a_recipe_names_itself_is_still_needed(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    for augment, reason in (
        (Augment(synonyms=Synonyms(source="wordnet")), "no WordNet"),
        (Augment(back_translation=BackTranslation(apertium="eng-spa")), "apertium is not installed"),
    ):
        assert Resources(None, None, encoder).resolve(augment) == (augment, ())
        with pytest.raises(MissingResource, match=reason):
            Job.open(spec(encoder, reviews, tmp_path / "out", augment), tmp_path)


@pytest.mark.usefixtures("no_apertium")
def test_a_copy_goes_with_the_back_translation_that_is_left_out(tmp_path: Path) -> None:
    here = Resources(None, None, tmp_path)
    optional = BackTranslation(apertium="eng-spa", optional=True)
    for asked, rows in (
        (Augment(copies=3, synonyms=Synonyms(), back_translation=optional), 2),
        (Augment(back_translation=optional, splices=2), 2),
        (Augment(back_translation=optional), 0),
    ):
        settings, left_out = here.resolve(asked)
        assert (settings.rows, settings.back_translation) == (rows, None)
        assert left_out[-1] == "Back-translation was left out: apertium is not installed."
    _, (said,) = here.resolve(Augment(back_translation=BackTranslation(models=("there", "back"), optional=True)))
    assert said == "Back-translation was left out: this worker has no helper models, so no 'there'."


def test_a_wordnet_that_lacks_a_file_is_left_out_with_its_name(tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path / "wordnet")
    here = Resources(folder, None, tmp_path)
    assert here.resolve(Augment(synonyms=Synonyms()))[1] == ()
    (folder / "data.verb").unlink()
    settings, (said,) = here.resolve(Augment(synonyms=Synonyms()))
    assert settings.synonyms.source == "embeddings"
    assert "has no data.verb" in said


@needs_pair
def test_a_job_that_moves_to_a_worker_without_it_begins_distillation_anew(
    encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(encoder, reviews, tmp_path, ASKED)
    before = checkpoints.fingerprints(asked, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    after = checkpoints.fingerprints(asked, tmp_path)
    assert before["distilled"] != after["distilled"]
    assert before["pruned"] == after["pruned"]


def test_the_forecast_takes_what_the_worker_may_have() -> None:
    least = Augment(synonyms=Synonyms(source="embeddings"))
    assert ASKED.rows == 2
    assert augment_seconds(ASKED, 1000) > augment_seconds(least, 1000)
