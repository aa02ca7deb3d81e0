"""A package beside Lathe ships artifacts of a format of its own: it writes, opens and describes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

SPEC = """
from dataclasses import replace
from compression.schema.specs import FormatSpec

TAPE = FormatSpec(
    "tape", engine="toy_engine:EXPORTER", runtime="toy_engine:open_tape", runs_in="Toy", weights=("*.npz",), tags=("tape",)
)
GONE = replace(TAPE, name="gone", engine="toy_engine:NOTHING")
"""
ENGINE = """
from pathlib import Path
import numpy as np, torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from compression.export.exporter import Exporter


class TapeExporter(Exporter):
    templates = Path(__file__).parent / "templates"

    def write(self, model, folder, precision):
        np.savez(folder / "model.npz", **{name: value.numpy() for name, value in model.state_dict().items()})

    def opens_with(self, precision, task, *, split):
        return "toy_engine.open_tape(folder, threads=1)"

    def hinders(self, model):
        return "it has no classes" if model.config.num_labels < 2 else None


class Tape:
    name = "toy 1"

    def __init__(self, model):
        self.model = model.eval()

    @torch.no_grad()
    def logits(self, batch):
        return self.model(**{name: torch.from_numpy(value) for name, value in batch.arrays.items()}).logits.numpy()


def open_tape(folder, *, threads):
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in np.load(folder / "model.npz").items()})
    return Tape(model)


EXPORTER = TapeExporter()
"""
CARD = """{% extends "card.md.j2" %}
{% block numerics %}Its weights lie on a tape.{% endblock %}
"""
ASKED = """
import json, sys
from pathlib import Path
from compression.engine.shipping import ArtifactRequest, RunSettings, ship
from compression.export.exporter import further_exporters
from compression.schema.recipe.recipe import Evaluate
from compression.system.progress import run_silently
from transformers import BertForSequenceClassification
from tests.support.tiny_bert import tiny_config, write_tokenizer

output = Path(sys.argv[1])
write_tokenizer(output / "tokenizer")
rows = [{"text": "a good word", "label": 1}, {"text": "a bad word", "label": 0}]
(output / "test.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
model = BertForSequenceClassification(tiny_config())
run = RunSettings(
    task="text-classification", labels=("bad", "good"), evaluate=Evaluate(length=8), output=output,
    rows={"test": output / "test.jsonl"}, sample=rows,
)
asked = dict(kind="tape", stage="baseline", precision="float32", preprocessor=output / "tokenizer", max_length=8)
shipped = run_silently(ship(model, ArtifactRequest(**asked), run))
(applying, failed), model.config.num_labels = further_exporters(model, None), 1
print(json.dumps({"artifact": shipped.artifact.model_dump(mode="json"), "bytes": shipped.size.bytes,
    "latency": shipped.latency.not_measured, "applying": [*applying], "failed": failed,
    "without": [*further_exporters(model, None)[0]], "none": further_exporters(model, ()),
    "asked": further_exporters(model, ("tape", "timm"))[1]}))
"""


def test_an_installed_format_is_written_verified_measured_and_described_by_its_own_package(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(SPEC)  # the API reads it: free of torch, and of the engine
    (tmp_path / "toy_engine.py").write_text(ENGINE)
    (tmp_path / "templates" / "tape").mkdir(parents=True)
    (tmp_path / "templates" / "tape.md.j2").write_text(CARD)
    (tmp_path / "templates" / "tape" / "label.py.j2").write_text("import toy\n")
    (tmp_path / "toy-1.dist-info").mkdir()
    (tmp_path / "toy-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (tmp_path / "toy-1.dist-info" / "entry_points.txt").write_text("[lathe.exporters]\ntape = toy:TAPE\ngone = toy:GONE\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    command = [sys.executable, "-c", ASKED, str(tmp_path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    made = tmp_path / "artifacts" / "baseline-tape-float32"
    assert (found["artifact"]["name"], found["artifact"]["kind"]) == (made.name, "tape")
    assert found["artifact"]["score"]["rows"] == 2, found["artifact"]["score"]
    assert found["artifact"]["opens_with"] == "toy_engine.open_tape(folder, threads=1)"
    assert found["bytes"] == (made / "model.npz").stat().st_size
    assert found["latency"] == "Models are timed in ONNX Runtime alone, and this is a checkpoint of Toy."
    card = (made / "README.md").read_text()
    assert "Its weights lie on a tape." in card
    assert "```python\nimport toy\n```" in card
    assert "model.npz" in {file["path"] for file in found["artifact"]["files"]}
    # One that applies, one that is broken, and a model that the first cannot have.
    assert (found["applying"], found["without"]) == (["transformers", "tape"], ["transformers"])
    assert found["failed"] == ["The exporter of gone is left out: module 'toy_engine' has no attribute 'NOTHING'."]
    assert found["none"] == [{}, []]
    assert found["asked"] == [  # nothing is said of those that nobody asks for
        "There is no timm artifact: It is no model of timm.",
        "There is no tape artifact: it has no classes.",
    ]
