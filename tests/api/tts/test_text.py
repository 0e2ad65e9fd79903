"""Plain or markup, speakable or not, sentences, scripts."""

from __future__ import annotations

import time

import pytest

from corsac.api.tts.text import (
    count_speech_units,
    count_words,
    detect_language,
    is_speakable,
    looks_like_ssml,
    normalize_text,
    split_sentences,
)


@pytest.mark.parametrize("text", ["a", "7", "½", "你", "Ωμέγα", "नमस्ते", "¡No!", "🙂 ok"])
def test_a_letter_or_digit_of_any_script_is_speakable(text: str) -> None:
    assert is_speakable(text)


@pytest.mark.parametrize("text", ["", "   \n", "...", "🙂🎉", "—?!", "$%&", "\u200d\ufe0f"])
def test_emoji_and_punctuation_alone_are_not_speakable(text: str) -> None:
    assert not is_speakable(text)


@pytest.mark.parametrize(
    "text",
    [
        "<speak>Hello</speak>",
        "<SPEAK version='1.1'>Hello",
        "text before <speak",
        '<?xml version="1.0"?>Hello',
        '<!DOCTYPE speak SYSTEM "http://example.org/x.dtd">',
        '<!ENTITY x SYSTEM "file:///etc/passwd">',
        "<![CDATA[Hello]]>",
        "Listen: <audio src=file:///etc/passwd>",
        'Wait <break time="1s"/> here',
        "Wait <break/> here",
        '<prosody rate="slow">Hello',
        '<say-as\ninterpret-as="date">1/2</say-as>',
        "I <emphasis>love</emphasis> it",
        "I <b>love</b> it",
        '<amazon:effect name="whispered">psst</amazon:effect>',
    ],
)
def test_markup_is_recognized(text: str) -> None:
    assert looks_like_ssml(text)


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "use the <b> key",
        "press <break> to stop",
        "if (a<b && c>d) x = 1",
        "I <3 you",
        "write to <someone@example.org>",
        "see <https://example.org/a/>.",
        "5 > 3 < 9",
        "<<guillemets>> and -> arrows <-",
        "the closing tag </b> is missing",
        "we speak of <voice> and <mark> as words",
        "SSML begins with the word speak in angle brackets",
        "x <- y; y -> z",
        "AT&T; fish &amp; chips",
    ],
)
def test_prose_with_angle_brackets_is_no_markup(text: str) -> None:
    assert not looks_like_ssml(text)


@pytest.mark.parametrize("piece", ["<a>", "<", "<b ", "</a", "<a =", "<!"])
def test_markup_is_looked_for_in_linear_time(piece: str) -> None:
    began = time.process_time()
    looks_like_ssml(piece * 100_000)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("e\u0301te\u0301", "été"),
        ("a\x00b\x07c\x7f", "abc"),
        ("  one\t two\u00a0\u2003three\r\nfour ", "one two three four"),
        ("Title\r\n \r\nBody", "Title\n\nBody"),
        ("half \ud800 pair", "half pair"),
        ("«Ça» ﬁ 👩‍🚀 “quoted” x² — naïve", "«Ça» ﬁ 👩‍🚀 “quoted” x² — naïve"),
    ],
)
def test_normal_text_has_one_spelling_and_nothing_else_changes(text: str, normal: str) -> None:
    assert normalize_text(text) == normal
    assert normalize_text(normal) == normal


@pytest.mark.parametrize(
    "sentences",
    [
        ["Hello there.", "How are you?", "Fine!"],
        ["Dr. Smith paid $3.50 to J. Doe, e.g. for tea.", "He left."],
        ["He said: “Stop!”", "Then he left."],
        ['"Really?" he asked.', "Yes."],
        ["Well... maybe not.", "No… really."],
        ["Am 3. Oktober 1990.", "Ja."],
        ["Version 2.10.3 is out."],
        ["今天很好。", "你呢？", "「好！」", "走吧"],
        ["वह गया।", "मैं आया।"],
        ["A title", "A paragraph without a mark"],
        ["What?!", "No way!!!"],
        ["It is 5 p.m. now.", "Go."],
    ],
)
def test_sentences_are_found(sentences: list[str]) -> None:
    separator = "\n\n" if sentences[0] == "A title" else " "
    assert split_sentences(separator.join(sentences)) == sentences


def test_cjk_sentences_need_no_space_between_them() -> None:
    assert split_sentences("好。走吧！") == ["好。", "走吧！"]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Привет, Bob", "ru"),
        ("今天天气很好", "cmn"),
        ("今日は雨です", "ja"),
        ("안녕하세요", "ko"),
        ("مرحبا", "ar"),
        ("שלום", "he"),
        ("नमस्ते", "hi"),
        ("Καλημέρα", "el"),
        ("Hello, world", None),
        ("Я love long English sentences", None),
        ("1234", None),
        ("", None),
    ],
)
def test_the_script_tells_the_language_where_it_decides(text: str, language: str | None) -> None:
    assert detect_language(text) == language


def test_words_are_counted_where_there_are_spaces() -> None:
    assert count_words("One — two, three!") == 3
    assert count_words("今天天气很好") is None


def test_a_syllable_sign_counts_for_more_than_a_letter() -> None:
    assert count_speech_units("你好") == count_speech_units("nihao1") == 6
    assert count_speech_units("?! 🙂") == 0
