"""A language model's whole path with real processes: a GGUF file and plain text in, perplexities and checkpoints out."""

from pathlib import Path

import httpx
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.conftest import Service
from tests.support import gguf_files as ggufs
from tests.support.examples import real_examples, send
from tests.support.mirror import mirror
from tests.workers.test_whole import ONCE, download, finished

TEXTS = {"train.txt": 24, "validation.txt": 4, "test.txt": 4}


def gguf(folder: Path) -> Path:
    """A random Llama of two layers in the file that llama.cpp would have, its matrices in blocks of 8 bits."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "vocab_size": len(ggufs.tokens())}
    config = LlamaConfig(**sizes, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0)
    return ggufs.write(LlamaForCausalLM(config).eval(), folder / "tiny.Q8_0.gguf")


@ONCE
def test_a_gguf_is_cut_and_taught_and_then_goes_on_with_a_text(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    service.settings["LATHE_LM_EVAL_DATA"] = str(mirror(tmp_path / "data"))
    service.start_workers("jobs")
    model = send(http, "models", {"name": "tiny"}, {"tiny.Q8_0.gguf": gguf(tmp_path).read_bytes()})
    place = real_examples("texts") / "texts"
    files = {name: "\n\n".join((place / name).read_text().split("\n\n")[:most]).encode() for name, most in TEXTS.items()}
    splits = {name.split(".")[0]: [name] for name in files}
    data = send(http, "datasets", {"name": "editorials", "format": "text", "task": "causal-lm", "splits": splits}, files)
    assert (model["state"], data["state"]) == ("ready", "ready"), (model["reasons"], data["reasons"])
    recipe = {"preset": "language", "prepare": {"epochs": 3, "rate": 3e-3}, "prune": {"multiple": 32, "calibration_rows": 32}}
    recipe |= {"quantize": None, "distill": {"epochs": 1, "rate": 3e-3}, "train": {"max_length": 64, "batch": 16}}
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": recipe}
    asked = {"tasks": ["arc_easy"], "limit": 3}
    body |= {"evaluate": {"length": 16, "tokens": 2048, "lm_eval": asked}, "targets": {"retention": 0.5}}
    planned = http.post("/v1/jobs?validate_only=true", json=body).json()
    sent = http.post("/v1/jobs", json=body)
    assert sent.status_code == 202, sent.text
    done = finished(http, sent.json()["id"])
    assert done["state"] == "succeeded", (done["error"], service.log("jobs"))

    rows = {row["stage"]: row for row in done["rows"]}
    assert list(rows) == ["baseline", "pruned", "distilled"]  # one of test_formats.py is quantized
    last = rows["distilled"]
    assert last["parameters"]["total"] == planned["parameters"]["total"] < rows["baseline"]["parameters"]["total"]
    for row in rows.values():
        assert row["score"]["metric"] == "perplexity"
        assert 1 < row["score"]["value"] < len(ggufs.tokens())  # a byte is guessed better than by chance
        assert row["latency"]["generation"]["decode_per_second"] > 0
        told = [("arc_easy", metric, 3) for metric in ("acc", "acc_norm")]
        assert [(one["task"], one["metric"], one["rows"]) for one in row["lm_eval"]] == told
    assert last["shape"]["ffn"] == 64

    artifacts = http.get(f"/v1/jobs/{done['id']}/artifacts").json()["items"]
    half = next(one for one in artifacts if (one["stage"], one["precision"]) == ("distilled", "bfloat16"))
    folder = download(http, half, tmp_path / "got")
    opened = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert (opened.config.intermediate_size, opened.dtype) == (64, torch.bfloat16)
    asked = AutoTokenizer.from_pretrained(folder)("The budget", return_tensors="pt", return_token_type_ids=False)
    assert opened.generate(**asked, max_new_tokens=8, do_sample=False).shape[1] == asked["input_ids"].shape[1] + 8
