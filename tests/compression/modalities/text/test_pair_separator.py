"""Two texts of a row stay apart for a decoder whose tokenizer has no rule for pairs, in training and in what is shipped."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compression.engine import checkpoints
from compression.engine.dataset_run import DatasetRun
from compression.engine.pipeline import compress
from compression.modalities.text.pair_separator import apart
from compression.schema.errors import ConfigMismatch, MissingFile
from compression.schema.events import Finished
from compression.schema.job_spec import Spec
from compression.schema.report.measurements import NotMeasured
from tests.support.decoder_models import END, UNKNOWN, tiny, write_tokenizer

WORDS = [END, UNKNOWN, "<s>", *"abcdefghij", *(f"w{n}" for n in range(30))]
SPECIAL = [("<s>", 2), (END, 0)]


def send(folder: Path, head: str = "ForCausalLM", rule: Any = None, **changes: Any) -> Path:
    tiny("llama", head, vocab_size=len(WORDS), initializer_range=0.1, eos_token_id=0, **changes).save_pretrained(folder)
    write_tokenizer(folder, WORDS)
    if rule is not None:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.post_processor = rule
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def read(folder: Path, *texts: str) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(*texts)["input_ids"])
    return found


@pytest.mark.parametrize(
    ("rule", "single", "pair"),
    [
        (None, ["a"], ["a", END, "b"]),
        (processors.ByteLevel(trim_offsets=False), ["a"], ["a", END, "b"]),
        (processors.TemplateProcessing("<s> $A", "<s> $A $B", SPECIAL), ["<s>", "a"], ["<s>", "a", END, "b"]),
        (
            processors.Sequence(
                [processors.ByteLevel(), processors.TemplateProcessing(f"<s> $A {END}", f"<s> $A $B {END}", SPECIAL)]
            ),
            ["<s>", "a", END],
            ["<s>", "a", END, "b", END],
        ),
    ],
)
def test_a_token_stands_between_two_texts_and_all_else_stays(
    tmp_path: Path, rule: Any, single: list[str], pair: list[str]
) -> None:
    folder = send(tmp_path / "model", rule=rule)
    assert END not in read(folder, "a", "b")[1:-1]
    found, token = apart(folder, "text-pair-classification", tmp_path / "apart")
    assert (found, token) == (tmp_path / "apart", END)
    assert (read(found, "a"), read(found, "a", "b")) == (single, pair)
    assert {file.name for file in found.iterdir()} == {file.name for file in folder.iterdir()}
    assert apart(found, "text-pair-classification", tmp_path / "again") == (found, None)


@pytest.mark.parametrize("way", ["padding", "truncation"])
def test_what_a_file_does_to_lengths_hides_nothing(tmp_path: Path, way: str) -> None:
    folder = send(tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if way == "padding":
        tokenizer.enable_padding(length=16, pad_token=END)
    else:
        tokenizer.enable_truncation(1)
    tokenizer.save(str(folder / "tokenizer.json"))
    found, token = apart(folder, "text-pair-classification", tmp_path / "apart")
    backend = Tokenizer.from_file(str(found / "tokenizer.json"))
    backend.no_padding()
    backend.no_truncation()
    assert (token, backend.encode("a", "b").tokens) == (END, ["a", END, "b"])


def test_a_token_that_settings_alone_name_is_not_taken(tmp_path: Path) -> None:
    folder = send(tmp_path / "model")
    for name, change in (("tokenizer_config.json", {"sep_token": "<sep>"}), ("config.json", {"vocab_size": len(WORDS) + 8})):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, **change}))
    found, token = apart(folder, "text-pair-classification", tmp_path / "apart")
    assert (token, read(found, "a", "b")) == (END, ["a", END, "b"])


def test_a_file_that_cannot_be_opened_is_said_to_be_so(tmp_path: Path) -> None:
    folder = send(tmp_path / "model")
    (folder / "tokenizer.json").write_text('{"model":')
    with pytest.raises(ConfigMismatch) as caught:
        apart(folder, "text-pair-classification", tmp_path / "apart")
    assert caught.value.param == "tokenizer.json"


def test_a_tokenizer_that_knows_no_letters_is_left_alone(tmp_path: Path) -> None:
    folder = send(tmp_path / "model")
    backend = Tokenizer(BPE({END: 0, "<s>": 1, "1": 2, "2": 3}, []))
    backend.add_special_tokens([END, "<s>"])
    backend.post_processor = processors.TemplateProcessing(f"<s> $A {END}", f"<s> $A $B {END}", [("<s>", 1), (END, 0)])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    assert apart(folder, "text-pair-classification", tmp_path / "apart") == (folder, None)


def test_what_an_earlier_attempt_left_is_not_taken(tmp_path: Path) -> None:
    one, two = send(tmp_path / "one"), send(tmp_path / "two")
    for folder in (one, two):
        found, _ = apart(folder, "text-pair-classification", tmp_path / "apart")
        assert (found / "model.safetensors").resolve() == folder / "model.safetensors"
    moved = two.rename(tmp_path / "moved")  # which leaves links to nothing
    found, _ = apart(moved, "text-pair-classification", tmp_path / "apart")
    assert (found / "config.json").is_file()


def test_who_keeps_texts_apart_or_was_tuned_on_pairs_is_left_alone(tmp_path: Path) -> None:
    own = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", SPECIAL)
    folders = [send(tmp_path / "own", rule=own), send(tmp_path / "tuned", "ForSequenceClassification")]
    for folder in folders:
        assert apart(folder, "text-pair-classification", tmp_path / "apart") == (folder, None)
    assert not (tmp_path / "apart").exists()


def test_a_token_is_found_in_a_tokenizer_of_bytes(tmp_path: Path) -> None:
    folder = send(tmp_path / "model")
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.save(str(folder / "tokenizer.json"))
    found, _ = apart(folder, "text-pair-classification", tmp_path / "apart")
    kinds = [part["type"] for part in json.loads((found / "tokenizer.json").read_text())["post_processor"]["processors"]]
    assert kinds == ["ByteLevel", "TemplateProcessing"]
    assert isinstance(Tokenizer.from_file(str(found / "tokenizer.json")).pre_tokenizer, ByteLevel | WhitespaceSplit)


def job_of(folder: Path, **changes: Any) -> Spec:
    """Write rows whose label hangs on both texts; return a job of the model beside them."""
    draw = random.Random(0)
    for name, count in (("train", 320), ("test", 80)):
        rows = []
        for _ in range(count):
            one, other = draw.choice("abc"), draw.choice("abc")
            filler = [f"w{draw.randrange(30)}" for _ in range(draw.randint(1, 5))]
            label = "same" if one == other else "other"
            rows.append({"text": " ".join([one, *filler]), "text_pair": " ".join([*filler, other]), "label": label})
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {
        "task": "text-pair-classification",
        "model": "model",
        "data": {"format": "jsonl", "splits": {name: [f"{name}.jsonl"] for name in ("train", "test")}},
        "recipe": {
            "prepare": {"epochs": 2, "rate": 1e-2},
            "prune": {"ratio": {"ffn": 0.5, "vocabulary": 1.0}, "multiple": 8, "calibration_rows": 16},
            "distill": {"epochs": 1},
            "train": {"batch": 16, "max_length": 24},
        },
        "evaluate": {"length": 16},
        "output": "out",
        "threads": 1,
    }
    return Spec.model_validate({**given, **changes})


PLAIN = {"prepare": {"epochs": 0}, "quantize": None, "prune": None, "distill": {"epochs": 1}, "train": {"max_length": 24}}


def test_what_is_wrong_with_a_student_is_said_of_it(tmp_path: Path) -> None:
    send(tmp_path / "model")
    (send(tmp_path / "student") / "config.json").unlink()
    spec = job_of(tmp_path, student="student", recipe=PLAIN)
    with pytest.raises(MissingFile) as caught:
        DatasetRun.open(spec, tmp_path, spec.asked[0])
    assert caught.value.param == "models.student"


def test_a_student_with_the_tokenizer_of_a_tuned_base_reads_as_it_does(tmp_path: Path) -> None:
    names = {"id2label": {0: "other", 1: "same"}, "label2id": {"other": 0, "same": 1}}
    send(tmp_path / "model", "ForSequenceClassification", **names)
    send(tmp_path / "student")
    spec = job_of(tmp_path, student="student", recipe=PLAIN)
    part = DatasetRun.open(spec, tmp_path, spec.asked[0])
    assert part.state.models.base.aligned  # so that its hidden states can be compared, as distillation does by default
    assert not part.state.notes
    # Beside a base that was not tuned both are given the token.
    send(tmp_path / "model")
    part = DatasetRun.open(spec, tmp_path, spec.asked[0])
    assert part.state.models.base.aligned
    assert [note.split()[3] for note in part.state.notes] == ["models.base", "models.student"]


def test_what_is_shipped_reads_pairs_as_the_job_did(tmp_path: Path) -> None:
    send(tmp_path / "model")
    spec = job_of(tmp_path)
    *_, last = compress(spec, tmp_path)
    assert isinstance(last, Finished)
    report = last.report
    assert f"{END!r} stands between them now" in " ".join(report.rows[0].notes)
    for shipped in report.artifacts:
        folder = tmp_path / "out/artifacts" / shipped.name
        assert read(folder, "a w1", "w2 b") == ["a", "w1", END, "w2", "b"]
    # Said once: a new attempt opens the job again, and its row is another stage's.
    again, kept = DatasetRun.open(spec, tmp_path, spec.asked[0]), tmp_path / "out/checkpoints"
    assert again.state.notes
    again.fingerprints = checkpoints.fingerprints(spec, tmp_path)
    again.take_up(kept, checkpoints.read(kept, "pruned", again.fingerprints), kept)
    assert not again.state.notes
    # The score of the checkpoint is that of rows read by its own tokenizer.
    stock = next(one for one in report.artifacts if one.kind == "transformers")
    assert not isinstance(stock.score, NotMeasured)
    assert stock.score is not None
    folder = tmp_path / "out/artifacts" / stock.name
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    right = 0
    for row in rows:
        logits = model(**tokenizer(row["text"], row["text_pair"], return_tensors="pt", return_token_type_ids=False)).logits
        right += model.config.id2label[int(logits.argmax())] == row["label"]
    assert right / len(rows) == pytest.approx(stock.score.value, abs=0.02)
