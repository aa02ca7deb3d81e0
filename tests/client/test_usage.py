"""Words that no command can be meant by are wrong usage, before anything is sent."""

from typing import Any

import pytest

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
