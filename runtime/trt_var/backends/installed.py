"""Optional packages as they are found installed: whole, missing, or there and broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from trt_var.backends.failures import MORE, out_of_memory, reason
from trt_var.errors import BackendError, TrtVarError

# what an import may raise: loaders raise OSError, extensions RuntimeError and SystemError, a damaged file SyntaxError, an
# emptied package AttributeError, and some packages end the process where they do not find what they need
BROKEN = (Exception, SystemExit)


class UnusablePackageError(BackendError):
    """A package that is there but cannot be used; callers see a BackendError."""


@contextmanager
def needed(what: str, packages: tuple[str, ...], install: str) -> Iterator[None]:
    """Around the import of optional packages.

    Args:
        what: begins the message, e.g. ``backend openvino``.
        packages: those of which one is missing where nothing is installed.
        install: the command that installs it, ``pip install …``.

    Raises:
        BackendError: missing, with how to install it; or broken, with how to install it anew.
    """
    try:
        yield
    except TrtVarError:
        raise
    except BROKEN as error:
        kind = BackendError if is_missing(error, packages) else UnusablePackageError
        raise kind(f"{what} {trouble(error, packages, install)}") from error


def trouble(error: BaseException, packages: tuple[str, ...], install: str) -> str:
    """What is wrong with a package that could not be imported or used, and what to do."""
    if is_missing(error, packages):
        return f"is not installed ({reason(error)}): {install}"
    said = f"{type(error).__name__}: {reason(error)}"
    if out_of_memory(error):
        return f"cannot be loaded for want of memory ({said}); {MORE}"
    again = install.replace("install", "install --force-reinstall", 1)
    return f"is not usable, what is installed is broken ({said}); reinstall it: {again}"


def is_missing(error: BaseException, packages: tuple[str, ...]) -> bool:
    """Whether a package itself is not there, rather than something that it needs."""
    return isinstance(error, ModuleNotFoundError) and error.name in packages


def check_whole(module: ModuleType, *names: str) -> None:
    """Raises ImportError for a package without names that are used later: emptied, half removed, a folder of its name."""
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        places = [module.__file__] if getattr(module, "__file__", None) else [*getattr(module, "__path__", ["?"])]
        raise ImportError(f"{module.__name__} in {places[0]} has no {', '.join(missing)}")
