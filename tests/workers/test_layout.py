"""What an attempt's folder holds before its engine starts."""

import io
from pathlib import Path
from typing import Any

import pytest

from app.core.settings import Settings
from app.jobs import stage_results
from app.store.db import writing
from app.store.models import Dataset, File, JobModel
from app.store.storage import open_storage
from compression.schema.job_spec import Spec
from tests.support.rows import claimed, do, ready, submitted, team
from tests.support.unmeasured import unmeasured
from workers.job_inputs import input_bytes, most_cached, write_inputs
from workers.limits import engine_memory
from workers.sandbox import get_sandbox


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # what is laid out hangs on no database
def test_the_spec_names_what_the_operator_lends_and_the_sandbox_shows_it(settings: Settings, tmp_path: Path) -> None:
    words, models = tmp_path / "words", tmp_path / "models"
    words.mkdir()
    models.mkdir()
    augment = {"copies": 2, "synonyms": {"source": "wordnet"}, "back_translation": {"models": ["there", "back"]}}
    with writing() as session:
        job = submitted(session, recipe={"distill": {"augment": augment}})
        splits = {"train": ["a.jsonl"], "unlabelled": ["b.jsonl"]}
        session.get_one(Dataset, job.dataset_id).data = {"format": "jsonl", "splits": splits}
        for place, role in enumerate(("student", "teacher", "teacher")):
            other, _ = ready(session, team(session))
            other.files = [File(path="config.json", size=2, sha256="0" * 64, key=f"uploads/{role}")]
            session.add(JobModel(job_id=job.id, position=place, model_id=other.id, role=role))
    storage = open_storage(settings)
    for role in ("student", "teacher"):
        storage.put_file(f"uploads/{role}", io.BytesIO(role[:2].encode()))
    claim = claimed()
    asked = tmp_path / "asked"
    asked.mkdir()
    own = {"home": settings.home, "database_url": settings.database_url, "engine_memory_bytes": 1 << 30}
    lends = Settings(**own, wordnet=words, helper_models=models, lm_eval_data=asked, emulate_seconds=7.0)
    for used, expected in ((lends, (str(words), str(models), str(asked))), (settings, (None, None, None))):
        folder = tmp_path / f"attempt-{expected[0] is None}"
        folder.mkdir()
        spec = Spec.model_validate_json(write_inputs(claim, folder, used, open_storage(used), cached=123).read_bytes())
        assert spec.cache_bytes == 123
        assert (spec.wordnet, spec.helper_models, spec.lm_eval_data) == expected
        assert (spec.job, spec.emulate_seconds) == (claim.job.id, 7.0 if used is lends else None)
        assert spec.memory_bytes == (1 << 30 if used is lends else engine_memory(settings))
        assert (spec.student, spec.teachers) == ("student", ("teachers/0", "teachers/1"))
        for name in ("student", *spec.teachers):
            assert (folder / name / "config.json").read_text() == name[:2]
        assert spec.data.splits["unlabelled"] == ("data/b.jsonl",)
        assert spec.recipe.distill.augment.model_dump(exclude_defaults=True, mode="json") == augment
    assert get_sandbox(lends).lent == (words, models, asked)
    assert get_sandbox(settings).lent == ()


@pytest.mark.parametrize(
    ("recipe", "most"),
    [
        ({"distill": {"spill_gib": "auto"}}, 5),
        ({"distill": {"spill_gib": 2.0}}, 0),  # the recipe has said how much
        ({"distill": None}, 0),  # nobody asks a teacher
        ({"distill": None, "prune": {"recovery": {"by": "teacher"}}}, 5),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_room_for_a_teachers_outputs_is_kept_where_the_recipe_leaves_it_to_the_worker(
    settings: Settings, recipe: dict[str, Any], most: int
) -> None:
    with writing() as session:
        job = submitted(session, recipe=recipe)
        assert most_cached(job, settings.model_copy(update={"teacher_cache_bytes": 5})) == most


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_checkpoint_without_its_bytes_is_passed_over(settings: Settings, tmp_path: Path) -> None:
    storage = open_storage(settings)
    with writing() as session:
        dataset = session.get_one(Dataset, submitted(session).dataset_id)
        dataset.data = {"format": "jsonl", "splits": {"train": ["a.jsonl"]}}
        session.add(File(dataset_id=dataset.id, path="a.jsonl", size=3, sha256="0" * 64, key="uploads/a"))
    claim = claimed()
    storage.put_file("uploads/a", io.BytesIO(b"row"))
    for stage in ("baseline", "quantized"):
        files = [{"path": name, "size": 2, "sha256": "0" * 64} for name in ("model", "state.json")]
        storage.put_file(f"{stage}/model", io.BytesIO(b"of"))
        do(stage_results.record_stage, claim, unmeasured(stage), stage, files, [])
    storage.put_file("baseline/state.json", io.BytesIO(b"it"))
    write_inputs(claim, tmp_path, settings, storage)
    laid_out = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "resume").rglob("*"))
    assert laid_out == ["resume/baseline", "resume/baseline/model", "resume/baseline/state.json"]
    assert input_bytes(claim.job) == 3 + 4 * 2
