"""Byte ranges, as downloads that resume send them."""

import pytest

from app.api.ranges import parse_range, repr_digest
from app.core.errors import RangeNotSatisfiable

TAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "window"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        (None, None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=0-" + "9" * 5000, None),
    ],
)
def test_a_range_is_read_or_means_the_whole_file(header: str | None, window: tuple[int, int] | None) -> None:
    assert parse_range(header, None, TAG, 100) == window


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=9-2", "bytes=-0"])
def test_a_range_outside_says_how_long_the_file_is(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as problem:
        parse_range(header, None, TAG, 100)
    assert problem.value.all_headers == {"Content-Range": "bytes */100"}


def test_if_range_resumes_only_the_same_file() -> None:
    assert parse_range("bytes=5-", TAG, TAG, 100) == (5, 100)
    assert parse_range("bytes=5-", '"other"', TAG, 100) is None


def test_digest_is_written_as_the_rfc_says() -> None:
    assert repr_digest("00" * 32) == "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"
