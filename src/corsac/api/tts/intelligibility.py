"""How much of a text can be understood from its speech: the text against what a transcription engine heard.

The judge errs too, most of all on names and rare words, and by chance from one synthesis to the next. So those
words are left out of the score and reported apart, the score comes with an interval, and it says most as a
difference from what the same judge usually hears of the same voice.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from corsac.api.tts.quality_report import Baseline, Masked, RoundTrip
from corsac.api.tts.spoken_words import spoken_words

MAX_WORDS = 1000  # the alignment is quadratic: a second for these
MAX_ABSORBED = 3
Z_95 = 1.96
UNINTELLIGIBLE_BELOW = 0.4
MISSING_SHARE = 0.25
DELETED_OF_MISSING = 0.75
MIN_MISSING_WORDS = 4
N_BASELINE_TRIPS = 200
MIN_BASELINE_WORDS = 100


@dataclass(frozen=True, slots=True)
class Alignment:
    """The cheapest way from the words said to the words heard.

    Args:
        substitutions: Counted words heard as others.
        deletions: Counted words not heard.
        insertions: Words heard that nobody said.
        masked_heard: Masked words heard exactly.
        missing_at_end: Counted words after the last one that was heard right.
    """

    substitutions: int
    deletions: int
    insertions: int
    masked_heard: int
    missing_at_end: int

    @property
    def errors(self) -> int:
        """All errors on counted words."""
        return self.substitutions + self.deletions + self.insertions


def align(said: Sequence[str], masked: Sequence[bool], heard: Sequence[str]) -> Alignment:
    """Align words by edit distance, with two allowances.

    A masked word costs nothing and takes up to three heard words with it: "Siobhan" may be "she von". Two words
    written as one, or one as two, are the same: "any more", "anymore".

    Args:
        said: Words of the text.
        masked: For each, whether it is left out of the score.
        heard: Words of the transcript.

    Source:
        V. Levenshtein, Binary codes capable of correcting deletions, insertions and reversals, 1966.
    """
    costs = _costs(said, masked, heard)
    kinds = dict.fromkeys(("same", "substitution", "deletion", "insertion", "masked heard"), 0)
    missing_at_end, row, column = None, len(said), len(heard)
    counted_behind = 0
    while row or column:
        kind, rows, columns = _step_back(costs, said, masked, heard, row, column)
        counted = sum(not masked[each] for each in range(row - rows, row))
        if kind == "same" and missing_at_end is None:
            missing_at_end = counted_behind
        counted_behind += counted
        if kind in kinds:
            kinds[kind] += 1
        row, column = row - rows, column - columns
    return Alignment(
        kinds["substitution"],
        kinds["deletion"],
        kinds["insertion"],
        kinds["masked heard"],
        counted_behind if missing_at_end is None else missing_at_end,
    )


def _costs(said: Sequence[str], masked: Sequence[bool], heard: Sequence[str]) -> list[list[int]]:
    costs = [list(range(len(heard) + 1))]
    for row, word in enumerate(said, 1):
        above, here = costs[-1], [0] * (len(heard) + 1)
        for column in range(len(heard) + 1):
            if masked[row - 1]:
                best = min(above[max(0, column - MAX_ABSORBED) : column + 1])
            else:
                best = above[column] + 1
                if column:
                    best = min(best, above[column - 1] + (word != heard[column - 1]))
                if _is_split(word, heard, column):
                    best = min(best, above[column - 2])
            if column:
                best = min(best, here[column - 1] + 1)
                if _is_joined(said, masked, heard, row, column):
                    best = min(best, costs[row - 2][column - 1])
            here[column] = best
        costs.append(here)
    return costs


def _is_split(word: str, heard: Sequence[str], column: int) -> bool:
    return column > 1 and heard[column - 2] + heard[column - 1] == word


def _is_joined(said: Sequence[str], masked: Sequence[bool], heard: Sequence[str], row: int, column: int) -> bool:
    return (
        row > 1 and not masked[row - 2] and not masked[row - 1] and said[row - 2] + said[row - 1] == heard[column - 1]
    )


def _step_back(
    costs: Sequence[Sequence[int]],
    said: Sequence[str],
    masked: Sequence[bool],
    heard: Sequence[str],
    row: int,
    column: int,
) -> tuple[str, int, int]:
    """What the cheapest path did last: a kind, and how many words said and heard it took."""
    cost = costs[row][column]
    if row and masked[row - 1]:
        taken = [n for n in range(min(MAX_ABSORBED, column) + 1) if costs[row - 1][column - n] == cost]
        for n in taken:
            if said[row - 1] in heard[column - n : column]:
                return "masked heard", 1, n
        if taken:
            return "masked", 1, taken[0]
    elif row:
        if column and said[row - 1] == heard[column - 1] and costs[row - 1][column - 1] == cost:
            return "same", 1, 1
        if _is_split(said[row - 1], heard, column) and costs[row - 1][column - 2] == cost:
            return "same", 1, 2
        if column and _is_joined(said, masked, heard, row, column) and costs[row - 2][column - 1] == cost:
            return "same", 2, 1
        if column and costs[row - 1][column - 1] + 1 == cost:
            return "substitution", 1, 1
        if costs[row - 1][column] + 1 == cost:
            return "deletion", 1, 0
    return "insertion", 0, 1


def wilson_interval(right: float, total: int) -> tuple[float, float]:
    """The 95 % interval of a share of `total` trials of which `right` succeeded.

    Words of one sentence fail together, so the true uncertainty is larger than this.

    Source:
        E. Wilson, Probable inference, the law of succession, and statistical inference, 1927.

    Example:
        >>> [round(each, 2) for each in wilson_interval(9, 10)]
        [0.6, 0.98]
    """
    share, z2 = right / total, Z_95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def round_trip(text: str, transcript: str, vocabulary: AbstractSet[str], judge: str) -> RoundTrip | str:
    """Compare a text with what was heard of its speech.

    Args:
        text: What was to be said, in English.
        transcript: What was heard.
        vocabulary: Words that the judge knows; the others, names among them, are masked. Empty: none is masked.
        judge: Name of the engine that heard it.

    Returns:
        The comparison, or a sentence that says why there is none.
    """
    said = spoken_words(text)
    if len(said) > MAX_WORDS:
        return f"The text has more than the {MAX_WORDS} words that are compared."
    masked = [bool(vocabulary) and word not in vocabulary for word in said]
    n_counted = masked.count(False)
    if not n_counted:
        return "The text has only names and rare words, which the judge cannot be trusted with."
    heard = spoken_words(transcript)[: 3 * MAX_WORDS]
    aligned = align(said, masked, heard)
    right = max(0, n_counted - aligned.errors)
    low, high = wilson_interval(right, n_counted)
    return RoundTrip(
        judge=judge,
        transcript=transcript,
        word_error_rate=aligned.errors / n_counted,
        n_words=n_counted,
        substitutions=aligned.substitutions,
        deletions=aligned.deletions,
        insertions=aligned.insertions,
        missing_at_end=aligned.missing_at_end,
        score=right / n_counted,
        low=low,
        high=high,
        masked=Masked(
            n_words=masked.count(True),
            n_heard=aligned.masked_heard,
            words=sorted({word for word, is_masked in zip(said, masked, strict=True) if is_masked})[:50],
        ),
        baseline=None,
    )


def trip_verdict(trip: RoundTrip) -> Literal["ok", "cut", "unintelligible"]:
    """Whether what was heard can be the whole of its text.

    `cut`: the end is missing: four counted words or more, a quarter of all, with hardly anything in their place.
    `unintelligible`: surely less than two fifths can be understood. The upper end of the interval decides, so a
    short text is never refused for a few words. `python -m benchmarks.intelligibility` counts how often both are right.
    """
    missing, share = trip.missing_at_end, MISSING_SHARE * trip.n_words
    if missing >= max(MIN_MISSING_WORDS, share) and trip.deletions >= max(share, DELETED_OF_MISSING * missing):
        return "cut"
    return "unintelligible" if trip.high < UNINTELLIGIBLE_BELOW else "ok"


@dataclass(slots=True)
class Baselines:
    """What each judge usually hears of each voice: the last 200 round trips of this server since its start."""

    _trips: dict[tuple[str, str, str], deque[tuple[float, int]]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=N_BASELINE_TRIPS))
    )

    def compare(self, trip: RoundTrip, engine: str, voice: str) -> RoundTrip:
        """The trip with the baseline of what came before it; None there until a hundred words have been heard."""
        earlier = self._trips[trip.judge, engine, voice]
        n_words = sum(words for _, words in earlier)
        if n_words < MIN_BASELINE_WORDS:
            return trip
        usual = sum(score * words for score, words in earlier) / n_words
        baseline = Baseline(score=usual, n_words=n_words, difference=trip.score - usual)
        return trip.model_copy(update={"baseline": baseline})

    def add(self, trip: RoundTrip, engine: str, voice: str) -> None:
        """Let a trip count for those that follow."""
        self._trips[trip.judge, engine, voice].append((trip.score, trip.n_words))
