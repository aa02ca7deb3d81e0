"""The plain script that language jobs are held against does what its paper says, and the comparison is of like with like."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.account.published import REDUCTION
from bench.language import __main__ as language, article, minitron, shaped, wikitext
from compression.schema.recipe.presets import merged
from compression.schema.recipe.recipe import Recipe
from tests.support import tiny_language as tiny

TEXT = " \n = First = \n \n Some words . \n \n = = Part = = \n \n More . \n \n = Second = \n \n Others . \n"


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    widths = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8, "intermediate_size": 96}
    return LlamaForCausalLM(LlamaConfig(**widths, num_hidden_layers=2, vocab_size=50, tie_word_embeddings=True)).eval()


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randint(1, 50, (12, 16), generator=torch.Generator().manual_seed(0))


def test_articles_are_whole_and_in_one_split(tmp_path: Path) -> None:
    source = tmp_path / "text"
    source.write_text(TEXT * 10, "utf-8")
    counts = wikitext.write(source, tmp_path / "out")
    assert counts == {"train": 14, "test": 2, "validation": 2, "calibration": 2}
    lines = (tmp_path / "out" / "test.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[0])["text"].startswith("= First =")
    assert "More ." in json.loads(lines[0])["text"]


def test_documents_are_put_one_behind_the_other() -> None:
    assert minitron.rows_of([[1, 2, 3], [4]], 0, 3).tolist() == [[1, 2, 3], [0, 4, 0]]


def test_a_cut_keeps_what_scores_best_and_the_whole_is_itself(llama: LlamaForCausalLM, rows: torch.Tensor) -> None:
    scores = minitron.importance(llama, rows)
    whole = minitron.cut(llama, scores, minitron.Widths(48, 3, 96))
    assert torch.equal(whole(rows).logits, llama(rows).logits)
    small = minitron.cut(llama, scores, minitron.Widths(40, 2, 64))
    assert (small.config.num_attention_heads, small.config.num_key_value_heads, small.config.head_dim) == (4, 2, 8)
    stream, units = (found.topk(count).indices.sort().values for found, count in ((scores.hidden, 40), (scores.ffn[1], 64)))
    assert torch.equal(small.model.layers[1].mlp.down_proj.weight, llama.model.layers[1].mlp.down_proj.weight[stream][:, units])
    assert small.lm_head.weight is small.model.embed_tokens.weight


def test_units_that_say_nothing_go_first(llama: LlamaForCausalLM, rows: torch.Tensor) -> None:
    silent = minitron.cut(llama, minitron.importance(llama, rows), minitron.Widths(48, 3, 96))
    with torch.no_grad():
        silent.model.layers[0].mlp.up_proj.weight[::3] = 0
    cut = minitron.cut(silent, minitron.importance(silent, rows), minitron.Widths(48, 3, 64))
    kept = silent.model.layers[0].mlp.up_proj.weight[torch.arange(96) % 3 > 0]
    assert torch.equal(cut.model.layers[0].mlp.up_proj.weight, kept)


def test_a_student_comes_nearer_to_its_teacher(llama: LlamaForCausalLM, rows: torch.Tensor) -> None:
    student = minitron.cut(llama, minitron.importance(llama, rows), minitron.Widths(48, 3, 32))
    with torch.no_grad():
        for layer in llama.model.layers:
            layer.mlp.down_proj.weight.mul_(20)  # so that the units that went are missed

    def apart() -> float:
        one, other = (model(rows).logits.log_softmax(dim=-1) for model in (student, llama))
        return functional.kl_div(one, other, reduction="batchmean", log_target=True).item()

    before = apart()
    steps = list(minitron.distil(student, llama, rows, steps=60, batch=4))
    assert [step for step, _ in steps] == list(range(60))
    assert apart() < 0.9 * before


def test_the_rate_rises_and_falls_to_a_tenth() -> None:
    rates = [minitron.rate(step, 100) for step in range(100)]
    assert max(rates) == rates[4] == minitron.PEAK
    assert rates[-1] == pytest.approx(minitron.LAST, rel=0.01)


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A text of few articles, a tiny Llama with room for the account's cut, and where its runs go."""
    source, model = tmp_path / "text", tmp_path / "model"
    source.write_text("".join(f" \n = Part {n} = \n \n" + " The cat sat on the mat .\n" * 8 for n in range(20)), "utf-8")
    tiny.model("llama", intermediate_size=256, max_position_embeddings=1024).save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    return ["--model", str(model), "--text", str(source), "--folder", str(tmp_path / "out"), "--threads", "1"]


def test_a_job_and_the_plain_script_are_told_of_the_same(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    language.main([*asked, "--epochs", "1"])
    said = capsys.readouterr().out
    rows = ("| baseline", "| quantized", "| pruned", "| dis")
    stages = [line.split(" | ") for line in said.splitlines() if line.startswith(rows)]
    assert [cells[0] for cells in stages] == ["| baseline", "| quantized", "| pruned", "| distilled"]
    assert stages[-1][3] != "–"
    assert "tokens/s" in stages[-1][4]
    whole, script, job, against, integers = said.splitlines()[-5:]
    losses = [float(found) for found in re.findall(r"(\d+\.\d{4}) ±", whole + script + job)]
    shipped = float(job.split("as shipped ")[1].split()[0])
    assert shipped == pytest.approx(float(stages[-1][6].split()[0]), abs=1e-3), "the file's loss is the one in the report"
    assert losses[0] == pytest.approx(float(stages[0][6].split()[0]), abs=1e-3), "stock code has the job's baseline"
    assert float(against.split(": ")[1].split()[0]) == pytest.approx(losses[3] - losses[2], abs=2e-4)
    assert float(integers.split()[2]) == pytest.approx(shipped - losses[3], abs=2e-4)
    assert float(integers.split("±")[1].split()[0]) < 0.01


def test_the_accounts_recipe_runs_whole_and_is_kept(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer epochs than in truth."""
    short, true = {"prune": {"recovery": {"epochs": 2}}, "distill": {"epochs": 2, "general": {"epochs": 1}}}, article.recipe_of
    short |= {"quantize": {"qat": {"full": 1, "ramp": 1, "quantized": 1}}, "artifacts": []}
    monkeypatch.setattr(article, "recipe_of", lambda seed: Recipe.model_validate(merged(true(seed), short)))
    monkeypatch.setattr(article, "RECORDS", tmp_path / "records")
    language.main([*asked, "--recipe", "article", "--articles", "2"])
    record = json.loads((tmp_path / "records" / "model-2-article-0.json").read_text("utf-8"))
    baseline, *_, distilled = record["rows"]
    assert distilled["ratios"]["parameter_reduction"] >= REDUCTION > distilled["ratios"]["parameter_reduction"] - 0.05
    recipe = record["recipe"]
    assert all((recipe["quantize"]["qat"], recipe["prune"]["recovery"], recipe["distill"]["general"])), "no part is left out"
    assert recipe["distill"]["teachers"]["seeds"] == 3
    said = capsys.readouterr().out
    language.main([*asked, "--recipe", "article", "--articles", "2"])
    assert capsys.readouterr().out == said, "what has a record is not run again"
    assert baseline["stage"] in said
    with pytest.raises(SystemExit, match="another model or text"):
        Path(asked[3]).write_text(" \n = Other = \n \n Words .\n" * 20, "utf-8")
        language.main([*asked, "--recipe", "article", "--articles", "2"])


def test_the_accounts_recipe_takes_no_options_of_the_other(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        language.main([*asked, "--recipe", "article", "--scheme", "weight-only-int4"])
    assert "takes no --shaped, --epochs or --scheme" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(shaped.SHAPES))
def test_models_of_large_ones_shapes_are_stock_models_with_all_of_their_parts(name: str, tmp_path: Path) -> None:
    shaped.write(name, ["the cat sat on the mat, and looked at the owl"] * 20, tmp_path, seed=0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("the cat sat", return_tensors="pt", return_token_type_ids=False)
    assert model(**ids).logits.shape == (1, ids["input_ids"].shape[1], len(tokenizer))
    parts = dict(model.named_parameters())
    expected = {
        "deepseek-v3": ["kv_a_proj_with_mqa", "q_a_proj", "shared_experts", "mlp.experts", "mlp.gate.weight"],
        "r1-distill-qwen": ["k_proj.bias", "lm_head.weight"],
    }
    assert all(any(part in found for found in parts) for part in expected[name])
    recipe = shaped.recipe(name, language.recipe_of(None, None, 0))
    assert recipe.prepare.epochs > 0
