"""API keys: a file of names and keys, and how much each may ask for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trt_var.errors import OverloadedError, UsageError

log = logging.getLogger(__name__)
LINE = re.compile(r"([A-Za-z0-9._-]{1,64})[ \t]+([\x21-\x7e]{16,512})")
BURST = 2.0  # seconds of a key's rate that may be asked for at once


class Limit:
    """What one key may ask for: images a second, on the average, and images at once. In memory, of this process alone."""

    def __init__(self, rate: float | None, most: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = rate, most, clock
        self._room = max(1.0, BURST * rate) if rate else 0.0
        self._tokens, self._seen = self._room, clock()
        self._held = 0

    @contextmanager
    def held(self, images: int) -> Iterator[None]:
        """Around a request.

        Raises:
            OverloadedError: it asks for too much, or too soon.
        """
        self._spend(images)
        self._held += images
        try:
            yield
        finally:
            self._held -= images

    def _spend(self, images: int) -> None:
        if self._most is not None and self._held + images > self._most:
            raise OverloadedError(f"{self._held} images of this key are under way and {self._most} may be", 1.0, "key")
        if not self._rate:
            return
        now = self._clock()
        self._tokens = min(self._room, self._tokens + (now - self._seen) * self._rate)
        self._seen = now
        if self._tokens < min(images, self._room):  # a large request may take the account below nothing, never for good
            short = (min(images, self._room) - self._tokens) / self._rate
            raise OverloadedError(f"this key may ask for {self._rate:g} images a second", short, "key")
        self._tokens -= images


class Keys:
    """The keys of a file: a line each, a name and the key, at least 16 characters; # begins a comment."""

    def __init__(self, path: Path, rate: float | None = None, most: int | None = None) -> None:
        """Read them; ``rate`` images a second and ``most`` images at once are each key's.

        Raises:
            UsageError: a file that cannot be read, or a line that is no name and key.
        """
        self._path, self._rate, self.most = path, rate, most
        self._names: dict[bytes, str] = {}
        self._limits: dict[str, Limit] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again; limits of names that stay go on.

        Raises:
            UsageError: as above; the keys stay what they were.
        """
        names = _read(self._path)
        known = self._limits
        self._limits = {name: known.get(name) or Limit(self._rate, self.most) for name in names.values()}
        self._names = names
        log.info("%d keys", len(names))

    def name(self, header: str) -> str | None:
        """Whose an ``Authorization`` header is: ``Bearer KEY``, or Basic with the key as the password. None if nobody's."""
        given = _digest(_key(header))
        found = [name for digest, name in self._names.items() if hmac.compare_digest(digest, given)]
        return found[0] if found else None

    def limit(self, name: str) -> Limit:
        """Of a name."""
        return self._limits.get(name) or Limit(self._rate, self.most)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _key(header: str) -> str:
    kind, _, rest = header.partition(" ")
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return rest.strip() if kind.lower() == "bearer" else ""


def _read(path: Path) -> dict[bytes, str]:
    try:
        text = path.read_text("utf-8-sig")
        mode = path.stat().st_mode
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot read the keys of {path}: {getattr(error, 'strerror', None) or error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("%s may be read by others of this machine; chmod 600 keeps them from it", path)
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = LINE.fullmatch(line.strip())
        if not found:  # never show the line: it may hold a key
            raise UsageError(
                f"line {number} of {path} is no name and key; expected 'name key', a key of 16 characters or more"
            )
        if found[1] in names.values() or _digest(found[2]) in names:
            raise UsageError(f"line {number} of {path} repeats a name or a key; each must be there once")
        names[_digest(found[2])] = found[1]
    if not names:
        raise UsageError(f"{path} holds no keys; expected lines of 'name key'")
    return names
