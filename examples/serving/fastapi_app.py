"""The batcher inside an app of one's own: FastAPI, a route that gives a picture, one that shows how it comes about.

    pip install "trt-var[cpu]" fastapi uvicorn
    uvicorn --app-dir examples/serving fastapi_app:app --port 8000
    curl -o seven.png "http://127.0.0.1:8000/pictures/seven?seed=7"
    curl -N "http://127.0.0.1:8000/pictures/7/steps?seed=7"          # server-sent events, one a scale

All requests of the process share the batcher: what arrives together is drawn together. TRT_VAR_ENGINES names another bundle.
"""

import base64
import io
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from numpy.typing import NDArray
from PIL import Image

from trt_var import Batcher, Batching, DeadlineError, OverloadedError, Pipeline, Preview, Served, UsageError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Pipeline.load(os.environ.get("TRT_VAR_ENGINES", "digits")) as pipeline:
        async with Batcher(pipeline, Batching(timeout=30)) as batcher:  # its end draws what was taken in
            app.state.batcher = batcher
            yield


app = FastAPI(title="Pictures", lifespan=lifespan)


@app.get("/pictures/{label}")
async def picture(request: Request, label: str, seed: int = -1, n_draft: int | None = None) -> Response:
    served = await request.app.state.batcher.generate(label, seed=seed, n_draft=n_draft)
    told = {"X-Seed": str(served.seeds[0]), "X-N-Draft": str(served.n_draft)}
    return Response(png(served.images[0]), media_type="image/png", headers=told)


@app.get("/pictures/{label}/steps")
async def steps(request: Request, label: str, seed: int = -1, n_draft: int | None = None) -> Response:
    drawn = request.app.state.batcher.stream(label, seed=seed, n_draft=n_draft)
    first = await anext(drawn)  # refusals come here, while the answer may still be an error
    return StreamingResponse(events(first, drawn), media_type="text/event-stream")


async def events(first: Preview | Served, drawn: AsyncGenerator[Preview | Served, None]) -> AsyncIterator[str]:
    async with aclosing(drawn):  # a client that goes takes its request along
        yield event(first)
        async for one in drawn:
            yield event(one)


def event(one: Preview | Served) -> str:
    name = f"scale {one.scale + 1} of {one.scales}" if isinstance(one, Preview) else "done"
    return f"event: {name}\ndata: {base64.b64encode(png(one.images[0])).decode()}\n\n"


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Large pictures take long to compress; there, call it by ``asyncio.to_thread``."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@app.exception_handler(UsageError)
async def cannot_be_meant(request: Request, error: UsageError) -> Response:
    return JSONResponse({"error": str(error)}, 400)


@app.exception_handler(OverloadedError)
async def later(request: Request, error: OverloadedError) -> Response:
    return JSONResponse({"error": str(error)}, 503, {"Retry-After": str(max(1, math.ceil(error.retry_after)))})


@app.exception_handler(DeadlineError)
async def too_late(request: Request, error: DeadlineError) -> Response:
    return JSONResponse({"error": str(error)}, 504)
