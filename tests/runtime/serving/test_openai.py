"""The stock ``openai`` client gets the pictures that the pipeline draws, and finds every answer well-typed."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clients import OpenAI, module, opened, pixels, png
from helpers import assert_close
from trt_var import Pipeline, Sampling
from trt_var.decoding.sampling import preset

openai = module("openai")

COOLING = (1.0, 1.0, 1.0, 0.9, 0.8, 0.7)
SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"n_draft": 0}, {"n_draft": 0}),
    ({"n_draft": 6}, {"n_draft": 6}),
    ({"n_draft": "auto"}, {}),
    ({"n_draft": {"min": 2, "max": 3}}, {"n_draft": 3}),
    ({"cfg": 2.5, "top_k": 20, "top_p": 0.9}, {"sampling": Sampling(cfg=2.5, top_k=20, top_p=0.9)}),
    ({"guidance_scale": 3, "guided_scales": 3}, {"sampling": Sampling(cfg=3, guided_scales=3)}),
    ({"temperature": COOLING}, {"sampling": Sampling(temperature=COOLING)}),
    ({"temperature": 0.7, "scales": 4, "n_draft": 2}, {"sampling": Sampling(temperature=0.7, scales=4), "n_draft": 2}),
    ({"more_smooth": True, "n_draft": 3}, {"sampling": Sampling(more_smooth=True), "n_draft": 3}),
    ({"preset": "code"}, {"sampling": "code"}),
    ({"preset": "var", "cfg": 4.0}, {"sampling": replace(preset("var", 6, 256), cfg=4.0)}),
]
PREVIEW = {"type", "b64_json", "partial_image_index", "created_at", "size", "quality", "background", "output_format"}
PREVIEW |= {"scale", "scales", "role", "seed", "label", "n_draft"}
COMPLETED = PREVIEW - {"partial_image_index"} | {"usage", "revised_prompt", "model", "backend", "reproducible", "timing"}


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def client(service: Any, request: pytest.FixtureRequest) -> OpenAI:
    return OpenAI(service.url, request.param, max_retries=0)


@pytest.fixture(scope="module")
def three(digits: Pipeline) -> NDArray[np.uint8]:
    """A picture to edit [32, 32, 3]."""
    return digits.generate(3, seeds=7, n_draft=4).images[0]


def region(side: int = 32) -> NDArray[np.bool_]:
    """A part that lies off the middle, to see which way round it is."""
    found = np.zeros((side, side), bool)
    found[side // 4 :, side // 2 :] = True
    return found


def assert_told(found: Any, n_draft: int, images: int = 1) -> None:
    """What every answer says of how it was drawn, but for events."""
    usage = found.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (0, 130 * images, 130 * images)
    assert (usage.input_tokens_details.image_tokens, usage.input_tokens_details.text_tokens) == (0, 0)
    assert (found.model, found.n_draft, found.reproducible) == ("digits", n_draft, "tokens")
    assert found.backend.startswith("ONNX Runtime")
    assert found.timing["queue_s"] >= 0 and 0 < found.timing["draw_s"] < 60
    assert (found.background, found.output_format, found.size) == ("opaque", "png", "32x32")


@pytest.mark.parametrize(("given", "meant"), SETTINGS, ids=[json.dumps(given) for given, _ in SETTINGS])
def test_settings_draw_the_pipelines_picture(
    client: OpenAI, digits: Pipeline, given: dict[str, Any], meant: dict[str, Any]
) -> None:
    before = int(time.time())
    answer = client("images.generate", prompt="3", model="digits", extra_body={"seed": 7, **given})
    if isinstance(given.get("n_draft"), dict):  # the load decides, on a busy machine for less
        assert given["n_draft"]["min"] <= answer.n_draft <= given["n_draft"]["max"]
        meant = {"n_draft": answer.n_draft}
    expected = digits.generate(3, seeds=7, **{"n_draft": 4, **meant})
    (image,) = answer.data
    assert before <= answer.created <= time.time()
    assert (image.seed, image.label, image.revised_prompt, image.url) == (7, 3, "3: three", None)
    assert_close(pixels(image.b64_json), expected.images[0], absolute=1)
    if "scales" not in given:
        assert_told(answer, meant.get("n_draft", 4))
    assert answer.usage.output_tokens == expected.tokens.size


@pytest.mark.parametrize("prompt", ["seven", "7", " SEVEN "])
def test_several_have_consecutive_seeds(client: OpenAI, digits: Pipeline, prompt: str) -> None:
    answer = client("images.generate", prompt=prompt, n=3, size="32x32", quality="standard", extra_body={"seed": 2**64 - 3})
    seeds = [2**64 - 3, 2**64 - 2, 2**64 - 1]
    assert [image.seed for image in answer.data] == seeds
    assert {(image.label, image.revised_prompt) for image in answer.data} == {(7, "7: seven")}
    found = np.stack([pixels(image.b64_json) for image in answer.data])
    assert_close(found, digits.generate([7] * 3, seeds=seeds, n_draft=4).images, absolute=1)
    assert_told(answer, 4, images=3)


def test_ten_at_most_and_no_class_in_particular(client: OpenAI, digits: Pipeline) -> None:
    answer = client("images.generate", prompt="-1", n=10, extra_body={"seed": 0, "n_draft": 5})
    assert {(image.label, image.revised_prompt) for image in answer.data} == {(10, "10: no class in particular")}
    found = np.stack([pixels(image.b64_json) for image in answer.data])
    assert_close(found, digits.generate([-1] * 10, seeds=0, n_draft=5).images, absolute=1)


@pytest.mark.parametrize(("form", "quality"), [("png", None), ("jpeg", None), ("jpeg", 20), ("webp", 100), ("webp", 50)])
def test_formats(client: OpenAI, form: str, quality: int | None) -> None:
    options = {} if quality is None else {"output_compression": quality}
    plain = client("images.generate", prompt="3", extra_body={"seed": 7}).data[0]
    answer = client("images.generate", prompt="3", output_format=form, **options, extra_body={"seed": 7})
    found, expected = opened(answer.data[0].b64_json), io.BytesIO()
    options = {} if form == "png" else {"quality": quality or 100}
    opened(plain.b64_json).save(expected, form, **options)
    assert (answer.output_format, found.format, found.size) == (form, form.upper(), (32, 32))
    assert_close(np.asarray(found), np.asarray(Image.open(expected)))


def test_random_seeds_are_told_and_draw_the_same_again(client: OpenAI) -> None:
    first, second, third = (
        client("images.generate", prompt="3", extra_body=extra) for extra in ({}, {"seed": -1}, {"seed": None})
    )
    assert len({answer.data[0].seed for answer in (first, second, third)}) == 3
    for answer in (first, second):
        again = client("images.generate", prompt="3", extra_body={"seed": answer.data[0].seed})
        assert_close(pixels(again.data[0].b64_json), pixels(answer.data[0].b64_json), absolute=1)


@pytest.mark.parametrize("n_draft", [0, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_stream_shows_what_the_pipelines_does(client: OpenAI, digits: Pipeline, count: int, n_draft: int) -> None:
    events = client(
        "images.generate", prompt="3", stream=True, partial_images=count, extra_body={"seed": 7, "n_draft": n_draft}
    )
    expected = list(digits.stream(3, seeds=7, n_draft=n_draft))
    *previews, last = events
    assert [event.partial_image_index for event in previews] == list(range(count))
    assert [event.scale for event in previews] == {0: [], 1: [2], 2: [1, 3], 5: [0, 1, 2, 3, 4]}[count]
    for event in previews:
        shown = expected[event.scale]
        assert set(event.model_dump()) == PREVIEW and event.type == "image_generation.partial_image"
        assert (event.scales, event.role, event.n_draft) == (6, shown.role, n_draft)
        assert_close(pixels(event.b64_json), shown.images[0], absolute=1)
    assert set(last.model_dump()) - {"safety_identifier"} == COMPLETED and last.type == "image_generation.completed"
    assert (last.scale, last.scales, last.role, last.revised_prompt) == (5, 6, "refiner", "3: three")
    assert_told(last, n_draft)
    assert_close(pixels(last.b64_json), digits.generate(3, seeds=7, n_draft=n_draft).images[0], absolute=1)
    for event in events:
        assert (event.seed, event.label, event.size, event.quality, event.background) == (7, 3, "32x32", "auto", "opaque")
        assert abs(event.created_at - time.time()) < 60 and event.output_format == "png"


def test_previews_lie_evenly_and_have_the_format_that_was_asked_for(client: OpenAI) -> None:
    extra = {"scales": 4, "n_draft": 1}
    events = client(
        "images.generate", prompt="3", stream=True, partial_images=2, output_format="webp", n=1, extra_body=extra
    )
    assert [(event.scale, event.scales, event.role) for event in events] == [
        (0, 4, "drafter"),
        (2, 4, "refiner"),
        (3, 4, "refiner"),
    ]
    assert {opened(event.b64_json).format for event in events} == {"WEBP"}
    assert len({event.seed for event in events}) == 1


def test_a_stream_comes_while_it_is_drawn(service: Any) -> None:
    """All of it would be there at once if something on the way waited for its end."""

    def apart() -> float:
        """How far the first preview and the end lie apart, as a share of the time that drawing took."""
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
            events = client.images.generate(prompt="3", stream=True, partial_images=5, extra_body={"n_draft": 0})
            arrivals = [(time.monotonic(), event) for event in events]
        return float((arrivals[-1][0] - arrivals[0][0]) / arrivals[-1][1].timing["draw_s"])

    assert max(apart() for _ in range(5)) > 0.3


@pytest.mark.parametrize("how", ["bytes", "named", "file", "list"])
def test_an_edit_is_the_pipelines(client: OpenAI, digits: Pipeline, three: Any, how: str, tmp_path: Any) -> None:
    path = tmp_path / "three.png"
    path.write_bytes(png(three))
    image = {"bytes": png(three), "named": ("three.png", png(three), "image/png"), "file": path, "list": [png(three)]}[how]
    mask = png(three, region())
    answer = client("images.edit", image=image, mask=mask, prompt="five", n=2, extra_body={"seed": 11, "n_draft": 3})
    expected = digits.inpaint(three, region(), [5, 5], seeds=11, n_draft=3)
    assert [(one.seed, one.label, one.revised_prompt) for one in answer.data] == [(11, 5, "5: five"), (12, 5, "5: five")]
    found = np.stack([pixels(one.b64_json) for one in answer.data])
    assert_close(found[:, ~region()], np.broadcast_to(three[~region()], (2, *three[~region()].shape)))
    assert_close(found, expected.images, absolute=1)
    assert_told(answer, 3, images=2)


def test_an_edit_takes_all_settings(client: OpenAI, digits: Pipeline, three: Any) -> None:
    """A form has no numbers and no lists: what has structure is JSON."""
    extra = {"seed": 2**64 - 1, "n_draft": json.dumps({"min": 0, "max": 2}), "temperature": json.dumps(COOLING)}
    extra |= {"cfg": 2.5, "top_k": 30, "top_p": 0.9, "guided_scales": 4}
    answer = client("images.edit", image=png(three), mask=png(three, region()), prompt="8", n=1, extra_body=extra)
    sampling = Sampling(cfg=2.5, top_k=30, top_p=0.9, guided_scales=4, temperature=COOLING)
    expected = digits.inpaint(three, region(), 8, seeds=2**64 - 1, n_draft=2, sampling=sampling)
    assert_close(pixels(answer.data[0].b64_json), expected.images[0], absolute=1)


def test_a_larger_picture_is_cropped_and_brought_to_size(client: OpenAI, digits: Pipeline, tmp_path: Any) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    large = np.asarray(Image.fromarray(colours).resize((96, 64), Image.Resampling.BICUBIC))
    redrawn = np.zeros((64, 96), bool)
    redrawn[:32, :48] = True
    for name, file in (("image.png", png(large)), ("mask.png", png(np.where(redrawn, 255, 0).astype(np.uint8)))):
        (tmp_path / name).write_bytes(file)
    expected = digits.inpaint(tmp_path / "image.png", tmp_path / "mask.png", 5, seeds=7, n_draft=4)
    answer = client("images.edit", image=png(large), mask=png(large, redrawn), prompt="5", extra_body={"seed": 7})
    assert answer.size == "32x32"
    assert_close(pixels(answer.data[0].b64_json), expected.images[0], absolute=1)


@pytest.mark.parametrize("count", [0, 2])
def test_an_edit_is_streamed(client: OpenAI, digits: Pipeline, three: Any, count: int) -> None:
    files = {"image": png(three), "mask": png(three, region())}
    extra = {"seed": 7, "n_draft": 3}
    *previews, last = client("images.edit", **files, prompt="5", stream=True, partial_images=count, extra_body=extra)
    assert len(previews) == count
    for index, event in enumerate(previews):
        assert set(event.model_dump()) == PREVIEW and event.type == "image_edit.partial_image"
        assert (event.partial_image_index, event.scales, event.n_draft, event.seed, event.label) == (index, 6, 3, 7, 5)
        assert event.role == ("drafter" if event.scale < 3 else "refiner")
        assert_close(pixels(event.b64_json)[~region()], three[~region()])
    assert len({event.b64_json for event in (*previews, last)}) == count + 1
    assert set(last.model_dump()) - {"safety_identifier"} == COMPLETED and last.type == "image_edit.completed"
    assert_told(last, 3)
    assert_close(pixels(last.b64_json), digits.inpaint(three, region(), 5, seeds=7, n_draft=3).images[0], absolute=1)


def test_models(client: OpenAI) -> None:
    listed = client("models.list")
    (model,) = listed.data
    assert listed.object == "list" and client("models.retrieve", model="digits") == model
    assert (model.id, model.object, model.owned_by) == ("digits", "model", "trt-var") and model.created <= time.time()
    assert model.n_draft == {"default": 4, "serves": [0, 1, 2, 3, 4, 5, 6], "floor": 4, "ceiling": 4, "auto": False}
    assert (model.size, model.scales, model.schedule, model.classes) == ("32x32", 6, [1, 2, 3, 4, 6, 8], 10)
    assert (model.max_images, model.batch, model.exact, model.reproducible) == (10, 8, True, "tokens")
    assert (model.more_smooth, model.max_top_k, model.presets[0]) == (True, 256, "default")
    assert model.backend.startswith("ONNX Runtime") and model.seconds["4"] > 0


def test_many_at_once_share_a_client(service: Any, digits: Pipeline) -> None:
    """Of different classes, seeds, N and settings; each gets its own."""
    asked = [(label, 100 + label, n_draft) for label in range(10) for n_draft in (2, 4)]

    async def ask_all() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
            draws = [
                client.images.generate(prompt=str(label), extra_body={"seed": seed, "n_draft": n, "cfg": 1 + label / 4})
                for label, seed, n in asked
            ]
            return await asyncio.gather(*draws)

    for (label, seed, n), answer in zip(asked, asyncio.run(ask_all()), strict=True):
        expected = digits.generate(label, seeds=seed, n_draft=n, sampling=Sampling(cfg=1 + label / 4))
        assert (answer.data[0].label, answer.data[0].seed, answer.n_draft) == (label, seed, n)
        assert_close(pixels(answer.data[0].b64_json), expected.images[0], absolute=1)


def test_bytes_as_they_come(client: OpenAI) -> None:
    """Headers of an answer, by the client's raw answers."""
    raw = client("images.with_raw_response.generate", prompt="3", extra_headers={"X-Request-ID": "mine-1"})
    assert raw.headers["content-type"] == "application/json" and raw.headers["x-request-id"] == "mine-1"
    assert raw.retries_taken == 0
    answer = raw.parse()
    assert answer._request_id == "mine-1" and base64.b64decode(answer.data[0].b64_json).startswith(b"\x89PNG")
