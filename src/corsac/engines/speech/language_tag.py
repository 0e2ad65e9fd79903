"""Language names of speech engines as BCP 47 tags."""

from __future__ import annotations

PRIMARY = {"cmn": "zh", "piqd": "tlh-Piqd"}


def language_tag(code: str) -> str:
    """A language code in the form that BCP 47 recommends.

    Three letters after a region, as in espeak's `en-us-nyc`, have no place in a tag; they become a private
    part. Mandarin is `zh`, the tag that people write, rather than `cmn`. What espeak calls `piqd` is Klingon in its
    own script.

    Args:
        code: Parts joined by hyphens or underscores, in any case: `en-us`, `pt_BR`, `cmn-latn-pinyin`.

    Returns:
        The tag: `en-US`, `pt-BR`, `zh-Latn-pinyin`, `en-US-x-nyc`.

    Source:
        RFC 5646, sections 2.1 and 2.1.1; the alias of `cmn` is CLDR's.
    """
    first, *rest = code.replace("_", "-").lower().split("-")
    tag, private = [PRIMARY.get(first, first)], False
    for part in rest:
        if private:
            tag.append(part)
        elif part == "x":
            private = True
            tag.append(part)
        elif len(part) == 2:
            tag.append(part.upper())
        elif len(part) == 4 and part.isalpha():
            tag.append(part.title())
        elif part.isdigit() or len(part) >= 4:
            tag.append(part)
        else:
            private = True
            tag += ["x", part]
    return "-".join(tag)
