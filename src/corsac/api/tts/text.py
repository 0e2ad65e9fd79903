"""What a text is before it is spoken: plain or markup, speakable or not, its sentences, its script."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

DECLARATION = re.compile(r"<\?xml\b|<!doctype\b|<!entity\b|<!\[cdata\[|</?speak(?![\w.-])", re.IGNORECASE)
TAG = re.compile(r"<(?P<closes>/?)(?P<name>[a-z][\w:.-]*)(?P<rest>(?:\s[^<>]*|/)?)>", re.IGNORECASE)
ATTRIBUTE = re.compile(r"\s[\w:.-]+\s*=\s*\S")
SSML_ELEMENT = re.compile(  # W3C SSML 1.1, section 3; `speak` is in DECLARATION
    "audio|break|desc|emphasis|lang|lexicon|lookup|mark|meta|metadata|p|phoneme|prosody|s|say-as|sub|token|voice|w"
)
SCRIPT_LANGUAGES = {  # by the first word of the Unicode names of a script's letters
    "ARABIC": "ar",
    "ARMENIAN": "hy",
    "BENGALI": "bn",
    "CJK": "cmn",
    "CYRILLIC": "ru",
    "DEVANAGARI": "hi",
    "ETHIOPIC": "am",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HANGUL": "ko",
    "HEBREW": "he",
    "HIRAGANA": "ja",
    "KANNADA": "kn",
    "KATAKANA": "ja",
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "SINHALA": "si",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
}
UNSPACED_SCRIPTS = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KHMER", "LAO", "MYANMAR", "THAI"})
SYLLABLE_UNITS = {"CJK": 3, "HANGUL": 3, "ETHIOPIC": 2, "HIRAGANA": 2, "KATAKANA": 2}
N_LETTERS_FOR_SCRIPT = 1000

SENTENCE_END = re.compile(
    r"(?P<mark>[.!?…]+|[؟۔।॥]+)[\"'”’»)\]]*\s+|[。！？｡]+[」』”’）]*\s*|\n\n",
)
LAST_WORD = re.compile(r"(\S+)\.$")
ABBREVIATION = re.compile(
    r"mr|mrs|ms|dr|prof|rev|hon|st|sr|jr|gen|col|sgt|capt|lt|nos?|vs|etc|inc|ltd|co|corp|dept|est|approx|fig|vol|pp"
    r"|e\.g|i\.e|a\.m|p\.m|u\.s|u\.k|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
    r"|hr|fr|nr|bzw|usw|z\.b|d\.h|u\.a|ca|m|mme|mlle|sra|núm|pág|sig|dott"
)


def is_speakable(text: str) -> bool:
    """Whether a voice could say anything of it: it has a letter or a digit of any script.

    Example:
        >>> is_speakable("Ωμέγα"), is_speakable("🙂 …!")
        (True, False)
    """
    return any(character.isalnum() for character in text)


def looks_like_ssml(text: str) -> bool:
    """Whether the text is SSML or other XML rather than prose with angle brackets.

    Structure decides, not a name alone: a declaration (`<?xml`, `<!DOCTYPE`, `<!ENTITY`, CDATA) or SSML's root,
    an element that is closed (`<b>…</b>` or `<x/>`), or an element of SSML with an attribute. A lone `<b>`,
    `a < b` or `<someone@example.org>` is prose. Time is linear in the text.

    Example:
        >>> looks_like_ssml('Wait <break time="1s"/> here')
        True
        >>> looks_like_ssml("use the <b> key if a < b and c > d")
        False
    """
    if DECLARATION.search(text):
        return True
    opened: set[str] = set()
    for tag in TAG.finditer(text):
        name, rest = tag["name"].lower(), tag["rest"]
        if tag["closes"]:
            if name in opened:
                return True
        elif rest.endswith("/") or (SSML_ELEMENT.fullmatch(name) and ATTRIBUTE.search(rest)):
            return True
        else:
            opened.add(name)
    return False


def normalize_text(text: str) -> str:
    """The same words in one spelling.

    Composes characters (NFC), removes control characters and lone surrogates, folds whitespace to one space; a
    blank line stays as one, because engines pause there. Nothing else changes.
    """
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(each for each in composed if each.isspace() or unicodedata.category(each) not in ("Cc", "Cs"))
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n[^\S\n]*\n", kept.replace("\r\n", "\n")))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without the whitespace between them.

    Abbreviations, initials, decimals, ordinals of one or two digits and ellipses in mid-sentence do not end one.
    In doubt two sentences stay together: a pause that is missing hurts less than one in the wrong place.

    Args:
        text: Plain text as `normalize_text` leaves it.

    Example:
        >>> split_sentences('Dr. No paid $3.50. "Really?" he said. 好。')
        ['Dr. No paid $3.50.', '"Really?" he said.', '好。']
    """
    sentences, start = [], 0
    for end in SENTENCE_END.finditer(text):
        if end["mark"] is None or _ends_sentence(
            text[start : end.start()] + end["mark"], text[end.end() : end.end() + 1]
        ):
            sentences.append(text[start : end.end()].strip())
            start = end.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(before: str, following: str) -> bool:
    if following.islower():
        return False
    last = LAST_WORD.search(before[-40:])
    if last is None:
        return True
    word = last[1].lstrip("\"'“‘«([").lower()
    is_initial = len(word) == 1 and word.isalpha()
    is_ordinal = len(word) <= 2 and word.isdigit()
    return not (is_initial or is_ordinal or ABBREVIATION.fullmatch(word))


def detect_language(text: str) -> str | None:
    """The language that the text's script stands for, or None where the script does not tell.

    Coarse: it is for choosing an engine that can read the letters at all. Every Cyrillic text is `ru`, every
    Arabic one `ar`, every Devanagari one `hi`; Latin script tells nothing. Only the first 1000 letters count.

    Returns:
        A primary language tag (BCP 47), or None: no letters, no majority, or a script of many languages.

    Example:
        >>> detect_language("Привет"), detect_language("今日は雨"), detect_language("Hello")
        ('ru', 'ja', None)
    """
    scripts: Counter[str] = Counter()
    for script, _ in zip(_scripts(text), range(N_LETTERS_FOR_SCRIPT), strict=False):
        scripts[script] += 1
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    if kana and kana + scripts["CJK"] > scripts.total() / 2:
        return "ja"
    script, count = max(scripts.items(), key=lambda each: each[1], default=("", 0))
    return SCRIPT_LANGUAGES.get(script) if count > scripts.total() / 2 else None


def count_words(text: str) -> int | None:
    """Words between spaces, or None where most of the text is in a script that writes none."""
    scripts = list(_scripts(text))
    if sum(script in UNSPACED_SCRIPTS for script in scripts) > len(scripts) / 2:
        return None
    return sum(is_speakable(word) for word in text.split())


def count_speech_units(text: str) -> int:
    """About how many sounds a voice makes of the text: one for a letter or digit, 2 or 3 for a syllable sign.

    Makes rates of different scripts comparable: 8 to 20 a second is how people and engines read.
    """
    letters = sum(SYLLABLE_UNITS.get(script, 1) for script in _scripts(text))
    return letters + sum(character.isalnum() and not character.isalpha() for character in text)


def _scripts(text: str) -> Iterator[str]:
    for character in text:
        if character.isalpha():
            yield unicodedata.name(character, "UNNAMED").partition(" ")[0]
