"""Why an archive is refused."""

from __future__ import annotations

from corsac.core.exceptions import Invalid, TooLarge


class ArchiveRatio(TooLarge):
    """The archive grows too much when it is unpacked.

    The detail gives the limits: how many bytes one packed byte may become, and how many there may be in all.
    """

    reason = "ARCHIVE_RATIO"


class ArchiveNested(TooLarge):
    """The archive holds another archive.

    Send the files themselves, in one archive.
    """

    reason = "ARCHIVE_NESTED"


class ArchiveTooManyEntries(TooLarge):
    """The archive has too many entries.

    The detail gives the limit.
    """

    reason = "ARCHIVE_TOO_MANY_ENTRIES"


class ArchiveInvalid(Invalid):
    """The archive is damaged or not a plain zip file.

    Its directory and its entries must agree, nothing may stand before, between or behind them, and entries
    are stored or deflated. Pack it again with any common tool.
    """

    reason = "ARCHIVE_INVALID"


class ArchiveOverlap(Invalid):
    """Entries of the archive share bytes.

    No packing tool makes such a file.
    """

    reason = "ARCHIVE_OVERLAP"


class ArchiveDuplicateNames(Invalid):
    """Two entries of the archive have the same name.

    Names that differ only in case or in the composition of accents count as the same.
    """

    reason = "ARCHIVE_DUPLICATE_NAMES"


class ArchiveUnsafeEntry(Invalid):
    """An entry of the archive is not a plain file or folder below the archive's root.

    Absolute names, `..`, backslashes, drive letters, control characters, links and devices are refused.
    """

    reason = "ARCHIVE_UNSAFE_ENTRY"


class ArchiveEncrypted(Invalid):
    """The archive is encrypted.

    Send it without a password.
    """

    reason = "ARCHIVE_ENCRYPTED"
