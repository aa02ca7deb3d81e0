"""Identifiers sort as they were made."""

import re
from concurrent.futures import ThreadPoolExecutor

from app.core.ids import new_id


def test_identifiers_of_one_millisecond_sort_as_they_were_made() -> None:
    made = [new_id("art") for _ in range(2000)]
    assert made == sorted(set(made))
    assert all(re.fullmatch(r"art_[0-9a-hjkmnp-tv-z]{26}", one) for one in made)


def test_threads_never_make_the_same_identifier() -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: new_id("job"), range(2000)))
    assert len(set(made)) == 2000
