"""lm-eval asks a shipped checkpoint: what it reports is what the stock model says, counted by hand."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from compression.evaluation.lm_eval import harness
from compression.export.transformers import sharded
from compression.models import gguf_unpack
from compression.schema.errors import ConfigMismatch, InvalidSpec, MissingResource
from tests.support.decoder_models import tiny
from tests.support.gguf_files import tokens, write

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
GENERATE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["|"], do_sample: false, max_gen_toks: 4}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
QUESTIONS = [f"the {first}{second} is" for first in "abc" for second in "xyz"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 checkpoint of torchao's, as jobs ship it, with a tokenizer of bytes."""
    place = tmp_path_factory.mktemp("shipped")
    write(tiny("llama", vocab_size=len(tokens())), place / "tiny.gguf")
    gguf_unpack.unpack(place, place / "stock")
    sharded.quantize(place / "stock", place / "int8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / "stock" / name).rename(place / "int8" / name)
    return place / "int8"


def opened(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def task(folder: Path, form: str, name: str, rows: list[dict[str, object]]) -> None:
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(form.format(name=name, data=data))


def test_both_kinds_of_tasks_with_their_standard_errors(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model, tokenizer = opened(shipped)

    def likelihood(question: str, choice: str) -> float:
        start, whole = (tokenizer(text)["input_ids"] for text in (question, question + choice))
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits.log_softmax(dim=-1)
        return sum(float(logits[0, place - 1, whole[place]]) for place in range(len(start), len(whole)))

    def said(question: str) -> str:
        ids = tokenizer(question, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).split("|")[0]

    choices = ["k", "q", "w"]
    task(tmp_path / "own", CHOICE, "pick", [{"question": one, "choices": choices, "answer": 0} for one in QUESTIONS])
    picked = [max(choices, key=lambda choice, one=one: likelihood(one, choice)) for one in QUESTIONS]
    expected = picked.count("k") / len(QUESTIONS)
    right = [said(one) if number % 3 else "nothing of the kind" for number, one in enumerate(QUESTIONS)]
    rows = [{"question": one, "answer": answer} for one, answer in zip(QUESTIONS, right, strict=True)]
    task(tmp_path / "own", GENERATE, "tell", rows)

    found = harness.evaluate(shipped, ["pick", "tell"], include=tmp_path / "own", batch=4, threads=1)
    by_task = {figure.task: figure for figure in found.figures}
    assert {name: figure.metric for name, figure in by_task.items()} == {"pick": "acc", "tell": "exact_match"}
    assert (by_task["pick"].value, by_task["tell"].value) == (pytest.approx(expected), pytest.approx(6 / 9))
    for figure in by_task.values():
        assert figure.rows == len(QUESTIONS)
        spread = math.sqrt(figure.value * (1 - figure.value) / (len(QUESTIONS) - 1))
        assert figure.standard_error == pytest.approx(spread)
        assert figure.higher_is_better


def test_data_comes_from_a_folder_under_the_hubs_name(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(shipped.parent)
    rows = [{"question": one, "choices": ["k", "q"], "answer": 1} for one in QUESTIONS]
    task(tmp_path / "own", CHOICE, "pick", rows)
    written = (tmp_path / "own" / "pick.yaml").read_text().splitlines()
    named = ["dataset_path: owner/questions", "dataset_name: easy"]
    (tmp_path / "own" / "pick.yaml").write_text("\n".join([written[1], *named, *written[4:]]))
    place = tmp_path / "mirror" / "owner" / "questions"
    (place / "easy").mkdir(parents=True)
    (tmp_path / "own" / "pick.jsonl").rename(place / "easy" / "test.jsonl")
    files = "data_files: [{split: test, path: easy/test.jsonl}]"
    (place / "README.md").write_text(f"---\nconfigs:\n- config_name: easy\n  {files}\n---\n")
    here, settings = Path.cwd(), {"include": tmp_path / "own", "batch": 4, "threads": 1}
    found = harness.evaluate(Path("int8"), ["pick"], data=tmp_path / "mirror", **settings)
    assert [(figure.task, figure.rows) for figure in found.figures] == [("pick", len(QUESTIONS))]
    assert Path.cwd() == here


def test_what_cannot_be_asked_is_said(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task(tmp_path, CHOICE, "pick", [])
    with pytest.raises(ConfigMismatch, match="cannot be opened"):
        harness.evaluate(tmp_path, ["pick"], include=tmp_path)
    with pytest.raises(InvalidSpec, match="no folder"):
        harness.evaluate(shipped, ["pick"], include=tmp_path / "elsewhere")
    with pytest.raises(InvalidSpec, match="no folder"):
        harness.evaluate(shipped, ["pick"], include=tmp_path, data=tmp_path / "elsewhere")
    (tmp_path / "pick.jsonl").unlink()
    with pytest.raises(InvalidSpec, match="no data of pick"):
        harness.evaluate(shipped, ["pick"], include=tmp_path)
    monkeypatch.setattr(harness, "version", lambda name: (_ for _ in ()).throw(harness.PackageNotFoundError(name)))
    with pytest.raises(MissingResource, match="not installed"):
        harness.evaluate(shipped, ["pick"])


def test_the_command_prints_nothing_but_its_answer(tmp_path: Path) -> None:
    options = ["--tasks", "pick", "--include", str(tmp_path / "no")]
    command = [sys.executable, "-m", "compression", "lm-eval", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr.splitlines()[-1])["code"] == "invalid_spec"
