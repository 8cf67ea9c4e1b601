"""Previews on their way from a worker's thread to a coroutine that may read slowly."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from trt_var.requests.results import Preview

HELD = 1 << 20  # bytes of pictures that wait for a slow reader, and two in any case; older ones go


class Mailbox:
    """Holds the last few previews, until it is closed and empty."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._closed = loop, False
        self._held: deque[Preview] = deque()
        self._changed = asyncio.Event()

    def put(self, preview: Preview) -> None:
        """Leave one, from any thread."""
        self._call(preview)

    def close(self) -> None:
        """No more will come; from any thread."""
        self._call(None)

    async def take(self) -> Preview | None:
        """The next; None when no more will come."""
        while not self._held and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        return self._held.popleft() if self._held else None

    def _call(self, preview: Preview | None) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop has ended
            self._loop.call_soon_threadsafe(self._take_in, preview)

    def _take_in(self, preview: Preview | None) -> None:
        if preview is None:
            self._closed = True
        else:
            self._held.append(preview)
            while len(self._held) > 2 and len(self._held) * preview.images.nbytes > HELD:
                self._held.popleft()
        self._changed.set()
