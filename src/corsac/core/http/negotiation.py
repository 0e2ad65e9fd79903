"""Which of an operation's media types an `Accept` header asks for (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from corsac.core.exceptions import NotAcceptable


def negotiate(accept: str, offered: Sequence[str]) -> str:
    """The best of the offered media types.

    Args:
        accept: Value of the Accept header; empty: anything.
        offered: Media types, the preferred one first; `audio/*` stands for the types of a family.

    Returns:
        One of `offered`.

    Raises:
        NotAcceptable: None of them is accepted; the detail lists them.
    """
    if not accept or accept == "*/*":
        return offered[0]
    ranges = [_range(each) for each in accept.split(",")[:50]]
    qualities = [_quality(ranges, media_type) for media_type in offered]
    best = max(qualities)
    if best <= 0:
        raise NotAcceptable(f"This operation answers {', '.join(offered)}.")
    return offered[qualities.index(best)]


def _range(text: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    try:
        return media_range, min(1.0, max(0.0, float(quality)))
    except ValueError:
        return media_range, 0.0


def _quality(ranges: Sequence[tuple[str, float]], media_type: str) -> float:
    """Quality of a media type: that of the most specific range that covers it; of a family, that of its best member."""
    family = media_type.partition("/")[0]
    found = [(_specificity(each), quality) for each, quality in ranges if _covers(each, media_type, family)]
    if media_type == f"{family}/*" and (members := [quality for specificity, quality in found if specificity]):
        return max(members)
    return max(found)[1] if found else 0.0


def _covers(media_range: str, media_type: str, family: str) -> bool:
    if media_range in ("*/*", f"{family}/*", media_type):
        return True
    return media_type == f"{family}/*" and media_range.startswith(f"{family}/")


def _specificity(media_range: str) -> int:
    return 0 if media_range == "*/*" else 1 if media_range.endswith("/*") else 2
