"""One batch on one pipeline, scale by scale: previews of those images alone that want them; an end when all have gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_var.backends.failures import starving
from trt_var.decoding.chain import Chain
from trt_var.decoding.feeds import Request, one_row, upload
from trt_var.decoding.loop import DecodedScale, decode, draw, render
from trt_var.pipeline import Pipeline
from trt_var.requests.checking import Run
from trt_var.requests.joining import joined
from trt_var.requests.provenance import Provenance
from trt_var.requests.results import Preview
from trt_var.serving.batching.tickets import Row


@dataclass(frozen=True)
class Drawn:
    """Images uint8 [n, H, W, 3] and tokens uint16 [n, L] of a batch."""

    images: NDArray[np.uint8]
    tokens: NDArray[np.uint16]


def draw_rows(
    pipeline: Pipeline,
    rows: Sequence[Row],
    go_on: Callable[[], bool],
    on_scale: Callable[[DecodedScale], None],
    provenance: Callable[[Run], Provenance],
) -> Drawn | None:
    """Draw images of one kind together.

    Args:
        pipeline: what draws.
        rows: the images; those that want previews come first.
        go_on: asked between scales.
        on_scale: called after each.
        provenance: of what is shown.

    Returns:
        What was drawn, or None if it need not go on.

    Raises:
        BackendError: the engine failed, or there is too little memory.
    """
    runs = [row.run for row in rows]
    chain = pipeline.chain_of(runs[0])
    request = joined(runs, chain.manifest, chain.backend.padded(len(rows)))
    with starving("drawing failed"):
        if chain.backend.settled and not rows[0].ticket.previews:  # replayed as a whole, which is faster than scale by scale
            tokens, images = draw(chain, request, shadowing=not pipeline.batch_invariant)
        else:
            scales = []
            for scale in _scales(chain, request):
                scales.append(scale)
                if not go_on():
                    return None
                on_scale(scale)
                _show(chain, rows, scales, provenance)
            tokens = np.concatenate([chain.backend.download(scale.tokens) for scale in scales])
            images = chain.backend.download(render(chain, scales[-1].f_hat))
    return Drawn(images[: len(rows)], tokens.T[: len(rows)].astype(np.uint16))


def _scales(chain: Chain, request: Request) -> Iterator[DecodedScale]:
    halved = one_row(chain, request.n_draft, request.samplings[0])
    chain.backend.check_room(request.n_draft, len(request.labels), halved)
    return decode(chain, request.n_draft, upload(chain, request))


def _show(
    chain: Chain, rows: Sequence[Row], scales: Sequence[DecodedScale], provenance: Callable[[Run], Provenance]
) -> None:
    """Render what those see that asked for this scale and are still there."""
    last = scales[-1]
    shown = [place for place, row in enumerate(rows) if last.index in row.ticket.previews and not row.ticket.future.done()]
    if not shown:
        return
    ready = chain.backend.padded(shown[-1] + 1)  # the whole batch, where that many are not
    images = chain.backend.download(render(chain, last.f_hat[:ready] if ready > shown[-1] else last.f_hat))
    tokens = np.concatenate([chain.backend.download(scale.tokens) for scale in scales]).T.astype(np.uint16)
    for place in shown:
        ticket, run = rows[place].ticket, rows[place].run
        picture = images[place : place + 1]
        if ticket.kept is not None:
            picture = ticket.kept.over(picture)
        drawn = tokens[place : place + 1]
        count = run.scales(chain.manifest)
        if ticket.on_preview is not None:
            ticket.on_preview(Preview(last.index, count, last.role, picture, drawn, *run.numbers, provenance(run)))
