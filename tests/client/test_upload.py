"""Uploads to the real API: what is there already is not sent again, and a file that changed on the way is refused."""

import os
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.store.models import Model as ModelRow
from client.api import Lathe
from client.errors import BadFolder, NotReady, Problem
from client.transfers.folders import data_files, local_dataset, manifest, model_files
from client.transfers.upload import add, until_ready
from tests.client.conftest import Live
from tests.faults.proxy import Proxy


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(tmp_path.name.encode() * 200_000)  # other bytes in each test
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / ".hidden.json").write_text("{}")
    (folder / "onnx").mkdir()
    return folder


@pytest.fixture
def lathe(live: Live) -> Lathe:
    return Lathe(live.service.url, live.service.database.key)


def names(folder: Path, *files: str) -> tuple[list[str], list[str]]:
    for name in files:
        (folder / name).write_bytes(b"")
    taken, left = model_files(folder)
    return [path.name for path in taken], [path.name for path in left]


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        (["tiny.Q4_1.gguf"], ["pytorch_model.bin"]),
        (["config.json", "model.onnx", "preprocessor_config.json"], ["model.pt"]),
        (["LICENSE", "NOTICE.txt", "README.md", "config.json", "model.safetensors"], ["notes.md"]),  # its licence goes along
        (["config.json", "model.safetensors", "tokenizer.json"], ["tiny.gguf"]),
    ],
)
def test_what_a_model_is_made_of_goes_and_the_rest_stays(tmp_path: Path, taken: list[str], left: list[str]) -> None:
    assert names(tmp_path, *taken, *left) == (taken, left)


def test_folders_and_hidden_files_stay(model: Path) -> None:
    assert names(model) == (["config.json", "model.safetensors"], ["onnx", "pytorch_model.bin"])


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        (["tiny.Q4_1.gguf", "tiny.Q8_0.gguf"], "2 GGUF files"),
        (["tiny.Q8_0.gguf", "model.onnx"], "2 GGUF and ONNX files"),
        (["README.md"], "nothing of a model"),
    ],
)
def test_what_is_not_one_model_is_refused(tmp_path: Path, files: list[str], cause: str) -> None:
    with pytest.raises(BadFolder, match=cause):
        names(tmp_path, *files)


def test_a_second_upload_of_the_same_sends_nothing(lathe: Lathe, model: Path) -> None:
    local = manifest(model_files(model)[0])
    moved: list[int] = []
    first = add(lathe, "models", {"name": "m"}, local, moved=lambda _, amount: moved.append(amount))
    assert (first.state, sum(moved)) == ("validating", sum(file.size for file in first.files))
    moved.clear()
    second = add(lathe, "models", {"name": "m"}, local, moved=lambda _, amount: moved.append(amount))
    assert (second.id, moved) == (first.id, [])
    (model / "config.json").write_text('{"changed": true}')
    assert add(lathe, "models", {"name": "m"}, manifest(model_files(model)[0])).id != first.id


def test_a_second_upload_of_the_same_data_sends_nothing(lathe: Lathe, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "b"}\n' * 40)
    local = local_dataset(tmp_path)
    first = add(lathe, "datasets", local.body, manifest(local.files))
    assert add(lathe, "datasets", local.body, manifest(local.files)).id == first.id
    other = local_dataset(tmp_path, columns={"text": "text", "label": "label", "text_pair": "other"})
    assert add(lathe, "datasets", other.body, manifest(other.files)).id != first.id


def test_an_upload_that_broke_off_is_completed(lathe: Lathe, model: Path) -> None:
    local = manifest(model_files(model)[0])
    begun = lathe.create_upload("models", {"name": "m"}, [promise for promise, _ in local.values()])
    promise, path = local["model.safetensors"]
    lathe.put_file("models", begun.id, promise, lambda: [path.read_bytes()])
    moved: dict[str, int] = {}
    done = add(lathe, "models", {"name": "m"}, local, moved=lambda name, amount: moved.update({name: amount}))
    assert (done.id, done.state) == (begun.id, "validating")
    assert set(moved) == {"config.json"}


# The second line breaks more often than a client tries without getting on.
@pytest.mark.parametrize("every", [9 << 20, 3 << 20])
def test_a_large_file_goes_on_from_where_the_line_broke(
    every: int, live: Live, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "model.safetensors").write_bytes(os.urandom(24 << 20))
    local = manifest(model_files(model)[0])
    told: Counter[str] = Counter()
    begun: list[int] = []  # to where the client went back in the large file
    stored: list[int] = []  # what the service had when it was asked
    with Proxy(live.service.port) as proxy, Lathe(f"http://127.0.0.1:{proxy.port}", live.service.database.key) as lathe:
        breaks, ask = list(range(every, 24 << 20, every)), lathe.offset
        assert (len(breaks) > lathe.attempts) == (every < 4 << 20)
        monkeypatch.setattr(lathe, "offset", lambda *args: stored.append(ask(*args)) or stored[-1])

        def moved(name: str, amount: int) -> None:
            told[name] += amount
            if amount < 0 and name == "model.safetensors":
                begun.append(told[name])
            if breaks and told.total() > breaks[0]:
                breaks.pop(0)
                proxy.drop()

        done = add(lathe, "models", {"name": "large"}, local, moved=moved)
    assert (done.state, breaks) == ("validating", [])
    assert told.total() == sum(file.size for file in done.files)
    # How much a break loses is the kernel's affair; what the service has is not sent again.
    assert set(begun) <= set(stored[1:])
    assert 0 < stored[-1] == max(stored)


def test_a_file_that_changes_on_the_way_is_refused(lathe: Lathe, model: Path) -> None:
    local = manifest(model_files(model)[0])
    (model / "config.json").write_text("[]")  # as long as before
    with pytest.raises(Problem) as error:
        add(lathe, "models", {"name": "m"}, local)
    assert error.value.problem_code == "checksum_mismatch"
    assert next(lathe.uploads("models")).state == "uploading"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_of_a_file_that_changes_length_the_promised_bytes_are_sent_or_none(lathe: Lathe, model: Path, name: str) -> None:
    (model / "model.safetensors").write_bytes(os.urandom(9 << 20))  # which is sent in parts
    local = manifest(model_files(model)[0])
    whole = (model / name).read_bytes()
    (model / name).write_bytes(whole[:-1])
    with pytest.raises(BadFolder, match=f"{name} changed while it was sent"):
        add(lathe, "models", {"name": "m"}, local)
    (model / name).write_bytes(whole + b"more")
    assert add(lathe, "models", {"name": "m"}, local).state == "validating"


def test_a_rejected_model_says_why_and_is_not_taken_up_again(live: Live, lathe: Lathe, model: Path) -> None:
    local = manifest(model_files(model)[0])
    first = add(lathe, "models", {"name": "m"}, local)
    reason = {"code": "missing_file", "cause": "no tokenizer.json", "remedy": "Upload it.", "param": None}
    with Session(live.engine) as session, session.begin():
        session.execute(update(ModelRow).where(ModelRow.id == first.id).values(state="rejected", reasons=[reason]))
    with pytest.raises(NotReady, match=r"no tokenizer\.json \(missing_file\)$") as error:
        until_ready(lathe, "models", lathe.upload("models", first.id))
    assert error.value.remedy_text == "Upload it."
    assert error.value.as_dict()["reasons"] == [reason]
    with Session(live.engine) as session, session.begin():
        session.execute(update(ModelRow).where(ModelRow.id == first.id).values(reasons=[reason] * 55))
    with pytest.raises(NotReady) as error:
        until_ready(lathe, "models", lathe.upload("models", first.id))
    assert error.value.cause.count("no tokenizer.json") == 5
    assert error.value.cause.endswith(f"and 50 more, which `lathe models show {first.id}` lists")
    assert add(lathe, "models", {"name": "m"}, local).id != first.id


def test_an_unchecked_model_is_not_waited_for_forever(lathe: Lathe, model: Path) -> None:
    begun = add(lathe, "models", {"name": "m"}, manifest(model_files(model)[0]))
    with pytest.raises(NotReady, match="still validating"):
        until_ready(lathe, "models", begun, timeout=0.5)


def test_names_say_which_split_a_file_is_of(tmp_path: Path) -> None:
    for name in ("train-00000-of-2.parquet", "train_1.parquet", "dev.parquet", "test.parquet", "notes.txt", "other.parquet"):
        (tmp_path / name).write_bytes(b"")
    found, splits = data_files(tmp_path)
    assert found == "parquet"
    train = ["train-00000-of-2.parquet", "train_1.parquet"]
    expected = {"train": train, "validation": ["dev.parquet"], "test": ["test.parquet"]}
    assert {split: [path.name for path in paths] for split, paths in splits.items()} == expected


def test_one_file_is_train(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text,label\n")
    assert data_files(tmp_path / "reviews.csv") == ("csv", {"train": [tmp_path / "reviews.csv"]})


def test_plain_texts_are_data_where_there_is_no_other(tmp_path: Path) -> None:
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text("a text")
    assert data_files(tmp_path) == ("text", {"test": [tmp_path / "test.txt"], "train": [tmp_path / "train.txt"]})
    (tmp_path / "train.jsonl").write_text("")
    assert data_files(tmp_path) == ("jsonl", {"train": [tmp_path / "train.jsonl"]})


@pytest.mark.parametrize("names", [[], ["test.jsonl"], ["train.jsonl", "test.csv"]])
def test_data_that_cannot_be_right_is_refused_before_it_is_sent(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(BadFolder):
        data_files(tmp_path)


def test_a_train_of_another_ending_is_named_with_the_endings_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[]")
    (tmp_path / "train").mkdir()
    with pytest.raises(BadFolder, match=r"has no train split: train\.json has another ending than is read") as refused:
        data_files(tmp_path)
    for ending in (".jsonl", ".csv", ".tsv", ".parquet", ".npz", ".txt", "a JSON array"):
        assert ending in refused.value.remedy_text
