"""The app on Ray Serve. Whatever is in here imports Ray; nothing else imports what is in here."""

from typing import Any

__all__ = ["app"]  # see __getattr__


def __getattr__(name: str) -> Any:
    """``app``, by its short address for config files; Ray is imported with it, not with the settings."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trt_var.serving.ray.application import app  # imports Ray

    return app
