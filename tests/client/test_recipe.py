"""A recipe of one's own: written with its comments, changed by hand, checked by the service, sent."""

import json
import re
from pathlib import Path

import pytest

from client import recipes
from client.errors import BadRecipe
from compression.schema.recipe.presets import PRESETS, preset
from compression.schema.recipe.recipe import Recipe
from tests.client.conftest import Command, Live, document
from tests.compression.planning.test_network_rules import NETWORKS, data_of, model_of
from tests.support.saying import says

IMAGES = "image-classification"


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_is_written_with_what_each_key_means(live: Live, command: Command, tmp_path: Path, name: str) -> None:
    out = tmp_path / "mine.jsonc"
    ran = command("recipe", "init", name, "--out", str(out))
    assert ran.code == 0
    assert f"lathe recipe check {out}" in ran.out
    text = out.read_text()
    assert recipes.read(out) == PRESETS[name][0].model_dump(mode="json")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    keys = [place for place, line in enumerate(lines) if line.startswith('  "')]
    assert all(lines[place - 1].lstrip().startswith("//") for place in keys[1:]), text


@pytest.mark.parametrize(("name", "task"), [("standard", IMAGES), ("quick", IMAGES), ("article", "token-classification")])
def test_a_recipe_for_a_task_is_the_one_that_its_jobs_get(
    live: Live, command: Command, tmp_path: Path, name: str, task: str
) -> None:
    out = tmp_path / "mine.jsonc"
    assert command("recipe", "init", name, "--task", task, "--out", str(out)).code == 0
    whole = preset(name, task).model_dump(mode="json")
    assert whole != PRESETS[name][0].model_dump(mode="json")
    assert Recipe.model_validate(recipes.read(out)).model_dump(mode="json") == whole
    assert document(command("recipe", "show", name, "--task", task, "--json")) == whole
    checked = command("recipe", "check", str(out))
    assert (checked.code, f"is right: {name}" in checked.out) == (0, True)
    assert command("recipe", "show", str(out), "--task", task).code == 2
    assert command("recipe", "show", name, "--task", "cooking").code == 6


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_service_accepts_a_recipe_that_was_written_for_images(
    live: Live, command: Command, tmp_path: Path, network: str
) -> None:
    out, facts = tmp_path / "mine.jsonc", (model_of(network).model_dump(mode="json"), data_of().model_dump(mode="json"))
    model, dataset = live.ready(*({**each, "kind": kind} for each, kind in zip(facts, ("model", "dataset"), strict=True)))
    command("recipe", "init", "standard", "--task", IMAGES, "-o", str(out))
    asked = ("--model", model, "--data", dataset)
    mine, named = (document(command("recipe", "check", each, *asked, "--json")) for each in (str(out), "standard"))
    assert (mine["nearest"], mine["changes"]) == ("standard", {})
    assert mine == named
    changed = tmp_path / "changed.json"
    changed.write_text('{"preset": "standard", "distill": null}')
    without = document(command("recipe", "check", str(changed), *asked, "--json"))
    assert (without["nearest"], list(without["changes"])) == ("standard", ["distill"])
    dry = document(command("submit", *asked, "--recipe", "standard", "--dry-run", "--json"))
    assert dry["parameters"] == mine["forecast"]["parameters"]
    for_texts = tmp_path / "texts.jsonc"
    command("recipe", "init", "standard", "-o", str(for_texts))
    assert command("recipe", "check", str(for_texts), *asked).code == 6


def test_comments_say_what_may_stand_there(live: Live, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    command("recipe", "init", "--out", str(out))
    text = " ".join(out.read_text().replace("//", " ").split())
    says(text, "Rows whose mean loss the optimizer follows. [1 or more, 4096 at most]", '"auto" | "float32" | "bfloat16"')


def test_a_file_that_is_there_is_not_written_over(live: Live, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonc"
    out.write_text("mine")
    ran = command("recipe", "init", "quick", "-o", str(out))
    assert ran.code == 2
    assert "--force" in ran.err
    assert out.read_text() == "mine"
    assert command("recipe", "init", "quick", "-o", str(out), "--force").code == 0
    assert recipes.read(out)["version"] == 1
    assert command("recipe", "init", "quick", "-o", str(tmp_path / "mine.yaml")).code == 2
    ran = command("recipe", "init", "quik", "-o", str(tmp_path / "other.json"))
    assert ran.code == 2
    assert "quick" in ran.err


def test_a_recipe_is_changed_checked_and_sent(live: Live, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonc"
    command("recipe", "init", "quick", "-o", str(out))
    text = out.read_text()
    out.write_text(text.replace('"ratio": 0.3', '"ratio": 0.4', 1))
    ran = command("recipe", "check", str(out))
    assert ran.code == 0
    says(ran.out, "is right: quick, with these changes", "prune.ratio: 0.3 → 0.4")
    checked = document(command("recipe", "check", str(out), "--json"))
    assert (checked["nearest"], checked["changes"]) == ("quick", {"prune.ratio": [0.3, 0.4]})
    (tmp_path / "none.json").write_text('{"prune": null, "distill": {"epochs": 6}}')
    assert "prune: {…} → null" in command("recipe", "check", str(tmp_path / "none.json")).out
    model, dataset = live.ready()
    fit = command("recipe", "check", str(out), "--model", model, "--data", dataset)
    assert re.search(r"Estimate: [\d.]+ minutes on ", fit.out)
    assert command("recipe", "check", str(out), "--model", model).code == 2
    job = document(command("submit", "--model", model, "--data", dataset, "--recipe", str(out), "--json"))
    assert job["recipe"] == Recipe.model_validate(checked["recipe"]).model_dump(mode="json")
    command("cancel", job["id"])


def test_what_is_wrong_in_a_recipe_is_named(live: Live, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonc"
    out.write_text('{\n  // more than there is\n  "prune": {"ratio": 1.5}\n}\n')
    ran = command("recipe", "check", str(out))
    assert ran.code == 6
    says(ran.err, "recipe.prune.ratio", "lathe recipe init")
    out.write_text('{\n  // a comma is missing\n  "version": 1\n  "prune": null\n}\n')
    ran = command("recipe", "check", str(out))
    assert ran.code == 2
    assert "line 4" in ran.err
    assert command("recipe", "show", str(tmp_path / "none.json")).code == 2


def test_a_wrong_recipe_is_refused_before_a_folder_is_uploaded(live: Live, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    out.write_text('{"prune": {"rato": 0.5}}')
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    before = document(command("models", "ls", "--json"))
    ran = command("submit", "--model", str(tmp_path / "model"), "--data", "dat_1", "--recipe", str(out), "--json")
    assert ran.code == 6
    assert document(ran)["error"]["param"] == "recipe.prune.rato"
    assert document(command("models", "ls", "--json")) == before


def test_a_recipe_is_shown_whole(live: Live, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    out.write_text('{"distill": null}')
    shown = json.loads(command("recipe", "show", str(out)).out)
    assert shown == Recipe(distill=None).model_dump(mode="json")
    assert document(command("recipe", "show", "quick", "--json")) == PRESETS["quick"][0].model_dump(mode="json")


def test_only_whole_lines_are_comments(tmp_path: Path) -> None:
    assert recipes.parse('{\n// one\n  // two\n"a": "http://x"\n}') == {"a": "http://x"}
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(BadRecipe, match="no JSON object"):
        recipes.read(tmp_path / "list.json")
