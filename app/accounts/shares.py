"""Share links: each shows one report without a key, until the link or the key that created it ends.

The link holds 256 random bits; only their hash is stored. It is no session: it opens one page that loads nothing, links nowhere
and reveals its address to no other site.
"""

import hashlib
import secrets
from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select
from sqlalchemy.orm import Session

from app.accounts import keys
from app.accounts.auth import Caller
from app.core.errors import NotFound, ReportNotReady, TooManyLinks
from app.jobs import jobs
from app.store.clock import now
from app.store.keyset import newest_page
from app.store.models import ApiKey, Job, ShareLink

MOST_LINKS = 50
"""Active links of one job."""
LINK_HEADERS = {
    "X-Robots-Tag": "noindex, nofollow, noarchive",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}
"""Headers of every answer to a link: do not store it, do not index it, do not reveal its address."""


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _open() -> ColumnElement[bool]:
    """Return the SQL condition that a link is active: it has not expired, and the key that created it is active."""
    maker = exists().where(ApiKey.id == ShareLink.key_id, keys.is_active())
    return and_(ShareLink.expires_at > now(), or_(ShareLink.key_id.is_(None), maker))


def create(session: Session, caller: Caller, job_id: str, seconds: int) -> tuple[ShareLink, str]:
    """Create a link; return its row and its token, shown only this once. Raises NotFound, ReportNotReady, TooManyLinks."""
    job = jobs.get(session, caller.team, job_id)
    if job.report is None:
        raise ReportNotReady(f"{job_id} is {job.state}")
    session.execute(delete(ShareLink).where(ShareLink.expires_at <= now()))
    there = select(func.count()).select_from(ShareLink).where(ShareLink.job_id == job_id, _open())
    if (session.scalar(there) or 0) >= MOST_LINKS:
        raise TooManyLinks(f"{job_id} has {MOST_LINKS} links")
    token = secrets.token_urlsafe(32)
    row = ShareLink(job_id=job_id, key_id=caller.key, token_sha256=_hash(token), expires_at=now(seconds))
    session.add(row)
    session.flush()
    session.refresh(row)
    return row, token


def list_job_links(session: Session, team: str, job_id: str) -> Sequence[ShareLink]:
    """Return a job's active links, newest first. Raises NotFound."""
    job = jobs.get(session, team, job_id)
    return session.scalars(select(ShareLink).where(ShareLink.job_id == job.id, _open()).order_by(ShareLink.id.desc())).all()


def list_links(session: Session, team: str, size: int, token: str | None) -> tuple[list[ShareLink], str | None]:
    """Return a page of a team's active links, newest first, and the next page's token."""
    query = select(ShareLink).join(Job, Job.id == ShareLink.job_id)
    query = query.where(Job.team_id == team, Job.deleted_at.is_(None), _open())
    return newest_page(session, query, ShareLink.id, size, token)


def revoke(session: Session, team: str, job_id: str, link_id: str) -> None:
    """End a link at once. Raises NotFound."""
    job = jobs.get(session, team, job_id)
    mine = delete(ShareLink).where(ShareLink.id == link_id, ShareLink.job_id == job.id)
    if session.scalar(mine.returning(ShareLink.id)) is None:
        raise NotFound(f"{job_id} has no link {link_id}")


def find_shared_job(session: Session, token: str) -> Job:
    """Return the job whose report a link shows. Raises NotFound, alike for unknown, expired and revoked links."""
    found = session.scalar(
        select(Job)
        .join(ShareLink, ShareLink.job_id == Job.id)
        .where(ShareLink.token_sha256 == _hash(token), _open(), Job.deleted_at.is_(None))
    )
    if found is None or found.report is None:
        remedy = "It may have expired or been revoked: ask its sender for a new one."
        raise NotFound("this link is not valid", remedy=remedy, headers=LINK_HEADERS)
    return found
