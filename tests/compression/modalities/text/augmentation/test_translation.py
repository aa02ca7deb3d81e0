"""There and back: a small Marian model with a SentencePiece of its own, and an Apertium pair where one is installed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from compression.modalities.text.augmentation.apertium import Apertium
from compression.modalities.text.augmentation.augmenter import back_translate
from compression.modalities.text.augmentation.back_translation import Translator
from compression.modalities.text.augmentation.resources import Resources
from compression.schema.errors import ConfigMismatch, MissingFile, MissingResource, UnsafeCheckpoint
from compression.schema.recipe.augment import BackTranslation
from tests.compression.modalities.text.augmentation.conftest import TEXTS
from tests.support.second_device import second_device


def resources(helpers: Path | None) -> Resources:
    return Resources(wordnet=None, helpers=helpers, base=Path("nowhere"))


PAIR = BackTranslation(models=("there", "back"))


def test_a_marian_pair_answers_the_same_each_time_and_keeps_the_order(helpers: Path) -> None:
    first, second = (resources(helpers).open_translators(PAIR) for _ in range(2))
    there = first[0](TEXTS)
    assert there == second[0](TEXTS)
    assert [first[0]([text])[0] for text in TEXTS[:4]] == there[:4]  # a batch's padding says nothing
    assert len(set(there)) > 10
    assert all(text and "<" not in text and "▁" not in text for text in there)
    rows = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])]
    back = first[1](there[:4])
    assert list(back_translate(rows, first)) == [tuple(back[:2]), tuple(back[2:])]
    assert back[0] != there[0]


def test_a_helper_model_is_opened_from_safetensors_alone(helpers: Path, tmp_path: Path) -> None:
    def spoilt(name: str) -> Path:
        shutil.copytree(helpers, tmp_path / name)
        return tmp_path / name / "back"

    def refused(kind: type[Exception], match: str, folder: Path) -> None:
        with pytest.raises(kind, match=match):
            resources(folder.parent).open_translators(PAIR)

    pickled = spoilt("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(UnsafeCheckpoint, "no \\*.safetensors", pickled)
    coded = spoilt("coded")
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForSeq2SeqLM": "evil.Model"}}))
    refused(UnsafeCheckpoint, "auto_map", coded)
    other = spoilt("other")
    (other / "config.json").write_text(json.dumps({**config, "d_model": 32}))
    refused(ConfigMismatch, "back cannot be opened", other)
    empty = spoilt("empty")
    (empty / "config.json").unlink()
    refused(MissingFile, "no config.json", empty)
    shutil.rmtree(spoilt("absent"))
    refused(MissingResource, "there is no helper model 'back'; there are: there", tmp_path / "absent" / "back")
    with pytest.raises(MissingResource, match="no helper models") as caught:
        resources(None).open_translators(PAIR)
    assert "LATHE_HELPER_MODELS" in caught.value.remedy_text


def has_pair(direction: str) -> bool:
    if not shutil.which("apertium"):
        return False
    return direction in subprocess.run(["apertium", "-l"], capture_output=True, text=True, check=False).stdout.split()


needs_pair = pytest.mark.skipif(
    not (has_pair("eng-spa") and has_pair("spa-eng")),
    reason="apertium-eng-spa is not installed (apt-get install apertium-eng-spa)",
)


@needs_pair
def test_an_installed_pair_translates_each_text_by_itself() -> None:
    there, back = resources(None).open_translators(BackTranslation(apertium="eng-spa"))
    texts = ["The house is very big.", "", "good", "I see\na red\tcar <b>[here]</b> ^x/y$ @ \\ {z}\0", "film", "the dog sleeps"]
    spanish = there(texts)
    assert (spanish[0], spanish[1]) == ("La casa es muy grande.", "")
    assert "coche" in spanish[3] or "carro" in spanish[3]
    assert spanish[3].endswith("^x/y$ @ \\ {z}")
    assert [" ".join(line.split()) for line in spanish] == spanish
    assert [there([text])[0] for text in texts] == spanish  # nobody's words wander to a neighbour, nor depend on one
    assert there(texts[::-1]) == spanish[::-1]
    assert "house" in back(spanish)[0]


@needs_pair
def test_a_pair_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(MissingResource, match=r"no eng-tlh; it has .*eng-spa") as caught:
        Apertium("eng-tlh")
    assert "apertium" in caught.value.remedy_text


def test_without_apertium_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingResource, match="apertium is not installed") as caught:
        resources(None).open_translators(BackTranslation(apertium="eng-spa"))
    assert "apertium-eng-spa" in caught.value.remedy_text


def test_translators_are_asked_on_the_device(helpers: Path) -> None:
    with second_device() as device:
        there, _ = resources(helpers).open_translators(PAIR, device)
        assert isinstance(there, Translator)
        assert there.model.device == device
        found = there(TEXTS[:6])
    assert found == resources(helpers).open_translators(PAIR)[0](TEXTS[:6])
