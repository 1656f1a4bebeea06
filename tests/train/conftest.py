"""Trainers of these tests run on the reference executor unless they say otherwise: it has nothing to compile."""

from __future__ import annotations

import pytest

from backlit.train import Trainer


@pytest.fixture(autouse=True)
def on_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Trainer.__init__.__kwdefaults__, "executor", "reference")
