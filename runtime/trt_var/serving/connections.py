"""Connections: what a client may keep waiting, and for how long."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from trt_var.serving.app.settings import Settings

REST = 5.0  # seconds that what is left of a body may still come after its request was answered


class Connection(H11Protocol):
    """HTTP by h11, which bounds headers; those end that send no request, half of one, or do not read what was sent."""

    settings: ClassVar[Settings]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._expected: tuple[float, asyncio.TimerHandle] | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._expect(self.settings.body_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._expect(None)
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def awaits_body(self) -> bool:
        """Whether the rest of a request is still to come, and nothing was answered."""
        return self.conn.their_state is h11.SEND_BODY and not self.cycle.response_started

    def data_received(self, data: bytes) -> None:
        """A head that has begun has its time."""
        super().data_received(data)
        self._look(self.conn.their_state is h11.IDLE)

    def on_response_complete(self) -> None:
        """So has the next one's, if it came too early, and what nobody reads any more."""
        super().on_response_complete()
        self._look(self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def pause_writing(self) -> None:
        """A client that does not read has its time too."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.settings.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        self._stop_waiting()
        super().resume_writing()

    def _stop_waiting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def _look(self, begun: bool) -> None:
        """Bodies are timed by who reads them, until their request is answered."""
        if begun:
            self._expect(self.settings.body_timeout)
        elif self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self._expect(REST)
        else:
            self._expect(None)

    def _expect(self, seconds: float | None) -> None:
        """Close the connection after this time, counted from when it was first said."""
        if self._expected is not None:
            if self._expected[0] == seconds:
                return
            self._expected[1].cancel()
        self._expected = None if seconds is None else (seconds, self.loop.call_later(seconds, self.transport.close))


def protocol(settings: Settings) -> type[Connection]:
    """Connections of a service with these settings."""
    return type("Connection", (Connection,), {"settings": settings})
