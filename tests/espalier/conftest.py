"""Small models and texts that the phases' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import write_tiny_model


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.txt and valid.txt."""
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 Llama of two blocks."""
    return write_tiny_model(tmp_path_factory.mktemp("llama"))
