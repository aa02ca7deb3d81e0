"""Docs that must not drift from the code."""

import re

from app.core.errors import ALL_PROBLEMS
from app.core.failures import FAILURES
from app.core.settings import Settings
from compression.schema.artifact_formats import BUILT_IN
from compression.schema.errors import ALL_ERRORS
from compression.serving import problems
from scripts import schema
from tests.conftest import ROOT


def test_every_code_has_its_paragraph_and_no_paragraph_is_left_over() -> None:
    codes = [kind.code for kind in ALL_PROBLEMS] + [kind.code for kind in ALL_ERRORS] + list(FAILURES)
    served = {kind.code for kind in vars(problems).values() if isinstance(kind, problems.Kind)}
    codes += sorted(served - {kind.code for kind in ALL_PROBLEMS})
    documented = re.findall(r"^### (\w+)\n(?=.{40})", (ROOT / "docs/errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(codes) == len(set(codes))
    assert sorted(documented) == sorted(codes)


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if f"LATHE_{name.upper()}`" not in text] == []


def test_every_format_has_its_row() -> None:
    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z0-9`, -]+`) \| (always|yes|no) \|", text, re.MULTILINE)
    usual = {name: when for names, when in rows for name in re.findall(r"[a-z0-9-]+", names)}
    expected = {spec.name: "always" if spec.primary else "yes" if spec.by_default else "no" for spec in BUILT_IN}
    assert usual == expected


def test_the_schema_of_before_json_is_that_of_the_code() -> None:
    assert schema.PLACE.read_text(encoding="utf-8") == schema.text(), "make schema writes it anew"
