"""The manual page in the wheel, made of the parsers while it is built."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPage(BuildHookInterface):  # type: ignore[type-arg]
    """``share/man/man1/trt-var.1``, which ``man`` finds beside the command."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Have the sources print the page; an editable install has none."""
        if version == "editable":
            return
        sources = os.environ | {"PYTHONPATH": str(Path(self.root, "runtime")), "PYTHONDONTWRITEBYTECODE": "1"}
        sources |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}  # whatever the system's own encoding
        command = [sys.executable, "-m", "trt_var.cli.shell.manual"]
        page = subprocess.run(command, env=sources, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603 - of the sources
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "trt-var.1")
        path.write_bytes(page)
        path.chmod(0o644)
        build_data["shared_data"][str(path)] = "share/man/man1/trt-var.1"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The page is in the wheel."""
        if version != "editable":
            self.folder.cleanup()
