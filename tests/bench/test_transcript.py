"""What a bench printed is kept with the command that makes it again."""

import json
import sys
from pathlib import Path

import pytest

from bench import __main__ as bench, memory, transcript

PRINTED = "| rows |"


def print_a_table(arguments: list[str]) -> None:
    sys.stdout.write(f"{PRINTED} {arguments}\n")
    sys.stdout.flush()


def test_a_transcript_holds_what_was_printed_and_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records" / "it.json"
    monkeypatch.setattr(memory, "main", print_a_table)
    monkeypatch.setattr(sys, "argv", ["bench", "memory", "--shape", "tiny", "--transcript", str(path), "--room", "1"])
    bench.main()
    printed = f"{PRINTED} ['--shape', 'tiny', '--room', '1']"
    assert capsys.readouterr().out == printed + "\n"
    record = json.loads(path.read_text("utf-8"))
    assert record["printed"] == [printed]
    assert record["command"] == ["python", "-m", "bench", "memory", "--shape", "tiny", "--room", "1"]
    assert {"torch", "processor"} <= set(record["environment"])


@pytest.mark.parametrize("arguments", [["--recipe", "standard"], ["encoder", "--recipe", "standard"]])
def test_the_encoders_bench_is_the_one_that_needs_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    path = tmp_path / "it.json"
    monkeypatch.setattr(bench, "encoder", print_a_table)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--transcript", str(path)])
    bench.main()
    record = json.loads(path.read_text("utf-8"))
    assert record["command"] == ["python", "-m", "bench", "encoder", "--recipe", "standard"]
    assert record["printed"] == [f"{PRINTED} ['--recipe', 'standard']"]


def test_a_bench_that_fails_leaves_no_record(tmp_path: Path) -> None:
    def fail(arguments: list[str]) -> None:
        print_a_table(arguments)
        raise SystemExit("no such data")

    with pytest.raises(SystemExit, match="no such data"):
        transcript.run("memory", fail, ["--transcript", str(tmp_path / "it.json")])
    with pytest.raises(SystemExit, match="2"):
        transcript.run("memory", print_a_table, ["--transcript"])
    assert not list(tmp_path.iterdir())
