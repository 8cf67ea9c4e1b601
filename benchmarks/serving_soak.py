"""Memory and open files of the service over many requests: ``python benchmarks/serving_soak.py --out docs/serving-soak``.

Starts ``trt-var serve`` and sends it requests of every kind over connections that are kept: images of 1 to 4, tensors,
edits, streams, clients that go, and rubbish, with N, classes, seeds and settings at random. Notes every few seconds what is
resident and how many files are open. Writes JSON and a plot, and prints the slope of the memory. Fails where the median of
the last quarter is more than 2 % above that of the second, where files stay open, where an answer is not what it must be,
and where the service complains of anything.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import io
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import aiohttp
import numpy as np
import psutil
from PIL import Image
from tqdm import tqdm

from trt_var.serving.load.rubbish import KINDS

ALLOWED, FILES = 1.02, 8  # growth of the medians; files that may be open at the end beside those of the beginning
SHARES = {"images": 60, "stream": 12, "tensors": 8, "edit": 5, "gone": 8, "rubbish": 7}
IDLE, PATIENCE = 2.0, 120.0  # seconds that connections are kept, less than the service keeps them; that an answer may take
GENERATIONS, EDITS, TENSORS = "/v1/images/generations", "/v1/images/edits", "/v2/models/{}/infer"


def main() -> None:
    options = parser().parse_args()
    with tempfile.TemporaryFile("w+") as log:
        with serving(options, log) as (process, url):
            found = asyncio.run(Soak(options, process, url).run())
        log.seek(0)
        found["complaints"] = [line.strip()[:500] for line in log if '"level":"error"' in line.replace(" ", "")]
    found |= plateau(found["samples"])
    print(json.dumps({name: value for name, value in found.items() if name != "samples"}, indent=1))
    print(
        f"slope: {found['bytes a request']:+.1f} bytes a request, {found['growth']:+.2%} from the second quarter to the last"
    )
    options.out.with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")
    plot(found["samples"], options.out.with_suffix(".png"))
    if trouble := "; ".join(troubles(found)):
        sys.exit(trouble)


@contextmanager
def serving(options: argparse.Namespace, log: IO[str]) -> Iterator[tuple[psutil.Process, str]]:
    """The service, on any free port; it has to end well."""
    given = ["--engines", options.engines, "--backend", options.backend, "--port", "0", "--log-format", "json"]
    given += ["--max-waiting", "1000", *([] if options.threads is None else ["--threads", str(options.threads)])]
    command = [sys.executable, "-m", "trt_var", "serve", *given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        if not url:
            log.seek(0)
            sys.exit(log.read())
        try:
            yield psutil.Process(process.pid), url
        finally:
            process.send_signal(signal.SIGTERM)
            if process.wait(60):
                sys.exit(f"the service ended with {process.returncode}")


class Soak:
    """Requests of all kinds, so many at a time, and samples of the process that answers them."""

    def __init__(self, options: argparse.Namespace, process: psutil.Process, url: str) -> None:
        self._options, self._process, self._url = options, process, url
        self._chance = random.Random(options.seed)
        self._begun = self._ended = self._drawn = 0
        self._outcomes: collections.Counter[str] = collections.Counter()
        self._wrong: list[str] = []
        self._samples: list[dict[str, float]] = []
        self._model: dict[str, Any] = {}
        kinds = (self._images, self._stream, self._tensors, self._edit, self._gone, self._rubbish)
        self._kinds = {kind.__name__[1:]: kind for kind in kinds}

    async def run(self) -> dict[str, Any]:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE)
        limits = aiohttp.ClientTimeout(total=PATIENCE)
        files, started = self._process.num_fds(), time.monotonic()
        async with aiohttp.ClientSession(self._url, connector=connector, timeout=limits) as client:
            async with client.get("/v1/models") as answer:
                self._model = (await answer.json())["data"][0]
            watching = asyncio.create_task(self._watch())
            with tqdm(total=self._options.requests, unit="request", disable=None) as bar:
                await asyncio.gather(*(self._work(client, bar) for _ in range(self._options.concurrency)))
            watching.cancel()
            seconds = time.monotonic() - started
            await asyncio.sleep(1)  # for those who went
            left = await self._left(client)
        await asyncio.sleep(1)
        self._sample()
        told = {
            "backend": self._model["backend"],
            "seed": self._options.seed,
            "requests": self._ended,
            "images": self._drawn,
        }
        told |= {"seconds": seconds, "outcomes": dict(sorted(self._outcomes.items())), "wrong": self._wrong, "left": left}
        return told | {"files": {"first": files, "last": self._process.num_fds()}, "samples": self._samples}

    async def _watch(self) -> None:
        while True:
            self._sample()
            await asyncio.sleep(self._options.interval)

    def _sample(self) -> None:
        with self._process.oneshot():
            now: dict[str, float] = {"requests": self._ended, "resident": self._process.memory_info().rss}
            now |= {"files": self._process.num_fds()}
            self._samples.append(now | {"threads": self._process.num_threads()})

    async def _left(self, client: aiohttp.ClientSession) -> float:
        """Images that still wait or are drawn."""
        async with client.get("/metrics") as answer:
            lines = [line.rpartition(" ") for line in (await answer.text()).splitlines()]
        return sum(float(value) for name, _, value in lines if name in ("trt_var_queue_images", "trt_var_running_images"))

    async def _work(self, client: aiohttp.ClientSession, bar: tqdm[Any]) -> None:
        while self._begun < self._options.requests:
            self._begun += 1
            [name] = self._chance.choices(list(SHARES), list(SHARES.values()))
            try:
                outcome = await self._kinds[name](client)
            except (aiohttp.ClientError, asyncio.TimeoutError, AssertionError, LookupError, ValueError) as error:
                outcome = "wrong"
                self._wrong.append(f"{name}: {type(error).__name__}: {error}"[:300])
            self._outcomes[f"{name}: {outcome}"] += 1
            self._ended += 1
            bar.update()

    def _asked(self, most: int = 4) -> dict[str, Any]:
        """A request for images, as JSON."""
        chance, model = self._chance, self._model
        found = {
            "prompt": chance.randrange(model["classes"]),
            "seed": chance.randrange(1 << 32),
            "n": chance.randint(1, most),
        }
        found["n_draft"] = chance.choice([*model["n_draft"]["serves"], "auto", {"min": 1, "max": 4}])
        if chance.random() < 0.3:
            found |= {
                "cfg": chance.choice([0, 1, 3.5]),
                "top_k": chance.choice([1, 50]),
                "temperature": chance.uniform(0.8, 1.2),
            }
        if chance.random() < 0.2:
            found["scales"] = chance.randint(1, model["scales"])
        return found | {"output_format": chance.choice(["png", "png", "jpeg", "webp"])}

    def _check(self, asked: dict[str, Any], told: dict[str, Any]) -> None:
        expected = [(asked["prompt"], asked["seed"] + i) for i in range(asked["n"])]
        assert [(one["label"], one["seed"]) for one in told["data"]] == expected, "other pictures than were asked for"
        for one in told["data"]:
            Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).load()
        self._drawn += len(expected)

    async def _images(self, client: aiohttp.ClientSession) -> str:
        asked = self._asked()
        async with client.post(GENERATIONS, json=asked) as answer:
            if answer.status == 200:
                self._check(asked, await answer.json())
            return str(answer.status)

    async def _stream(self, client: aiohttp.ClientSession) -> str:
        asked = self._asked(most=1)
        previews = self._chance.randrange(asked.get("scales", self._model["scales"]))
        async with client.post(GENERATIONS, json=asked | {"stream": True, "partial_images": previews}) as answer:
            body = await answer.text()
        events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
        assert len(events) <= previews + 1, "more events than were asked for"
        self._check(asked, {"data": events[-1:]})
        return str(answer.status)

    async def _tensors(self, client: aiohttp.ClientSession) -> str:
        count = self._chance.randint(1, 4)
        labels = [self._chance.randrange(self._model["classes"]) for _ in range(count)]
        inputs = [{"name": "label", "shape": [count], "datatype": "INT64", "data": labels}]
        given = {"inputs": inputs, "parameters": {"binary_data_output": self._chance.random() < 0.5}}
        async with client.post(TENSORS.format(self._model["id"]), json=given) as answer:
            body = await answer.read()
        assert answer.status != 200 or len(body) > count * 3072, "no pictures"
        self._drawn += count
        return str(answer.status)

    async def _edit(self, client: aiohttp.ClientSession) -> str:
        side = self._chance.choice([32, 64, 300])
        pixels = np.random.default_rng(self._begun).integers(0, 256, (side, side, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        pixels[: side // 2, :, 3] = 0
        form = aiohttp.FormData({"prompt": "3", "seed": "1"})
        for name, part in (("image", pixels[..., :3]), ("mask", pixels)):
            file = io.BytesIO()
            Image.fromarray(part).save(file, "PNG")
            form.add_field(name, file.getvalue(), filename=f"{name}.png", content_type="image/png")
        async with client.post(EDITS, data=form) as answer:
            if answer.status == 200:
                self._check({"prompt": 3, "seed": 1, "n": 1}, await answer.json())
            return str(answer.status)

    async def _gone(self, client: aiohttp.ClientSession) -> str:
        """A client that goes after a while, or has its answer before."""
        asked = self._asked()
        if self._chance.random() < 0.5:
            asked |= {"n": 1, "stream": True}
        try:
            await asyncio.wait_for(self._read(client, asked), self._chance.expovariate(10))
        except asyncio.TimeoutError:
            return "went"
        return "answered before"

    async def _read(self, client: aiohttp.ClientSession, asked: dict[str, Any]) -> None:
        async with client.post(GENERATIONS, json=asked) as answer:
            await answer.read()

    async def _rubbish(self, client: aiohttp.ClientSession) -> str:
        body = self._chance.choice(list(KINDS.values()))
        async with client.post(GENERATIONS, data=body, headers={"Content-Type": "application/json"}) as answer:
            await answer.read()
            assert 400 <= answer.status < 500, f"rubbish is answered {answer.status}"
            return str(answer.status)


def plateau(samples: list[dict[str, float]]) -> dict[str, float]:
    """The first quarter is left out: there every shape comes for its first time. The slope is that of the second half."""
    quarter, resident = len(samples) // 4, [one["resident"] for one in samples]
    early, late = statistics.median(resident[quarter : 2 * quarter]), statistics.median(resident[-quarter:])
    half = samples[len(samples) // 2 :]
    slope = statistics.linear_regression([one["requests"] for one in half], [one["resident"] for one in half]).slope
    return {"second quarter": early, "last quarter": late, "growth": late / early - 1, "bytes a request": slope}


def troubles(found: dict[str, Any]) -> Iterator[str]:
    if found["growth"] > ALLOWED - 1:
        yield f"memory grew: {found['growth']:.1%}"
    if found["files"]["last"] > found["files"]["first"] + FILES:
        yield f"files stay open: {found['files']['last']}, {found['files']['first']} at first"
    if found["left"]:
        yield f"{found['left']:g} images wait, or are drawn, for nobody"
    if failed := [name for name in found["outcomes"] if name.endswith(": wrong") or ": 5" in name]:
        yield f"answers of {', '.join(failed)}"
    if found["complaints"]:
        yield f"{len(found['complaints'])} errors in the log, first: {found['complaints'][0]}"


def plot(samples: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    other = axes.twinx()
    requests = [one["requests"] for one in samples]
    line = axes.plot(requests, [one["resident"] / 1e6 for one in samples], lw=0.8, label="resident MB")[0]
    files = other.plot(requests, [one["files"] for one in samples], lw=0.8, ls="--", color="tab:orange", label="open files")[
        0
    ]
    for part, label in ((axes, "resident MB"), (other, "open files")):
        part.set_ylim(bottom=0)
        part.set_ylabel(label)
    axes.set_xlabel("request")
    axes.legend(handles=[line, files], fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--engines", default="digits")
    found.add_argument("--backend", default="onnxruntime")
    found.add_argument("--threads", type=int, help="of the engine (default: all that may be used)")
    found.add_argument("--requests", type=int, default=100_000)
    found.add_argument("--concurrency", type=int, default=32, metavar="n", help="requests at a time (default: %(default)s)")
    found.add_argument("--interval", type=float, default=2.0, metavar="s", help="between samples (default: %(default)g)")
    found.add_argument("--seed", type=int, default=0, help="of kinds, sizes, N, labels and settings of the requests")
    found.add_argument("--out", type=Path, default=Path("serving-soak"))
    return found


if __name__ == "__main__":
    main()
