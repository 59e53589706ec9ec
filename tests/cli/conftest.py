"""Commands find the key in their environment."""

from __future__ import annotations

import pytest

from tests.service import Service


@pytest.fixture
def service(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("VOUCHSAFE_API_KEY", service.api_key)
    return service
