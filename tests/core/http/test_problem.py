"""Every error is one document of one form."""

from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException

from corsac.core.exceptions import (
    CorsacError,
    DuplicateKey,
    FieldError,
    InternalError,
    Invalid,
    MethodNotAllowed,
    RateLimited,
    error_classes,
)
from corsac.core.http.problem import BodyRefused, from_framework, problem_bytes, problem_document, problem_headers


@pytest.mark.parametrize("error_class", list(error_classes()), ids=lambda each: each.reason)
def test_every_reason_makes_a_whole_document(error_class: type[CorsacError]) -> None:
    document = json.loads(problem_bytes(error_class(), "r1", "tts", "speak"))
    assert document["status"] == error_class.status
    assert document["type"] == f"/docs/errors/{error_class.reason}"
    assert document["detail"].endswith(".")
    assert (document["service"], document["operation"], document["request_id"]) == ("tts", "speak", "r1")


def test_invalid_places_and_what_to_do_are_in_the_document() -> None:
    place = FieldError("/voice", "INVALID_CHOICE", "There is no such voice.")
    document = problem_document(Invalid("No.", hint="List them.", retry_after_s=1.5, errors=[place]), "r1")
    assert document["errors"] == [{"pointer": "/voice", "reason": "INVALID_CHOICE", "detail": place.detail}]
    assert (document["hint"], document["retry_after_s"], document["service"]) == ("List them.", 1.5, None)


@pytest.mark.parametrize(("retry_after_s", "expected"), [(0.0, b"1"), (0.2, b"1"), (1.2, b"2"), (120, b"120")])
def test_retry_after_is_whole_seconds_from_one(retry_after_s: float, expected: bytes) -> None:
    assert (b"retry-after", expected) in problem_headers(RateLimited(retry_after_s=retry_after_s), b"{}")


def test_the_errors_own_headers_are_sent_and_win() -> None:
    error = RateLimited(retry_after_s=5, headers={"Retry-After": "7", "RateLimit": "x"})
    headers = problem_headers(error, b"{}")
    assert [value for name, value in headers if name == b"retry-after"] == [b"7"]
    assert {(b"ratelimit", b"x"), (b"content-length", b"2"), (b"cache-control", b"no-store")} <= set(headers)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        *(
            (400, "INVALID_REQUEST"),
            (401, "UNAUTHENTICATED"),
            (404, "NOT_FOUND"),
            (409, "CONFLICT"),
            (413, "TOO_LARGE"),
        ),
        *(
            (418, "INVALID_REQUEST"),
            (422, "INVALID"),
            (500, "INTERNAL_ERROR"),
            (502, "INTERNAL_ERROR"),
            (503, "UNAVAILABLE"),
        ),
    ],
)
def test_an_http_exception_of_the_framework_becomes_ours_without_its_text(status: int, reason: str) -> None:
    error = from_framework(HTTPException(status, "/etc/passwd"))
    assert error is not None
    assert error.reason == reason
    assert "passwd" not in str(problem_document(error, "r1"))


def test_a_wrong_method_names_the_right_ones() -> None:
    error = from_framework(HTTPException(405, headers={"Allow": "GET"}))
    assert isinstance(error, MethodNotAllowed)
    assert error.headers == {"Allow": "GET"}


def test_a_refused_body_carries_our_error_and_others_are_not_the_frameworks() -> None:
    refused = DuplicateKey()
    assert from_framework(BodyRefused(refused)) is refused
    assert from_framework(ValueError()) is None


def test_an_error_without_a_reason_of_its_own_is_an_internal_one() -> None:
    assert problem_document(CorsacError(), "r1")["reason"] == InternalError.reason
