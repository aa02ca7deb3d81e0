"""Words that no command can be meant by are wrong usage, before anything is sent."""

from typing import Any

import pytest

from client import config
from tests.client.conftest import Command, Live, document

UNUSABLE = [("--set", "prune"), ("--label", "=x"), ("--recipe", "none.json"), ("--timeout", "60")]  # of --wait
NO_NUMBERS = [("--budget-minutes", "nan"), ("--set", "prune.ratio=NaN"), ("--target", "retention=Infinity")]


@pytest.mark.parametrize("option", NO_NUMBERS)
def test_what_is_no_number_is_wrong_usage(live: Live, command: Command, option: tuple[str, str]) -> None:
    model, dataset = live.ready()
    ran = command("submit", "--model", model, "--data", dataset, *option, "--json")
    assert (ran.code, document(ran)["error"]["code"]) == (2, "bad_number")


def test_what_is_no_address_is_wrong_usage(home: Any, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_URL", "http://host:port")
    monkeypatch.setenv("LATHE_KEY", "lathe_a_b")
    ran = command("ls", "--json")
    assert (ran.code, document(ran)["error"]["code"]) == (2, "bad_config")
    assert "http://host:port" in document(ran)["error"]["cause"]


@pytest.mark.parametrize("key", ["lathe_a_b\nlathe_c_d", "lathe_…", "lathe a"])
def test_a_key_that_no_header_can_have_is_wrong_usage_and_not_repeated(
    home: Any, command: Command, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("LATHE_KEY", key)
    ran = command("ls", "--json")
    assert (ran.code, document(ran)["error"]["code"]) == (2, "bad_config")
    assert key not in ran.out + ran.err


def test_space_around_a_key_is_no_part_of_it(live: Live, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_KEY", f" {config.load().require_key()}\r\n")
    assert command("ls", "--json").code == 0


@pytest.mark.parametrize("job", ["job_1\njob_2", "job 1", "jöb"])
def test_an_id_with_signs_that_no_id_has_is_wrong_usage(live: Live, command: Command, job: str) -> None:
    for words in (("show",), ("wait",), ("cancel",), ("rm",), ("logs",)):
        ran = command(*words, job, "--json")
        assert (ran.code, document(ran)["error"]["code"]) == (2, "bad_id")


def test_a_key_of_a_request_may_be_any_text(live: Live, command: Command) -> None:
    model, dataset = live.ready()
    ids = [
        document(command("submit", "--model", model, "--data", dataset, "--idempotency-key", "täglich 50%", "--json"))["id"]
        for _ in range(2)
    ]
    assert ids[0] == ids[1]
    assert command("cancel", ids[0]).code == 0  # or the next test would claim it


@pytest.mark.parametrize("option", UNUSABLE)
def test_malformed_options_are_wrong_usage(live: Live, command: Command, option: tuple[str, str]) -> None:
    model, dataset = live.ready()
    ran = command("submit", "--model", model, "--data", dataset, *option)
    assert (ran.code, ran.out) == (2, "")


def test_what_is_neither_id_nor_path_is_named(live: Live, command: Command) -> None:
    ran = command("submit", "--model", "./nothing-here", "--data", "dat_1")
    assert ran.code == 2
    assert "./nothing-here" in ran.err


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("given", [("--task", "text-regression"), ("--text-column", "body"), ("--column", "text_pair=via")])
def test_what_describes_data_is_refused_for_data_that_are_uploaded(command: Command, given: tuple[str, str]) -> None:
    ran = command("submit", "--model", "mdl_1", "--data", "dat_1", *given)
    assert ran.code == 2
    assert given[0] in ran.err
    assert "the datasets are uploaded" in ran.err
