"""A fingerprint counts what a job asks for: keys that came later count once they are used, and leave older jobs' alone."""

from pathlib import Path
from typing import Any

import pytest

from compression.engine.checkpoints import ADDED_KEYS, fingerprint_facts, fingerprints
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import JobEvaluate


def spec_of(folder: Path, recipe: dict[str, Any], **more: Any) -> Spec:
    (folder / "model").mkdir(exist_ok=True)
    for name in ("model/config.json", "train.jsonl"):
        (folder / name).write_text("{}\n", encoding="utf-8")
    data = {"format": "jsonl", "splits": {"train": ["train.jsonl"]}, **more}
    return Spec.model_validate({"model": "model", "data": data, "recipe": recipe, "output": "out"})


USED: dict[str, dict[str, Any]] = {
    "auto": {"prune": {"ratio": {"ffn": 0.3}, "search": "solver"}, "auto": {}},
    "prune.finalists": {"prune": {"ratio": {"ffn": 0.3}, "search": "solver", "finalists": {}}, "distill": {}},
    "prune.free_widths": {"prune": {"ratio": {"ffn": 0.3}, "search": "solver", "free_widths": True}},
    "prune.points": {"prune": {"ratio": {"ffn": 0.3}, "search": "solver", "points": 2}},
    "prune.ratio.channels": {"prune": {"ratio": {"ffn": 0.3, "channels": 0.3}}},
    "prune.target_flops": {"prune": {"ratio": {"ffn": 0.3}, "target_flops": 0.3}},
    "prune.refresh_statistics": {"prune": {"ratio": {"ffn": 0.3}, "refresh_statistics": False}},
    "prune.search": {"prune": {"ratio": {"ffn": 0.3}, "search": "solver"}},
    "prune.search_budget": {"prune": {"ratio": {"ffn": 0.3}, "search": "rl", "search_budget": {"evaluations": 9}}},
    "prune.stock": {"prune": {"ratio": {"ffn": 0.3}, "stock": True}},
    "prune.target_bytes": {"prune": {"ratio": {"ffn": 0.3}, "target_bytes": 0.3}},
    "quantize.symmetric": {"quantize": {"scheme": "static-int8", "symmetric": True}, "prune": {"ratio": {"ffn": 0.3}}},
    "train.compile": {"prune": {"ratio": {"ffn": 0.3}}, "train": {"compile": "on"}},
    "train.micro_batch": {"prune": {"ratio": {"ffn": 0.3}}, "train": {"micro_batch": 8}},
    "train.optimizer": {"prune": {"ratio": {"ffn": 0.3}}, "train": {"optimizer": "adamw-8bit"}},
    "train.views": {"prune": {"ratio": {"ffn": 0.3}}, "train": {"views": {"flip": True}}},
}


@pytest.mark.parametrize("key", list(ADDED_KEYS))
def test_a_key_that_came_later_counts_once_it_is_used(key: str, tmp_path: Path) -> None:
    plain = spec_of(tmp_path, {"prune": {"ratio": {"ffn": 0.3}}})
    kept: Any = fingerprint_facts(plain, tmp_path)["pruned"]["recipe"]
    *path, last = key.split(".")
    for name in path:
        kept = kept[name]
    assert last not in kept
    assert fingerprints(plain, tmp_path)["pruned"] != fingerprints(spec_of(tmp_path, USED[key]), tmp_path)["pruned"]


def test_how_many_sizes_are_made_counts_from_the_cut_on_and_a_size_reads_what_its_cut_and_its_training_do(
    tmp_path: Path,
) -> None:
    def found(points: int, **distill: Any) -> dict[str, str]:
        prune = {"ratio": {"ffn": 0.3}, "search": "solver", "points": points}
        return dict(fingerprints(spec_of(tmp_path, {"prune": prune, "distill": distill}), tmp_path))

    one, two, three = found(1), found(2), found(3)
    assert [*one] == ["baseline", "quantized", "pruned", "distilled"]
    assert [*three] == [*one, "point2", "point3"]
    for stage in ("baseline", "quantized"):
        assert one[stage] == two[stage] == three[stage]
    for stage in ("pruned", "distilled"):
        assert len({one[stage], two[stage], three[stage]}) == 3
    longer = found(3, epochs=9)
    assert [stage for stage in three if three[stage] == longer[stage]] == ["baseline", "quantized", "pruned"]


def test_disk_that_is_left_to_the_worker_counts_as_none_did_before(tmp_path: Path) -> None:
    def pruned(spill: float | str) -> str:
        recovery = {"prune": {"ratio": {"ffn": 0.3}, "recovery": {"by": "teacher", "epochs": 1}}}
        return fingerprints(spec_of(tmp_path, {**recovery, "distill": {"spill_gib": spill}}), tmp_path)["pruned"]

    assert pruned("auto") == pruned(0) != pruned(1.0)


def test_a_column_of_images_counts_once_it_has_another_name(tmp_path: Path) -> None:
    plain = spec_of(tmp_path, {})
    ((about, _),) = fingerprint_facts(plain, tmp_path)["baseline"]["parts"]
    assert "image" not in about["data"]["columns"]
    other = spec_of(tmp_path, {}, columns={"image": "picture"})
    assert fingerprints(plain, tmp_path)["baseline"] != fingerprints(other, tmp_path)["baseline"]


def test_raw_inputs_count_once_they_are_asked_for(tmp_path: Path) -> None:
    plain = spec_of(tmp_path, {})
    assert "raw_inputs" not in fingerprint_facts(plain, tmp_path)["baseline"]["evaluate"]
    asked = plain.model_copy(update={"evaluate": JobEvaluate(raw_inputs=True)})
    assert fingerprints(plain, tmp_path)["baseline"] != fingerprints(asked, tmp_path)["baseline"]


@pytest.mark.parametrize(
    ("own", "change", "counts"),
    [
        ({"auto": {}}, {"epochs": 9}, True),
        ({"auto": {}}, {"temperature": 2.5}, True),
        ({"prune": {"finalists": {}}}, {"temperature": 2.5}, True),
        ({"prune": {"finalists": {}}}, {"epochs": 9}, False),
        ({}, {"temperature": 2.5}, False),
    ],
)
def test_a_cut_that_short_distillations_chose_depends_on_their_settings(
    own: dict[str, Any], change: dict[str, Any], counts: bool, tmp_path: Path
) -> None:
    prune = {"ratio": {"ffn": 0.3}, "search": "solver", **own.get("prune", {})}
    recipe = {**own, "prune": prune}
    before, after = (
        fingerprints(spec_of(tmp_path, {**recipe, "distill": distill}), tmp_path)["pruned"] for distill in ({}, change)
    )
    assert (before != after) is counts
