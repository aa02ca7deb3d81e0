"""What an artifact's card says of the model it was made of, and the command that makes it again."""

import json
import shlex
from pathlib import Path

import pytest
import typer

from client.cli import app
from client.commands.submit import values
from compression.export.provenance import Origin, license_of
from compression.schema.job_spec import Columns, Data, DatasetSpec, Spec
from compression.schema.recipe.presets import PRESETS
from compression.schema.recipe.recipe import Evaluate, JobEvaluate, Targets
from tests.support.decoder_models import tiny
from tests.support.gguf_files import write

APACHE = "                                 Apache License\n                           Version 2.0, January 2004\n"


def folder(place: Path, **files: str) -> Path:
    place.mkdir()
    for name, text in {"config_json": "{}", **files}.items():
        (place / name.replace("_", ".")).write_text(text)
    return place


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"README_md": "---\nlanguage: en\nlicense: MIT\n---\n# Model", "LICENSE": APACHE}, ("mit", "README.md")),
        ({"README_md": "license: mit\n# no front matter", "LICENSE": APACHE}, ("apache-2.0", "LICENSE")),
        ({"config_json": '{"license": "cc-by-4.0"}', "LICENSE": APACHE}, ("cc-by-4.0", "config.json")),
        ({"LICENSE_txt": "MIT License\n\nCopyright (c) 2020"}, ("mit", "LICENSE.txt")),
        ({"LICENSE": "All rights reserved."}, (None, None)),
        ({"README_md": "---\nlicense: [a, `rm -rf`]\n---\n"}, (None, None)),
        ({"README_md": "---\nlicense: x`\n---\n", "config_json": "not json"}, (None, None)),
        ({}, (None, None)),
        ({"README_md": "---" + "\n" * 1_000_000}, (None, None)),  # this must not take hours
    ],
)
def test_the_licence_is_what_its_files_say(files: dict[str, str], found: tuple[str | None, str | None], tmp_path: Path) -> None:
    assert license_of(folder(tmp_path / "model", **files)) == found


@pytest.mark.parametrize(
    ("files", "said", "found"),
    [
        ({}, "Apache-2.0", ("apache-2.0", "tiny.gguf")),
        ({"README_md": "---\nlicense: mit\n---\n"}, "apache-2.0", ("mit", "README.md")),
        ({"LICENSE": APACHE}, "other", ("other", "tiny.gguf")),
        ({"LICENSE": APACHE}, "x`\n# Do as you like", ("apache-2.0", "LICENSE")),
        ({}, "a" * 65, (None, None)),
    ],
)
def test_gguf_says_its_licence(files: dict[str, str], said: str, found: tuple[str | None, str | None], tmp_path: Path) -> None:
    place = folder(tmp_path / "model", **files)
    write(tiny("llama"), place / "tiny.gguf", add_license=said)
    assert license_of(place) == found


def test_a_gguf_file_that_cannot_be_read_says_nothing_of_a_licence(tmp_path: Path) -> None:
    place = folder(tmp_path / "model")
    (place / "tiny.gguf").write_bytes(b"GGUF")
    assert license_of(place) == (None, None)


def spec(tmp_path: Path, **changes: object) -> Spec:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    data = Data(format="jsonl", splits={"train": ("rows.jsonl",)}, columns=Columns(text="the sentence"))
    given: dict[str, object] = {"model": "model", "data": data, "recipe": PRESETS["quick"][0], "output": "out", **changes}
    return Spec.model_validate(given)


@pytest.mark.parametrize("label", ["1", "null", "NaN", "yes"])
def test_a_label_that_reads_as_a_number_stays_a_label(label: str, tmp_path: Path) -> None:
    folder(tmp_path / "model", config_json="{}")
    origin = Origin.of(spec(tmp_path, evaluate=Evaluate(metric="f1", positive=label)), tmp_path)
    asked = typer.main.get_command(app).commands["submit"].make_context("submit", shlex.split(origin.command)[2:]).params
    assert values("--evaluate", list(asked["evaluate"])) == {"metric": "f1", "positive": label}


@pytest.mark.parametrize("several", [False, True])
def test_the_command_is_one_that_lathe_takes(tmp_path: Path, several: bool) -> None:
    folder(tmp_path / "model", config_json=json.dumps({"_name_or_path": "org/name"}), LICENSE=APACHE)
    changes: dict[str, object] = {"targets": Targets(retention=0.5), "evaluate": Evaluate(threads=2, positive="yes; rm -rf /")}
    if several:
        data = spec(tmp_path).data
        tasks = {"a": "text-classification", "b": "text-regression"}
        parts = tuple(DatasetSpec(name=name, task=task, data=data) for name, task in tasks.items())
        changes |= {"task": "several", "data": None, "parts": parts, "teachers": ("model", "model")}
        changes["evaluate"] = JobEvaluate(threads=2, metric=("f1", "auto"), positive=("yes; rm -rf /", None))
    words = shlex.split(Origin.of(spec(tmp_path, **changes), tmp_path).command)
    assert words[:2] == ["lathe", "submit"]
    asked = typer.main.get_command(app).commands["submit"].make_context("submit", words[2:]).params
    assert asked["model"] == "MODEL"
    assert asked["wait"]
    assert (asked["recipe_"], list(asked["target"])) == ("recipe.json", ["retention=0.5"])
    told = {"metric": ["f1", "auto"], "positive": ["yes; rm -rf /", None]} if several else {"positive": "yes; rm -rf /"}
    assert values("--evaluate", list(asked["evaluate"])) == {**told, "threads": 2}
    assert list(asked["column"]) == ["text=the sentence"]
    assert list(asked["data_"]) == (["DATA_1", "DATA_2"] if several else ["DATA"])
    assert list(asked["task"]) == (["text-classification", "text-regression"] if several else ["text-classification"])
    assert len(asked["teacher"] or ()) == (2 if several else 0)


def test_the_files_that_were_sent_are_known_by_their_digests(tmp_path: Path) -> None:
    folder(tmp_path / "model", config_json=json.dumps({"_name_or_path": "/home/me/model"}), NOTICE="n", model_safetensors="w")
    made = Origin.of(spec(tmp_path), tmp_path)
    sent = [("model", "config.json"), ("model", "model.safetensors"), ("train", "rows.jsonl")]
    assert [(one.what, one.path) for one in made.sent] == sent
    assert len({one.sha256 for one in made.sent}) == 3
    assert made.base is None, "a path on somebody's disk is no name"
    assert [path.name for path in made.licenses] == ["NOTICE"]
    assert {"lathe", "torch", "processor"} <= set(made.versions)
