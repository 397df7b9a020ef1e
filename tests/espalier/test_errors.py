"""One family of errors: each names a class of the contract and a way out, and none knows of HTTP."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import get_args

import pytest

from app.errors import ModelRefused
from app.integrations.shared.sources import SourceUnreachable
from espalier.errors import (
    DatasetRefused,
    EngineError,
    ErrorClass,
    InsufficientMemoryError,
    NumericalError,
    OwnOutput,
    Problem,
    SourceNotFound,
    SourceRefused,
)
from espalier.messages import ErrorInfo


def _kinds(kind: type[EngineError]) -> Iterator[type[EngineError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _kinds(child)


def test_every_error_names_a_class_of_the_contract_and_no_status() -> None:
    kinds = set(_kinds(EngineError))
    assert {SourceRefused, DatasetRefused, NumericalError, SourceUnreachable} <= kinds
    named = {kind: kind.class_ for kind in kinds if hasattr(kind, "class_")}
    unnamed = kinds - set(named)
    assert InsufficientMemoryError in unnamed, "which memory is short shows in the run"
    assert all(issubclass(kind, InsufficientMemoryError) for kind in unnamed)
    assert set(named.values()) <= set(get_args(ErrorClass))
    assert [kind.__name__ for kind in kinds if hasattr(kind, "status")] == []


@pytest.mark.parametrize(("kind", "retryable"), [(SourceNotFound, False), (SourceUnreachable, True)])
def test_a_failed_job_says_what_the_error_says(kind: type[SourceRefused], retryable: bool) -> None:
    error = kind("no model here", hint="Look elsewhere.", module="config.json")
    assert str(error) == "no model here Look elsewhere."
    assert ErrorInfo.of(error, "fetching") == ErrorInfo(
        class_="source_unreachable" if retryable else "source_not_found",
        retryable=retryable,
        phase="fetching",
        module="config.json",
        hint="Look elsewhere.",
        message="no model here",
    )


def test_an_answer_has_the_words_and_the_code_of_the_library() -> None:
    refusal = ModelRefused(OwnOutput("It is one of ours.").at("/source"))
    assert (refusal.status, refusal.code) == (422, "own-output")
    assert refusal.items == (Problem("/source", "own-output", refusal.detail),)
    assert refusal.detail == "It is one of ours. Submit the job yourself if you mean it; a rule would run in circles."


def test_a_place_that_is_named_stays() -> None:
    error = DatasetRefused("too short", items=[Problem("/a", "x", "y")])
    assert error.at("/source").items == (Problem("/a", "x", "y"),)


def test_an_error_travels_pickled_with_all_that_it_says() -> None:
    for error in (
        NumericalError("not finite", hint="Mend it.", module="layers.0"),
        InsufficientMemoryError("too large", hint="Take less.", class_="gpu_oom"),
        OwnOutput("It is one of ours.").at("/source"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), vars(again), str(again)) == (type(error), vars(error), str(error))
