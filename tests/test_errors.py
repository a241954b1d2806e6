"""Every error is a SedembedError and a builtin."""

from __future__ import annotations

import builtins
import inspect
import pickle

import pytest

from sedembed import errors

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and value is not errors.SedembedError]
BUILTINS = tuple(value for value in vars(builtins).values() if inspect.isclass(value) and issubclass(value, Exception))


@pytest.mark.parametrize("kind", CLASSES)
def test_is_ours_and_a_builtin(kind: type[Exception]):
    assert issubclass(kind, errors.SedembedError)
    assert any(issubclass(kind, builtin) for builtin in BUILTINS if builtin is not Exception)
    assert kind.__name__ in errors.__all__


@pytest.mark.parametrize("kind", CLASSES)
def test_the_sentence_is_shown_as_it_is_and_survives_a_process_pool(kind: type[Exception]):
    error = pickle.loads(pickle.dumps(kind("Expected one thing, got another.")))
    assert type(error) is kind
    assert str(error) == "Expected one thing, got another."
