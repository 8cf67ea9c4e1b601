"""What a file is that is no picture which can be read here, told from its beginning."""

from __future__ import annotations

BEGINNING = 512  # bytes
OURS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
SAVE = "save it as PNG or JPEG"
MAGIC = {
    b"GIF8": f"a GIF; {SAVE}",
    b"BM": f"a BMP; {SAVE}",
    b"II*\0": f"a TIFF or a camera's raw file; {SAVE}",
    b"MM\0*": f"a TIFF or a camera's raw file; {SAVE}",
    b"8BPS": f"a Photoshop file; {SAVE}",
    b"\xff\x0a": f"JPEG XL; {SAVE}",
    b"\0\0\0\x0cJXL ": f"JPEG XL; {SAVE}",
    b"\0\0\0\x0cjP  ": f"JPEG 2000; {SAVE}",
    b"%PDF": f"a PDF; {SAVE}",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"\0\x05\x16\x07": "what macOS keeps about another file (AppleDouble); remove it",
    b"version https://git-lfs": "a pointer of Git LFS; run git lfs pull",
}
PHOTOGRAPHS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
HEIC = (
    "a HEIC photograph; convert it to JPEG, for one with heif-convert or sips, or have the phone save JPEG "
    "(on an iPhone: Settings, Camera, Formats, Most Compatible)"
)
TEXTS = {"<svg": f"an SVG drawing; {SAVE}", "<html": "a web page, as failed downloads are; fetch it again"}


def described(beginning: bytes) -> str | None:
    """What a file is and what to do, from its first bytes; ``None`` for what is not known."""
    if not beginning.strip(b"\0"):
        return "empty; fetch or save it again" if not beginning else "zeros, as a broken-off copy has; fetch it again"
    if found := next((name for magic, name in OURS.items() if beginning.startswith(magic)), None):
        return f"a damaged {found}; fetch or save it again"
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return "a damaged WebP; fetch or save it again"
    if beginning[4:8] == b"ftyp":
        brand = beginning[8:12]
        return HEIC if brand in PHOTOGRAPHS else f"an AVIF; {SAVE}" if brand[:3] == b"avi" else "a video; save a frame of it"
    if found := next((what for magic, what in MAGIC.items() if beginning.startswith(magic)), None):
        return found
    text = beginning.decode("utf-8", "ignore").lower()
    if found := next((what for mark, what in TEXTS.items() if mark in text), None):
        return found
    return "a web page or text; fetch it again" if text.lstrip("\ufeff \r\n\t").startswith(("<!doctype", "<?xml")) else None
