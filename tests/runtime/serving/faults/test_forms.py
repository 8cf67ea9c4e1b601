"""Forms and pictures that no client would send: an answer of 400, or a picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from talking import FORM, Part, Served, edit, form, grown, made_png, pixels, png, unharmed

NOISE = np.random.default_rng(0)
PICTURE = NOISE.integers(0, 256, (32, 32, 3), dtype=np.uint8)
HOLE = np.zeros((32, 32), np.bool_)
HOLE[8:24, 8:24] = True
CLEAR = np.dstack([PICTURE, np.where(HOLE, 0, 255).astype(np.uint8)])
OPAQUE = np.dstack([PICTURE, np.full((32, 32), 255, np.uint8)])
IMAGE, MASK = png(PICTURE), png(CLEAR)
FILES: list[Part] = [("image", IMAGE, "image.png"), ("mask", MASK, "mask.png")]
WHOLE: list[Part] = [*FILES, ("prompt", "3", None), ("seed", "1", None)]


def saved(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, form, **options)
    return file.getvalue()


def other(**values: str | bytes) -> list[Part]:
    """The whole form with other values, or fields beside them."""
    known = {name for name, _, _ in WHOLE}
    extra: list[Part] = [(name, value, None) for name, value in values.items() if name not in known]
    return [(name, values.get(str(name), value), file) for name, value, file in WHOLE] + extra


BODIES: dict[str, tuple[bytes, str, int]] = {
    "whole": (form(*WHOLE), FORM, 200),
    "image[]": (form(("image[]", IMAGE, "a"), *WHOLE[1:]), FORM, 200),
    "no boundary": (form(*WHOLE), "multipart/form-data", 400),
    "an empty boundary": (form(*WHOLE), "multipart/form-data; boundary=", 400),
    "another boundary": (form(*WHOLE), "multipart/form-data; boundary=YY", 400),
    "a boundary of 1000 letters": (form(*WHOLE), f"multipart/form-data; boundary={'x' * 1000}", 400),
    "a boundary in RFC 5987": (form(*WHOLE), "multipart/form-data; boundary*=utf-8''%ff", 400),
    "half": (form(*WHOLE)[:300], FORM, 400),
    "nothing": (b"", FORM, 400),
    "the end alone": (b"--XX--\r\n", FORM, 400),
    "bytes": (bytes(range(256)) * 10, FORM, 400),
    "line feeds alone": (form(*WHOLE).replace(b"\r\n", b"\n"), FORM, 400),
    "a part of no name": (b"--XX\r\nContent-Disposition: form-data\r\n\r\n3\r\n--XX--\r\n", FORM, 400),
    "a part of no disposition": (b"--XX\r\nX: y\r\n\r\n3\r\n--XX--\r\n", FORM, 400),
    "a part of 10,000 headers": (b"--XX\r\n" + b"X: y\r\n" * 10_000 + b"\r\n3\r\n--XX--\r\n", FORM, 400),
    "a part of a header of 100,000 bytes": (b"--XX\r\nX: " + b"y" * 100_000 + b"\r\n\r\n3\r\n--XX--\r\n", FORM, 400),
    "no image": (form(*WHOLE[1:]), FORM, 400),
    "no mask": (form(WHOLE[0], *WHOLE[2:]), FORM, 400),
    "no prompt": (form(*FILES), FORM, 400),
    "an image that is no file": (form(("image", IMAGE, None), *WHOLE[1:]), FORM, 400),
    "a mask that is no file": (form(WHOLE[0], ("mask", "x", None), *WHOLE[2:]), FORM, 400),
    "a prompt that is a file": (form(*FILES, ("prompt", "3", "prompt.txt")), FORM, 400),
    "an image twice": (form(*WHOLE, WHOLE[0]), FORM, 400),
    "a prompt twice": (form(*WHOLE, WHOLE[2]), FORM, 400),
    "1000 fields": (form(*WHOLE, *((f"f{i}", "1", None) for i in range(1000))), FORM, 400),
    "30 fields": (form(*WHOLE, *((f"f{i}", "1", None) for i in range(30))), FORM, 400),
    "1000 files": (form(*WHOLE, *((f"f{i}", "1", "f") for i in range(1000))), FORM, 400),
    "a field of 70,000 bytes": (form(*other(user="x" * 70_000)), FORM, 400),
    "names with paths": (form(("image", IMAGE, "../../etc/passwd"), ("mask", MASK, "/etc/shadow"), *WHOLE[2:]), FORM, 200),
    "names that are none": (form(("image", IMAGE, b"a\0b"), ("mask", MASK, b"\xff\xfe"), *WHOLE[2:]), FORM, 200),
    "a field's name with a null byte": (form(*WHOLE, (b"us\0er", "x", None)), FORM, 400),
    "a field's name of no UTF-8": (form(*WHOLE, (b"\xff\xfe", "x", None)), FORM, 400),
    "a prompt of no UTF-8": (form(*other(prompt=b"\xff\xfe")), FORM, 400),
    "JSON": (b'{"prompt":3}', "application/json", 415),
    "a form of the other kind": (b"prompt=3", "application/x-www-form-urlencoded", 415),
    "no kind": (form(*WHOLE), "", 415),
}
VALUES = [
    *(("n", text, 400) for text in ("nan", "1.5", "true", " 2 ", "9" * 10_000, "0", "-1", "11", "")),
    *(("seed", text, 400) for text in ("-2", str(2**64), "nan", "", "9" * 10_000, "[1]")),
    *(("cfg", text, 400) for text in ("nan", "inf", "-inf", "1e400", "9" * 10_000, "")),
    *(("temperature", text, 400) for text in ("[", "[1]", "[NaN]", "nan", "[" * 60_000, "{}", '"1"')),
    *(("n_draft", text, 400) for text in ("[1]", "x", "{", '{"min":1}', "7", "nan", '{"min":5,"max":2}')),
    *(("prompt", text, 400) for text in ("3.0", "", "11", "three\0", "\u202e3", "x" * 31_000)),
    *(("stream", text, 400) for text in ("maybe", "2", "")),
    *(("more_smooth", text, 400) for text in ("yes", "2")),
    ("partial_images", "1", 400),
    ("prompt", "three", 200),
    ("temperature", "[1,1,1,1,1,1]", 200),
    ("n_draft", '{"min":2,"max":4}', 200),
]
PICTURES: dict[str, tuple[dict[str, bytes], int]] = {
    "no picture": ({"image": b"hello"}, 400),
    "an empty picture": ({"image": b""}, 400),
    "an empty mask": ({"mask": b""}, 400),
    "a GIF": ({"image": saved("GIF")}, 400),
    "a TIFF": ({"image": saved("TIFF")}, 400),
    "a page": ({"image": b"<html>"}, 400),
    "a JPEG": ({"image": saved("JPEG")}, 200),
    "a JPEG as a mask": ({"mask": saved("JPEG")}, 400),
    "50,000×50,000 pixels": ({"image": made_png(50_000, 50_000)}, 400),
    "a mask of 50,000×50,000 pixels": ({"mask": made_png(50_000, 50_000)}, 400),
    "2^31 × 2^31 pixels": ({"image": made_png(2**31 - 1, 2**31 - 1)}, 400),
    "5000×5000 pixels": ({"image": made_png(5000, 5000)}, 400),
    "5000×5000 pixels, cut off": ({"image": made_png(5000, 5000, ended=False)}, 400),
    "no pixels": ({"image": made_png(0, 32)}, 400),
    "8000×1 pixels": ({"image": made_png(8000, 1, bytes(40_000)), "mask": MASK}, 200),
    "a depth of 7": ({"image": made_png(32, 32, bytes(9999), depth=7)}, 400),
    "cut off": ({"image": IMAGE[:-200]}, 400),
    "a wrong checksum": ({"image": IMAGE[:60] + b"\xff" + IMAGE[61:]}, 400),
    "bytes behind": ({"image": IMAGE + b"junk" * 50}, 200),
    "16 bits": ({"image": png(NOISE.integers(0, 1 << 16, (32, 32)).astype(np.uint16))}, 200),
    "16 bits a colour": ({"image": made_png(32, 32, bytes(193 * 32), depth=16, colour=2)}, 200),
    "with transparency": ({"image": MASK}, 200),
    "a mask of half the size": ({"mask": png(CLEAR[:16, :16])}, 400),
    "a mask of twice the size": ({"mask": png(CLEAR.repeat(2, 0).repeat(2, 1))}, 400),
    "a mask without transparency": ({"mask": IMAGE}, 400),
    "a grey mask": ({"mask": png(PICTURE[..., 0])}, 400),
    "a mask that is opaque": ({"mask": png(OPAQUE)}, 400),
    "a mask that is clear": ({"mask": png(CLEAR * 0)}, 200),
    "a grey that stands for transparency": ({name: png(PICTURE[..., 0], transparency=9) for name in ("image", "mask")}, 200),
}
DAMAGED = {
    "other bytes": MASK[: MASK.index(b"IDAT") + 20] + bytes(range(8)) + MASK[MASK.index(b"IDAT") + 28 :],
    "no data": made_png(32, 32),
    "too few data": made_png(32, 32, bytes(100)),
    "a filter that there is not": made_png(32, 32, b"\x09" * 129 * 32),
}
CHARSETS = ["idna", "hex", "utf-16", "utf-7", "unicode_escape", "x", "", '"', "base64", "\xff"]


@pytest.mark.parametrize("name", BODIES)
def test_bodies(service: Served, name: str) -> None:
    body, kind, expected = BODIES[name]
    with unharmed(service):
        found = edit(service.url, body, kind)
        assert found.status == expected, found
        if expected != 200:
            message = found.json["error"]["message"]
            assert len(message) <= 2000 and message.isprintable() and "/tmp" not in message


@pytest.mark.parametrize(("field", "text", "expected"), VALUES, ids=[f"{name}={text[:20]!r}" for name, text, _ in VALUES])
def test_values(service: Served, field: str, text: str, expected: int) -> None:
    with unharmed(service):
        assert edit(service.url, form(*other(**{field: text}))).status == expected


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(service: Served, name: str) -> None:
    given, expected = PICTURES[name]
    with unharmed(service):
        found = edit(service.url, form(*other(**given)))
        assert found.status == expected, found
        assert "/tmp" not in found.body.decode()


@pytest.mark.parametrize("charset", [*CHARSETS, "undefined", "punycode"])
def test_charsets(service: Served, charset: str) -> None:
    found = edit(service.url, form(*other(user="é\\ud800")), f"{FORM}; charset={charset}")
    assert found.status in (200, 400), found


@pytest.mark.parametrize("field", ["\\ud800", "seed"])
def test_half_a_surrogate_pair(service: Served, field: str) -> None:
    """Forms cannot say it in UTF-8; some of Python's other charsets can."""
    assert edit(service.url, form(*other(**{field: "\\ud800"})), f"{FORM}; charset=unicode_escape").status == 400


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pictures(service: Served, name: str) -> None:
    with unharmed(service):
        assert edit(service.url, form(*other(image=DAMAGED[name]))).status == 400


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_masks(service: Served, name: str) -> None:
    assert edit(service.url, form(*other(mask=DAMAGED[name]))).status == 400


def test_temperature_and_a_list_of_temperatures(service: Served) -> None:
    assert edit(service.url, form(*WHOLE, ("temperature", "1", None), ("temperature[]", "1", None))).status == 400


def test_a_picture_and_its_mask_are_turned_alike(service: Served) -> None:
    """Taken with a camera on its side: both are turned by a quarter, and all but the hole is kept."""
    hole = np.zeros((32, 32), np.bool_)
    hole[:8] = True
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = np.dstack([PICTURE, np.where(hole, 0, 255).astype(np.uint8)])
    found = edit(service.url, form(*other(image=saved("PNG", exif=turned), mask=png(clear, exif=turned))))
    drawn = pixels(found.json["data"][0]["b64_json"])
    assert (drawn[~np.rot90(hole, -1)] == np.rot90(PICTURE, -1)[~np.rot90(hole, -1)]).all()


def test_a_cut_picture_of_64_million_pixels_is_refused_before_it_is_decoded(service: Served) -> None:
    large = made_png(8000, 8000, bytes(32_001 * 8000), ended=False)
    assert len(large) < 1 << 20
    assert grown(service, lambda: edit(service.url, form(*other(image=large)))) < 100e6


def test_a_picture_after_all_that(service: Served) -> None:
    with unharmed(service):
        found = edit(service.url, form(*WHOLE)).json["data"][0]
    drawn = pixels(found["b64_json"])
    assert (drawn[~HOLE] == PICTURE[~HOLE]).all() and (drawn[HOLE] != PICTURE[HOLE]).any()
