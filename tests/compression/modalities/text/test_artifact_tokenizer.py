"""An artifact's tokenizer, by its own file and in stock code, reads long texts as training did with the uploaded one."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from compression.modalities.registry import task_of
from compression.modalities.text.artifact_tokenizer import write_tokenizer
from compression.modalities.text.preprocessor import TextPreprocessor
from compression.models import loading
from compression.schema.recipe.base import Task


@pytest.mark.parametrize(("named", "filed"), [("left", None), (None, "left"), ("right", "left"), (None, None)])
@pytest.mark.parametrize("task", ["text-classification", "question-answering"])
def test_long_texts_lose_the_same_end_in_training_and_in_each_file(
    task: Task, named: str | None, filed: str | None, encoder: Path, tmp_path: Path
) -> None:
    shutil.copytree(encoder, tmp_path, dirs_exist_ok=True)
    own = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    if filed is not None:
        own.enable_truncation(30, direction=filed)
    own.save(str(tmp_path / "tokenizer.json"))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | ({"truncation_side": named} if named else {})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "made").mkdir()
    write_tokenizer(tmp_path, tmp_path / "made", 8, task, AutoModel.from_pretrained(tmp_path))
    shutil.copyfile(encoder / "config.json", tmp_path / "made/config.json")
    uploaded, shipped = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path, tmp_path / "made"))
    filed_now = Tokenizer.from_file(str(tmp_path / "made/tokenizer.json"))
    if task == "question-answering":  # windows hold all of a context, and count from its beginning
        assert (shipped.truncation_side, filed_now.truncation["direction"]) == ("right", "right")
        return
    text = " ".join(f"word{number}" for number in range(20))
    ids = TextPreprocessor(loading.load_tokenizer(tmp_path), 8, types=False).rows([(text,)], [0], task_of(task)).tokens[0]
    assert ids == uploaded(text, truncation=True, max_length=8)["input_ids"]
    assert ids == filed_now.encode(text).ids
    assert ids == shipped(text, truncation=True)["input_ids"]
