"""A hub of the test's own."""

from __future__ import annotations

from hubs import hub  # noqa: F401  # a fixture
