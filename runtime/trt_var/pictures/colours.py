"""Colours of a picture file as 8 bits a channel of sRGB, which is what models were trained on."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_var.errors import printable

if TYPE_CHECKING:
    from PIL.Image import Image

Changes = dict[str, str]  # kind → what was done, for people
PLAIN = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}  # mode → its colours without transparency, if not RGB
SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
SIXTEEN = {"I", "I;16", "I;16B", "I;16L"}
TOP, STEP = 65535, 257
DIM = 4096
ALIKE = 3  # of 255: profiles that differ from sRGB by less are sRGB
SHOWN = 60


def eight_bits(image: Image, changes: Changes) -> Image:
    """Grey of 16 bits scaled to 8; any other picture as it is."""
    from PIL import Image as Images

    if image.mode not in SIXTEEN:
        return image
    values = np.clip(np.asarray(image), 0, TOP).astype(np.uint32)
    brightest = int(values.max(initial=0))
    dim = f"; its brightest value is {brightest} of {TOP}" if brightest < DIM else ""
    changes["16 bits"] = f"16 bits a channel scaled to 8{dim}"
    scaled = Images.fromarray(((values + STEP // 2) // STEP).astype(np.uint8))
    scaled.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return scaled


def layers(image: Image) -> tuple[Image, Image | None]:
    """Colours (L, RGB or CMYK) with their transparency where there is some: L of the same size, else None."""
    plain = PLAIN.get(image.mode, "RGB")
    if not image.has_transparency_data:
        return image.convert(plain), None
    full = image.convert("RGBA")
    alpha = full.getchannel("A")
    colours = full.convert("RGB") if plain == "RGB" else image.convert(plain)
    colours.info.pop("transparency", None)  # which is in alpha now; a grey one would not outlive further conversions
    return colours, None if alpha.getextrema()[0] == 255 else alpha


def to_srgb(image: Image, profile: bytes | None, changes: Changes) -> Image:
    """L, RGB or CMYK → RGB, by the colour profile of its file if there is one that says something else."""
    if profile:
        try:
            return _converted(image, profile, changes)
        except ImportError:
            changes["profile"] = "its colour profile left aside: this Pillow was built without LittleCMS"
        except Exception as error:  # whatever LittleCMS says about damaged profiles
            reason = printable(str(error).strip() or type(error).__name__)[:SHOWN]
            changes["profile"] = f"its colour profile left aside, which cannot be used ({reason})"
    if image.mode == "CMYK" and "profile" not in changes:
        changes["profile"] = "CMYK without a colour profile converted plainly"
    return image.convert("RGB")


def _converted(image: Image, data: bytes, changes: Changes) -> Image:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    space = profile.profile.xcolor_space.strip()
    if image.mode == "L" and space == "RGB":
        image = image.convert("RGB")
    if SPACES[image.mode] != space:
        raise ValueError(f"it is of {space}, the picture of {SPACES[image.mode]}")
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), image.mode, "RGB")
    if image.mode != "CMYK" and _is_srgb(transform, image.mode):
        return image.convert("RGB")
    name = printable(str(ImageCms.getProfileDescription(profile)).strip())[:SHOWN]
    changes["profile"] = f"colours brought from {name or 'its own profile'} to sRGB"
    return _applied(transform, image)


def _is_srgb(transform: Any, mode: str) -> bool:
    """Whether a transform leaves colours as they are, whatever its profile is called."""
    from PIL import Image as Images

    steps = np.linspace(0, 255, 6).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(6, 36, 3)
    given = Images.fromarray(cube if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    found, same = np.asarray(_applied(transform, given), int), np.asarray(given.convert("RGB"), int)
    return bool(np.abs(found - same).max() <= ALIKE)


def _applied(transform: Any, image: Image) -> Image:
    from PIL import ImageCms

    found = ImageCms.applyTransform(image, transform)
    if found is None:
        raise ValueError("nothing came of it")
    return found
