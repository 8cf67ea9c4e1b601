"""Drawn images as files in Base64."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
SMALL = 32_768  # bytes of pixels, a millisecond's work
QUALITY = 100  # of OpenAI's output_compression, which its documents call the default


async def encoded(images: Sequence[NDArray[np.uint8]], form: str, quality: int | None) -> list[str]:
    """Files of images [H, W, 3]; made aside, unless they are so small that handing them over takes longer."""
    if sum(image.nbytes for image in images) <= SMALL:
        return [_encode(image, form, quality) for image in images]
    return await asyncio.to_thread(lambda: [_encode(image, form, quality) for image in images])


def _encode(image: NDArray[np.uint8], form: str, quality: int | None) -> str:
    file = io.BytesIO()
    options = {} if form == "png" else {"quality": QUALITY if quality is None else max(quality, 1)}
    Image.fromarray(image).save(file, format=FORMATS[form], **options)
    return base64.b64encode(file.getvalue()).decode()
