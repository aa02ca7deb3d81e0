"""Keyset pages: newest first, stable while rows are added and deleted, at the same cost on every page."""

import base64
import binascii
import re
from typing import TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.errors import InvalidRequest

T = TypeVar("T")


def encode_token(last: str) -> str:
    """Return the page token for the last row's key."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def decode_token(token: str) -> str:
    """Decode a page token. Raises InvalidRequest for an invalid one."""
    try:
        padded = token + "=" * (-len(token) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise InvalidRequest("page_token is invalid", param="page_token") from error
    if not re.fullmatch(r"\w+", text):
        raise InvalidRequest("page_token is invalid", param="page_token")
    return text


def newest_page(
    session: Session, query: Select[T], key: InstrumentedAttribute[str], size: int, token: str | None
) -> tuple[list[T], str | None]:
    """Return a page of rows by descending id (ids sort by time), and the next page's token."""
    if token:
        query = query.where(key < decode_token(token))
    rows = list(session.scalars(query.order_by(key.desc()).limit(size + 1)))
    more = len(rows) > size
    rows = rows[:size]
    return rows, encode_token(getattr(rows[-1], key.key)) if more else None
