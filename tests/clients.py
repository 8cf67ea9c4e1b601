"""What the tests of other people's clients need: the stock OpenAI client, pictures as they send them, what is missing."""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import os
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from PIL import Image

REQUIRED = os.environ.get("TRT_VAR_REQUIRE_CLIENTS") == "1"  # what is missing is then a failure
KEY = "sk-0123456789abcdef"


def module(name: str) -> Any:
    return importlib.import_module(name) if REQUIRED else pytest.importorskip(name)


def missing(what: str) -> None:
    """Skip, or fail where nothing may be missing."""
    (pytest.fail if REQUIRED else pytest.skip)(what)


class OpenAI:
    """OpenAI's client, or its asynchronous twin, asked in one way: ``client("images.generate", prompt="3")``.

    Answers are compared with the types that they are said to have. The events of a stream come as a list.
    """

    def __init__(self, url: str, asynchronous: bool = False, **options: Any) -> None:
        openai, self._asynchronous = module("openai"), asynchronous
        self._kind = openai.AsyncOpenAI if asynchronous else openai.OpenAI
        self._options = {"base_url": f"{url}/v1", "api_key": KEY, "_strict_response_validation": True, **options}

    def __call__(self, method: str, **given: Any) -> Any:
        if self._asynchronous:
            return asyncio.run(self._awaited(lambda client: attrgetter(method)(client)(**given), given))
        with self._kind(**self._options) as client:
            found = attrgetter(method)(client)(**given)
            return list(found) if given.get("stream") else found

    async def _awaited(self, ask: Callable[[Any], Any], given: dict[str, Any]) -> Any:
        async with self._kind(**self._options) as client:
            found = await ask(client)
            return [event async for event in found] if given.get("stream") else found


def opened(file: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(file, validate=True)))


def pixels(file: str) -> NDArray[np.uint8]:
    """Of a file in Base64."""
    picture = opened(file)
    assert picture.mode == "RGB", picture.mode
    return np.asarray(picture)


def png(picture: ArrayLike, redrawn: NDArray[np.bool_] | None = None) -> bytes:
    """A picture as a file, transparent where it is to be redrawn."""
    image, file = Image.fromarray(np.asarray(picture)), io.BytesIO()
    if redrawn is not None:
        image.putalpha(Image.fromarray(np.where(redrawn, 0, 255).astype(np.uint8)))
    image.save(file, "PNG")
    return file.getvalue()
