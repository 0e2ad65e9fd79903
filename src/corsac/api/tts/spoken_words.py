"""An English text as the words that are said, so that two spellings of the same speech are the same words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = (
    "zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
NUMBER_WORDS = frozenset([*SMALL, *TENS])
IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
UNITS = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
SYMBOLS = {"%": " percent ", "&": " and ", "@": " at ", "+": " plus ", "=": " equals ", "°": " degrees "}
ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "prof": "professor",
    "vs": "versus",
    "etc": "et cetera",
    "ok": "okay",
}
PLURALS = {"penny": "pence"}
MAX_DIGITS = 15

AMOUNT = re.compile(r"([$£€])\s?(\d+)(?:\.(\d\d)(?!\d))?")
CLOCK = re.compile(r"\b(\d{1,2}):([0-5]\d)\b")
ORDINAL = re.compile(r"\b(\d+)(?:st|nd|rd|th)\b")
DECIMAL = re.compile(r"\b(\d+)\.(\d+)\b")
GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
YEAR = re.compile(
    r"(?<![\d,.$£€])(1\d|20)([1-9]\d)(?!\d|[,.]\d|[a-z]|\s?(?:%|percent|dollars?|pounds?|euros?|cents?|pence))"
)
DIGITS = re.compile(r"\d+")
INITIALS = re.compile(r"\b(?:[a-z]\.){2,}")


def spoken_words(text: str) -> list[str]:
    """The words of an English text: small letters, no punctuation, numbers in words.

    Read as people read: 1,250 "one thousand two hundred fifty", years and such in pairs, 1998 "nineteen ninety
    eight", 3.5 "three point five", $4.50 "four dollars fifty cents", 10:30 "ten thirty", 21st "twenty first".
    Apostrophes vanish; hyphens part words. The "and" of "one hundred and five" goes.

    Args:
        text: Any text; what is not English stays as letters.

    Example:
        >>> spoken_words("Dr. Lee's train: 10:30, 5 minutes late!")
        ['doctor', 'lees', 'train', 'ten', 'thirty', 'five', 'minutes', 'late']
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.replace("’", "'")).lower())
    plain = "".join(each for each in plain if not unicodedata.combining(each)).replace("'", "")
    plain = YEAR.sub(lambda match: f" {_cardinal(match[1])} {_cardinal(match[2])} ", plain)
    plain = GROUPED.sub(lambda match: match[0].replace(",", ""), plain)
    plain = INITIALS.sub(lambda match: match[0].replace(".", ""), plain)
    plain = AMOUNT.sub(lambda match: _amount(*match.groups()), plain)
    plain = CLOCK.sub(lambda match: f"{_clock(match[1], match[2])} ", plain)
    plain = ORDINAL.sub(lambda match: f" {_ordinal(match[1])} ", plain)
    plain = DECIMAL.sub(lambda match: f" {_cardinal(match[1])} point {_one_by_one(match[2])} ", plain)
    plain = DIGITS.sub(lambda match: f" {_cardinal(match[0])} ", plain)
    for symbol, word in SYMBOLS.items():
        plain = plain.replace(symbol, word)
    words = [word for word in re.split(r"[\W_]+", plain) if word]
    expanded = [part for word in words for part in ABBREVIATIONS.get(word, word).split()]
    return list(_without_number_and(expanded))


def _without_number_and(words: list[str]) -> Iterator[str]:
    scales = {name for _, name in SCALES}
    for place, word in enumerate(words):
        follows_scale = word == "and" and place > 0 and words[place - 1] in scales
        if not (follows_scale and place + 1 < len(words) and words[place + 1] in NUMBER_WORDS):
            yield word


def _amount(symbol: str, whole: str, hundredths: str | None) -> str:
    large, small = UNITS[symbol]
    said = f" {_cardinal(whole)} {_counted(large, int(whole[:MAX_DIGITS]))} "
    if hundredths and int(hundredths):
        said += f"{_cardinal(hundredths)} {_counted(small, int(hundredths))} "
    return said


def _counted(unit: str, count: int) -> str:
    return unit if count == 1 else PLURALS.get(unit, f"{unit}s")


def _clock(hours: str, minutes: str) -> str:
    if minutes == "00":
        return _cardinal(hours)
    return f"{_cardinal(hours)} {'oh ' if minutes[0] == '0' else ''}{_cardinal(minutes)}"


def _ordinal(digits: str) -> str:
    *before, last = _cardinal(digits).split()
    if last in IRREGULAR_ORDINALS:
        last = IRREGULAR_ORDINALS[last]
    elif last.endswith("y"):
        last = f"{last[:-1]}ieth"
    else:
        last += "th"
    return " ".join([*before, last])


def _one_by_one(digits: str) -> str:
    return " ".join(SMALL[int(digit)] for digit in digits)


def _cardinal(digits: str) -> str:
    if len(digits) > MAX_DIGITS or not digits.isascii():
        return _one_by_one("".join(str(unicodedata.digit(digit)) for digit in digits))
    return " ".join(_number_words(int(digits)))


def _number_words(number: int) -> Iterator[str]:
    for value, name in SCALES:
        if number >= value:
            yield from _number_words(number // value)
            yield name
            number %= value
            if not number:
                return
    if number < 20:
        yield SMALL[number]
        return
    yield TENS[number // 10]
    if number % 10:
        yield SMALL[number % 10]
