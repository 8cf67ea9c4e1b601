"""Progress on a terminal, silence in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


class Bars:
    """One progress bar a stage, on a terminal only."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def stage(self, name: str, steps: int) -> None:
        from tqdm import tqdm

        self.close()
        self._bar = tqdm(
            total=steps, desc=f"{name:22}", unit="", disable=None, bar_format="{desc} {bar:30} {n}/{total} {elapsed}"
        )

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
