"""How the app answers, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from trt_var.serving.app.keys import Keys


@dataclass(frozen=True)
class Settings:
    """Of the app.

    Attributes:
        model: the name that the bundle has for clients.
        images: that one request may ask for.
        body: bytes of a request in JSON or tensors.
        upload: bytes of a request with pictures.
        bodies: bytes of all requests that are under way together.
        keys: who may ask; None for everyone.
        hosts: values of the Host header that are answered; none for any.
        page: whether there is one at ``/``.
        body_timeout: seconds that a request's body may take to arrive.
        write_timeout: seconds that a client may take to read what was sent.
        heartbeat: seconds of silence after which a stream shows that it lives.
    """

    model: str = "trt-var"
    images: int = 10
    body: int = 1 << 20
    upload: int = 16 << 20
    bodies: int = 256 << 20
    keys: Keys | None = None
    hosts: frozenset[str] = field(default_factory=frozenset)
    page: bool = True
    body_timeout: float = 30.0
    write_timeout: float = 60.0
    heartbeat: float = 10.0
