"""Damaged files by the thousand: ``python benchmarks/fuzz.py --cases 20000 --out fuzz.json``.

Every file that the runtime reads is mutated, truncated, emptied, spliced or swapped, and read as a user would have it
read. The answer must be a result or one of the project's errors, in ten seconds and a bounded memory. A worker process
takes the cases one after the other; where it dies, the case it was at is counted as a crash and another goes on behind it.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import logging
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image
from tqdm import tqdm

from trt_var import Pipeline, TrtVarError
from trt_var.backends.tensorrt.record import SCHEMA, Batch, Engine, Profile, Record, read_record
from trt_var.bench.choose import read_rows
from trt_var.bulk import Bulk, read_images, sample
from trt_var.bundle.manifest import FILE_NAME, decode
from trt_var.bundle.opening import PACKAGED, Bundle, file_sha256
from trt_var.pictures.reading import read_picture
from trt_var.quality.evaluation import Judge

SECONDS, MEMORY = 10, 3 << 30  # a case's ceilings; memory is what the worker's resident set may grow to
ROOT = Path(__file__).parents[1]
DIGITS = PACKAGED / "digits"
FORMATS = ("png", "jpg", "webp")
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**70,
    1e308,
    "",
    "..",
    "../x",
    "a" * 9999,
    "\0",
    [],
    {},
    [[[]]],
    "é",
)


def mutate(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """One kind of damage, at random places."""
    size, kind = len(data), chance.randrange(9)
    at, to = sorted((chance.randrange(size + 1), chance.randrange(size + 1)))
    if kind == 0:
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8, 64))):
            changed[chance.randrange(size)] = chance.randrange(256)
        return bytes(changed)
    if kind == 1:
        changed = bytearray(data)
        changed[chance.randrange(min(size, 512))] ^= 1 << chance.randrange(8)  # headers are where the power lies
        return bytes(changed)
    damaged: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at],
        lambda: data[:at] + data[to:],
        lambda: data[:to] + data[at:],
        lambda: data[:at] + chance.randbytes(chance.randrange(1, 99)) + data[at:],
        lambda: data[:at] + bytes(to - at) + data[to:],
        lambda: other[:at] + data[at:],
        lambda: chance.choice(
            (b"", other, chance.randbytes(size % 4096), b"<!DOCTYPE html>", b"version https://git-lfs.github.com")
        ),
    )
    return damaged[kind - 2]()


def mutate_json(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """A value, key or element changed, removed or doubled; sometimes the bytes themselves."""
    if chance.random() < 0.4:
        return mutate(data, chance, other)
    tree = json.loads(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        holder, key = chance.choice(places)
        if chance.random() < 0.2:
            del holder[key]
        else:
            found = chance.choice(places)
            holder[key] = copy.deepcopy(chance.choice((*ODD, found[0][found[1]])))  # never a tree that holds itself
        if not tree:
            break
    return b"[" * chance.randrange(1, 100_000) if chance.random() < 0.02 else json.dumps(tree).encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every key and element of a tree, with what holds it."""
    pending = [tree]
    while pending:
        holder = pending.pop()
        for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            yield holder, key
            if isinstance(value, dict | list) and len(pending) < 9999:
                pending.append(value)


def a_record() -> Record:
    """Two engines of a pair."""
    profiles = tuple(Profile(f"scale {k}", {"features": ((k, 1, 32), (k, 4, 32), (k, 8, 32))}) for k in (1, 4, 9))
    engines = {
        f"{role}.plan": Engine(f"{role}.plan", 99, "0" * 64, {f"{role}.onnx": "0" * 64}, 1.5, profiles)
        for role in ("drafter", "refiner")
    }
    return Record(SCHEMA, "tensorrt", "11.0", "sm89", Batch(1, 4, 8), (8, 10), engines)


class Targets:
    """Files to damage, by name, and how each is read. Everything lies in one folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = folder / "digits"
        shutil.copytree(DIGITS, self.bundle, dirs_exist_ok=True)
        self.manifest = Bundle.open(self.bundle).manifest
        self.pipeline = Pipeline.load(DIGITS, "onnxruntime")
        drawn = self.pipeline.generate([1, 2, 3, 4], seeds=1)
        for name in FORMATS:
            Image.fromarray(drawn.images[0]).resize((64, 64)).save(folder / f"picture.{name}")
        sample(self.pipeline, Bulk(num=4, shard=4), folder / "shards")
        (folder / "record.json").write_bytes(msgspec.json.encode(a_record()))
        released = decode((ROOT / "tests/data/d30-d16-fp16.json").read_bytes(), "a manifest")
        shutil.copy(ROOT / "docs/bench/report.json", folder / "report.json")
        self.reads: dict[str, tuple[Path, Callable[[Path], object]]] = {
            "manifest": (self.bundle / FILE_NAME, self._open),
            "record": (folder / "record.json", lambda path: read_record(path.parent)),
            "report": (folder / "report.json", lambda path: read_rows(path, released)),
            "recipe": (folder / "shards/recipe.json", self._shards),
            "shard": (folder / "shards/shard-00000.npz", self._shards),
        }
        self.reads |= {
            f"picture {name}": (folder / f"picture.{name}", lambda path: read_picture(path, 32)) for name in FORMATS
        }
        for name in self._kinds():
            self.reads[f"bundle {name}"] = (self.bundle / name, lambda path: Bundle.open(path.parent).verify())
        for name in self._reread():
            self.reads[f"hashed {name}"] = (self.bundle / name, self._hashed)

    def _kinds(self) -> list[str]:
        """A file of every kind: all are compared with the manifest's hashes before anything is made of them."""
        drafter, judge = self.manifest.models["drafter"], self.manifest.judge
        names = (drafter.step.onnx, drafter.step.weights, drafter.conditions, self.manifest.report)
        return [name for name in (*names, judge and judge.reference) if name]

    def _reread(self) -> list[str]:
        """Files of a bundle that are parsed in Python, damaged with a manifest that has their new hash."""
        models, judge = self.manifest.models.values(), self.manifest.judge
        graphs = (self.manifest.decoder.onnx, self.manifest.encoder.onnx)
        names = [model.conditions for model in models] + ([judge.reference] if judge else [])
        return [*names, *([self.manifest.class_names] if self.manifest.class_names else []), *graphs]

    def _open(self, path: Path) -> None:
        with Pipeline.load(path.parent, "onnxruntime") as pipeline:
            pipeline.generate(3)

    def _hashed(self, path: Path) -> None:
        manifest = json.loads((DIGITS / FILE_NAME).read_bytes())
        manifest["files"][path.name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
        (self.bundle / FILE_NAME).write_text(json.dumps(manifest), encoding="utf-8")
        try:
            bundle = Bundle.open(self.bundle)
            bundle.class_names()
            for role in bundle.manifest.models:
                np.asarray(bundle.conditions(role)[0])
            for graph in (bundle.manifest.decoder, bundle.manifest.encoder):
                bundle.graph(graph)
            if bundle.manifest.judge:
                Judge(bundle)
        finally:
            shutil.copy(DIGITS / FILE_NAME, self.bundle / FILE_NAME)

    def _shards(self, path: Path) -> None:
        for images in read_images(sample(self.pipeline, Bulk(num=4, shard=4), path.parent)):
            if images.shape != (4, 32, 32, 3):
                raise AssertionError(f"a shard of {images.shape}")  # read as whole, and it is not

    def run(self, name: str, number: int) -> str:
        """One case: what came of it."""
        path, read = self.reads[name]
        whole = path.read_bytes()
        chance = random.Random(f"{name} {number}")
        other = chance.choice([found for found, _ in self.reads.values()]).read_bytes()
        change = mutate_json if path.suffix == ".json" else mutate
        path.write_bytes(change(whole, chance, other))
        signal.alarm(SECONDS)
        try:
            read(path)
        except TrtVarError as error:
            return "traceback: an empty message" if not str(error).strip() else "error"
        except Hang:
            return "hang"
        except BaseException:
            return "traceback: " + traceback.format_exc(limit=-3)
        else:
            return "result"
        finally:
            signal.alarm(0)
            path.unlink(missing_ok=True)  # never write through a mapping of it
            path.write_bytes(whole)


class Hang(BaseException):
    """The alarm; nothing catches it on the way."""


def _ring(number: int, frame: object) -> None:
    raise Hang


def work(folder: Path, first: int, cases: int, only: str) -> None:
    """The worker: case ``i`` damages target ``i`` modulo their number; a line before and a line after each."""
    logging.disable(logging.CRITICAL)  # shards that are drawn again say so
    signal.signal(signal.SIGALRM, _ring)
    targets = Targets(folder)
    names = [name for name in targets.reads if only in name]
    for number in range(first, cases):
        name = names[number % len(names)]
        print(json.dumps([number, name]), flush=True)
        outcome = targets.run(name, number)
        print(json.dumps([number, name, outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10]), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--only", default="", help="targets whose name holds this")
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.first, options.cases, options.only)
        return 0
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures, peak = [], 0
    bar = tqdm(total=options.cases, unit="case", disable=None)
    first = 0
    while first < options.cases:
        last = ""
        with tempfile.TemporaryDirectory() as folder:
            again = [sys.executable, __file__, "--worker", folder, "--first", str(first), "--cases", str(options.cases)]
            worker = subprocess.Popen([*again, "--only", options.only], stdout=subprocess.PIPE, text=True)
            for line in worker.stdout or ():
                number, last, *outcome = json.loads(line)
                first = number + 1
                if outcome:
                    counts[last][outcome[0].split(":")[0]] += 1
                    peak = max(peak, outcome[1])
                    if outcome[0] not in ("error", "result"):
                        failures.append([number, last, outcome[0]])
                    last = ""
                    bar.update()
            if worker.wait() or last:
                if not last:
                    raise RuntimeError("the worker ended before its first case")
                counts[last]["crash"] += 1
                failures.append([number, last, f"crash: exit status {worker.returncode}"])
    found = {"cases": options.cases, "peak bytes": peak, "failures": failures, "counts": counts}
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 1 if failures or peak > MEMORY else 0


if __name__ == "__main__":
    sys.exit(main())
