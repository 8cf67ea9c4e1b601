"""Optional packages as they are found installed: whole, missing, or there and broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from trt_var.backends.failures import out_of_memory, reason
from trt_var.errors import BackendError, TrtVarError

# what an import may raise: loaders raise OSError, extensions RuntimeError and SystemError, a damaged file SyntaxError, an
# emptied package AttributeError, and some packages end the process where they do not find what they need
BROKEN = (Exception, SystemExit)


class BrokenPackage(BackendError):
    """A package that is there but cannot be used; callers see a BackendError."""


@contextmanager
def needed(what: str, package: str, install: str) -> Iterator[None]:
    """Around the import of optional packages.

    Args:
        what: begins the message, e.g. ``backend openvino``.
        package: the one that is missing where nothing is installed.
        install: the command that installs it, ``pip install …``.

    Raises:
        BackendError: missing, with how to install it; or broken, with how to install it anew.
    """
    try:
        yield
    except TrtVarError:
        raise
    except BROKEN as error:
        kind = BackendError if is_missing(error, package) else BrokenPackage
        raise kind(f"{what} {trouble(error, package, install)}") from error


def trouble(error: BaseException, package: str, install: str) -> str:
    """What is wrong with a package that could not be imported or used, and what to do."""
    if is_missing(error, package):
        return f"is not installed ({reason(error)}): {install}"
    said = f"{type(error).__name__}: {reason(error)}"
    if out_of_memory(error):
        return f"cannot be loaded for want of memory ({said}); give the process more (ulimit -v, the container's limit)"
    return f"is not usable, its package is broken ({said}); reinstall it: {install.replace('install', 'install --force-reinstall', 1)}"


def is_missing(error: BaseException, package: str) -> bool:
    """Whether the package itself is not there, rather than something that it needs."""
    return isinstance(error, ModuleNotFoundError) and error.name in (package, package.partition(".")[0])


def check_whole(module: ModuleType, *names: str) -> None:
    """Raises ImportError for a package without names that are used later: emptied, half removed, or a folder of that name."""
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        places = [module.__file__] if getattr(module, "__file__", None) else [*getattr(module, "__path__", ["?"])]
        raise ImportError(f"{module.__name__} in {places[0]} has no {', '.join(missing)}")
