"""Cards say what is recorded, in the hub's form, and call the rest unknown."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from huggingface_hub import ModelCard, metadata_load

from trt_var import DataError, Pipeline
from trt_var.bundle.manifest import identity
from trt_var.bundle.opening import Bundle
from trt_var.bundle.sharing import figures
from trt_var.bundle.sharing.card import card
from trt_var.cli.main import main

QUALITY = Path(__file__).parents[4] / "docs" / "quality.json"
RELEASED = {"repository": "FoundationVision/var", "revision": "6d0ee65", "path": "var_d16.pth", "licence": "MIT"}


def described(**changes: Any) -> str:
    """The card of the digits with another manifest."""
    bundle = Bundle.open("digits")
    return card(Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, **changes)), "hf://me/digits")


def test_the_hub_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    assert main(["card", "digits", "--place", "hf://me/digits", "--quality", str(QUALITY), "--out", str(path)]) == 0
    data = metadata_load(path)
    assert data == ModelCard.load(path).data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("trt-var", "unconditional-image-generation")
    assert {"class-conditional", "fp32", "onnx"} <= set(data["tags"])
    assert not {"license", "base_model", "model-index"} & data.keys()
    text = path.read_text("utf-8")
    assert text.count("hf://me/digits") == 2
    assert "| fine-tuned | 0.5 | 4 | 98.8% ± 0.4 | 22.23 ± 2.68 | 4.8 ± 0.2 |" in text
    assert "3 rounds, on OpenVINO" in text


def test_what_is_not_recorded_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "digits"]) == 0
    text = capsys.readouterr().out
    assert "| drafter | unknown | unknown | drafter.safetensors | 3474260d" in text
    assert "The licence of the weights is not recorded in the bundle." in text
    assert "Figures of pictures are not recorded; the bundle's judge reads 99.7% of held-out real pictures right." in text
    assert "A comparison of the graphs with PyTorch is not recorded." in described(report=None)
    assert not re.search(r"None|\$", text.replace("None of", ""))


def test_its_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", card(Bundle.open("digits"), "digits"), re.DOTALL)
    command = re.search(r"^trt-var (.*)$", card(Bundle.open("digits"), "digits"), re.MULTILINE)
    assert code and command
    monkeypatch.chdir(tmp_path)
    exec(code[1], {})
    assert main(command[1].split()) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"picture.png", "grid.png"}


@pytest.mark.parametrize(
    ("licences", "front", "text"),
    [
        (("MIT", "MIT", "MIT"), "mit", "All weights are licensed MIT."),
        (("CC-BY-NC-SA-4.0", "MIT", "MIT"), None, "The parts are under different licences"),
        (("MIT", None, "MIT"), None, "The parts are under different licences, or some are unknown: all of them apply."),
    ],
)
def test_licences_and_bases(licences: tuple[str | None, ...], front: str | None, text: str) -> None:
    origins = [{**RELEASED, "licence": one} if one else {"path": "mine.pth"} for one in licences]
    manifest = Bundle.open("digits").manifest
    models = {
        role: msgspec.structs.replace(model, origin=origin)
        for (role, model), origin in zip(manifest.models.items(), origins[:2], strict=True)
    }
    made = described(models=models, vae_origin=origins[2])
    data = ModelCard(made).data.to_dict()
    assert data.get("license") == front
    assert data["base_model"] == ["FoundationVision/var"]
    assert text in made


def test_names_cannot_break_tables_or_code() -> None:
    made = described(vae_origin={"path": "a|b<script>&c\u2028d", "repository": 'x"y: z'}, generator="`| x")
    assert "| a\\|b&lt;script>&amp;c\\u2028d |" in made
    assert ModelCard(made).data.to_dict()["base_model"] == ['x"y: z']
    assert "run --engines 'a\\nb' --labels" in card(Bundle.open("digits"), "a\nb")
    assert "| built by | &#96;\\| x |" in made


@pytest.mark.parametrize(
    "text", ['MIT"\u2028--- # x\ufffe', "a\u2029--- b: c\x85", "\U0001f600 é \\", "[x]: {y}\x7f\U000e0001"]
)
def test_names_cannot_break_the_front(text: str) -> None:
    made = described(vae_origin={"repository": text})
    assert ModelCard(made).data.to_dict()["base_model"] == [text]


def test_what_is_recorded_is_text(tmp_path: Path) -> None:
    hostile = "<img src=x> [click](http://evil) ![](http://evil) `code`"
    models = {
        role: msgspec.structs.replace(model, origin={"licence": hostile})
        for role, model in Bundle.open("digits").manifest.models.items()
    }
    made = described(models=models, vae_origin={"licence": hostile})
    assert "All weights are licensed &lt;img" in made
    spread = {"mean": 1, "deviation": 1}
    row = {"n_draft": 1, "accuracy": spread, "frechet": spread, "seconds": spread}
    (tmp_path / "quality.json").write_text(json.dumps({"backend": hostile, "quality": [row]}))
    made += card(Bundle.open("digits"), hostile, figures.read(tmp_path / "quality.json"))
    text = re.sub(r"\A---.*?^---|```.*?```", "", made, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"<img|\[(click)?\]\(|`code", text)


@pytest.mark.parametrize("place", ["C:\\new\\digits", "my bundle", 'a"b', "a'; rm x", "é\U0001f600", "$(id)"])
def test_places_are_quoted(place: str) -> None:
    made = card(Bundle.open("digits"), place)
    command, code = re.search(r"^trt-var (.*)$", made, re.MULTILINE), re.search(r"load\((.*)\) as", made)
    assert command and shlex.split(command[1])[2] == place
    assert code and ast.literal_eval(code[1]) == place


def test_quantised_and_wide(golden_bundle: Path) -> None:
    made = described(quantised={"drafter": {"qkv": "int8", "head": "float"}})
    assert "| precision | fp32; drafter: qkv int8, head float |" in made
    assert "quantized" in ModelCard(made).data.to_dict()["tags"]
    assert "--labels 207" in card(Bundle.open(golden_bundle))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        (b"", "is no report of trt-var eval"),
        (b"[]", "is no report"),
        (b'{"quality": [{"n_draft": "x"}]}', "is no report"),
        (b'{"agreement": []}', "holds no figures of quality"),
        (b'{"metrics": {"fid": NaN}}', "is no report"),
    ],
)
def test_reports_of_another_kind(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "quality.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        figures.read(path)


def test_metrics_of_fidelity(tmp_path: Path) -> None:
    path = tmp_path / "fidelity.json"
    path.write_text(json.dumps({"n_draft": 8, "metrics": {"frechet_inception_distance": 2.27}, "backend": "x"}))
    made = card(Bundle.open("digits"), "digits", figures.read(path))
    assert "Metrics of torch-fidelity at N = 8:" in made
    assert "| frechet_inception_distance | 2.2700 |" in made


def test_nothing_is_left_of_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "README.md"
    out.write_text("mine")
    assert main(["card", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert main(["card", "digits", "--quality", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert main(["card", "digits", "--out", str(tmp_path / "none" / "x")]) == 1
    assert capsys.readouterr().err.count("\n") == 3
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_closed_pipe() -> None:
    ran = subprocess.run(f"{sys.executable} -m trt_var card digits | head -1", shell=True, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("---\n", "")


def test_the_packaged_bundle_is_what_it_says() -> None:
    with Pipeline.load("digits") as pipeline:
        assert f"| N, scales of the drafter | {', '.join(map(str, pipeline.manifest.serves))};" in described()


def test_figures_of_another_bundle_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, row = tmp_path / "quality.json", json.loads(QUALITY.read_text("utf-8"))["quality"][0]
    for bundle, code in ((identity(Bundle.open("digits").manifest), 0), ("0" * 64, 2)):
        path.write_text(json.dumps({"bundle": bundle, "quality": [row]}))
        assert main(["card", "digits", "--quality", str(path)]) == code
    assert "figures of another bundle" in capsys.readouterr().err
