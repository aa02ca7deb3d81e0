"""Fixtures of the engine's tests: a tiny encoder, its data, and measuring that takes no time."""

from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.engine import pipeline, shipping
from compression.system import process
from tests.support import tracing
from tests.support.measuring import briefly
from tests.support.tiny_bert import sentences, tiny_config, write_encoder, write_rows
from tests.support.tiny_shipment import tiny_classifier, tiny_shipment  # noqa: F401 (fixtures of three folders)

# Tiny matrices gain nothing from more threads, and lose much where other tests run beside.
torch.set_num_threads(1)
pipeline.usable_cores = lambda: 1  # what a job takes that names no number of threads
tracing.keep()


@pytest.fixture(autouse=True)
def measured_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure artifacts in this process, and not for long. A test that is marked `fresh` has a process begin for it.

    Without one nothing is gained by memory that is given back, and looking for all of it takes a tenth of such a job.
    """
    if request.node.get_closest_marker("fresh") is None:
        monkeypatch.setattr(shipping, "measure_artifact", briefly)
        monkeypatch.setattr(process, "release_memory", lambda: None)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bare, random encoder."""
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of such an encoder of one layer, for jobs that trace many shapes: each layer adds a second to each trace."""
    return write_encoder(tmp_path_factory.mktemp("shallow"), num_hidden_layers=1)


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train.jsonl and test.jsonl; validation has to be carved."""
    folder = tmp_path_factory.mktemp("reviews")
    write_rows(folder / "train.jsonl", sentences(320, seed=1))
    write_rows(folder / "test.jsonl", sentences(80, seed=2))
    return folder


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_config(num_labels=2)).eval()
