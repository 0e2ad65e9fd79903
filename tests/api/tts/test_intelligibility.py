"""A text against what was heard of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corsac.api.tts.intelligibility import Baselines, align, round_trip, trip_verdict, wilson_interval
from corsac.api.tts.quality_report import RoundTrip

TEXT = "the river stayed within its banks although it had rained all night in the hills"
KNOWN = frozenset(TEXT.split())


def trip(text: str, transcript: str, known: frozenset[str] = frozenset()) -> RoundTrip:
    compared = round_trip(text, transcript, known, "judge")
    assert isinstance(compared, RoundTrip), compared
    return compared


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("a b c", "a b c", (0, 0, 0)),
        ("a b c", "a x c", (1, 0, 0)),
        ("a b c", "a c", (0, 1, 0)),
        ("a c", "a b c", (0, 0, 1)),
        ("a b", "", (0, 2, 0)),
        ("a", "x y", (1, 0, 1)),
        ("any more tea", "anymore tea", (0, 0, 0)),
        ("anymore tea", "any more tea", (0, 0, 0)),
    ],
)
def test_errors_are_the_fewest_edits(said: str, heard: str, errors: tuple[int, int, int]) -> None:
    words = said.split()
    aligned = align(words, [False] * len(words), heard.split())
    assert (aligned.substitutions, aligned.deletions, aligned.insertions) == errors


words = st.lists(st.sampled_from("abcd"), max_size=8)


@given(said=words, heard=words)
def test_deletions_and_insertions_explain_the_lengths(said: list[str], heard: list[str]) -> None:
    aligned = align(said, [False] * len(said), heard)
    plain = align(said, [False] * len(said), said)
    assert len(said) - aligned.deletions + aligned.insertions == len(heard)
    assert plain.errors == plain.missing_at_end == 0
    assert aligned.errors <= max(len(said), len(heard))


@given(said=words, heard=words, masks=st.lists(st.booleans(), min_size=8, max_size=8))
def test_masking_never_adds_errors(said: list[str], heard: list[str], masks: list[bool]) -> None:
    plain = align(said, [False] * len(said), heard)
    assert align(said, masks[: len(said)], heard).errors <= plain.errors


def test_the_score_comes_with_its_transcript_counts_and_interval() -> None:
    heard = trip(TEXT, "The river stayed within its bank, although it had reigned all night in the hills.")
    assert (heard.n_words, heard.substitutions, heard.deletions, heard.insertions) == (15, 2, 0, 0)
    assert heard.score == pytest.approx(13 / 15, abs=0.001)
    assert heard.low < heard.score < heard.high
    assert heard.word_error_rate == pytest.approx(2 / 15, abs=0.001)
    assert heard.transcript.startswith("The river")


def test_names_and_rare_words_are_outside_the_score_and_reported_apart() -> None:
    heard = trip("Siobhan stayed in Reykjavik all night", "She von stayed in Reykjavik all night", KNOWN)
    assert (heard.score, heard.n_words) == (1.0, 4)
    assert (heard.masked.n_words, heard.masked.n_heard, heard.masked.words) == (2, 1, ["reykjavik", "siobhan"])


def test_a_judge_that_tells_no_vocabulary_masks_nothing() -> None:
    heard = trip("Siobhan stayed", "She von stayed")
    assert (heard.masked.n_words, heard.n_words) == (0, 2)


@pytest.mark.parametrize(("text", "says"), [("Siobhan", "only names"), ("word " * 1001, "more than the 1000 words")])
def test_what_cannot_be_compared_has_a_reason_and_no_score(text: str, says: str) -> None:
    assert says in str(round_trip(text, "anything", KNOWN, "judge"))


def test_more_words_heard_than_said_do_not_make_a_score_below_nothing() -> None:
    heard = trip("one", "a b c d")
    assert (heard.score, heard.low) == (0, 0)
    assert heard.word_error_rate == 4


@pytest.mark.parametrize(
    ("transcript", "verdict"),
    [
        (TEXT, "ok"),
        (TEXT.replace("rained", "reigned").replace("hills", "ills"), "ok"),
        (" ".join(TEXT.split()[:12]), "ok"),
        (" ".join(TEXT.split()[:8]), "cut"),
        ("", "cut"),
        ("You.", "cut"),
        ("all of this is something else that somebody made of noise in a room", "unintelligible"),
    ],
)
def test_the_verdict(transcript: str, verdict: str) -> None:
    assert trip_verdict(trip(TEXT, transcript)) == verdict


def test_a_short_text_is_not_refused_for_three_words() -> None:
    assert trip_verdict(trip("Turn it off", "Bernard of")) == "ok"


@pytest.mark.parametrize("total", [1, 10, 1000])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_interval_holds_the_share_and_narrows_with_more_words(total: int, share: float) -> None:
    low, high = wilson_interval(share * total, total)
    assert 0 <= low <= share <= high + 1e-9 <= 1 + 1e-9
    wider = wilson_interval(share * total / 2, total / 2)  # type: ignore[arg-type]
    assert high - low < wider[1] - wider[0]


def test_a_baseline_is_what_came_before_of_the_same_voice_once_there_is_enough() -> None:
    baselines, good, bad = Baselines(), trip(TEXT, TEXT), trip(TEXT, "the river stayed")
    for _ in range(7):
        assert baselines.compare(good, "piper", "joe").baseline is None
        baselines.add(good, "piper", "joe")
    compared = baselines.compare(bad, "piper", "joe").baseline
    assert compared is not None
    assert (compared.score, compared.n_words, compared.difference) == (1.0, 105, pytest.approx(-0.8, abs=0.001))
    assert baselines.compare(bad, "piper", "amy").baseline is None
