"""How many devices a load needs, and what the loss of one costs; on a clock of its own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from trt_var import UsageError
from trt_var.bundle.opening import Bundle
from trt_var.cli.main import main
from trt_var.serving.batching.policy import Policy
from trt_var.serving.batching.times import Times
from trt_var.serving.fleet import HEADROOM, Demand, day, failure, least
from trt_var.serving.simulation import Answer, Loss, simulate

MANIFEST = Bundle.open("digits").manifest
TIMES = Times.of({4: {1: 0.07, 8: 0.175, 32: 0.63}, 3: {1: 0.06, 8: 0.15, 32: 0.54}})


def lost(replicas: int, rate: float, *losses: Loss) -> list[Answer]:
    arrivals = np.arange(0, 60, 1 / rate).tolist()
    return simulate(MANIFEST, Policy((4,), 1.0), TIMES.seconds, 8, arrivals, replicas=replicas, losses=losses)


def test_what_a_lost_replica_had_is_drawn_by_another() -> None:
    answers = lost(3, 60, Loss(20.0, replica=1, noticed=2.0))
    assert len(answers) == 3600 and all(math.isfinite(one.seconds) for one in answers)
    again = [one for one in answers if one.sent > 1]
    assert again and all(18 < one.arrived <= 22 for one in again)
    assert max(one.seconds for one in again) > 2
    assert {one.sent for one in lost(3, 60)} == {1}


def test_nothing_is_served_where_all_are_lost_until_one_is_back() -> None:
    answers = lost(1, 20, Loss(20.0, back=10.0))
    gone = [one for one in answers if not math.isfinite(one.seconds)]
    assert gone and all(19 < one.arrived <= 30 for one in gone)
    assert all(math.isfinite(one.seconds) for one in answers if one.arrived > 30.1)


def test_the_fewest_devices() -> None:
    few, many = (least(MANIFEST, TIMES, Demand(rate, 0.95, 1.0), (4,)) for rate in (100, 400))
    assert few.devices >= 100 * 0.175 / 8 / HEADROOM - 1
    assert 3 * few.devices <= many.devices <= 4 * few.devices
    assert few.latency[0.95] <= 1.0 and few.batch in (8, 32) and few.mean_n == 4 and few.busy <= HEADROOM
    strict = least(MANIFEST, TIMES, Demand(100, 0.95, 0.2), (4,))
    assert strict.devices > few.devices and strict.batch <= 8
    yielding = least(MANIFEST, TIMES, Demand(400, 0.95, 1.0), (4, 3))
    assert yielding.devices <= many.devices and 3 <= yielding.mean_n <= 4
    with pytest.raises(UsageError, match=r"one image takes 0.07 s with N = 4; allow more time"):
        least(MANIFEST, TIMES, Demand(1, 0.95, 0.05), (4,))


def test_the_loss_of_one_and_a_day() -> None:
    demand = Demand(100, 0.95, 1.0)
    fleet = least(MANIFEST, TIMES, demand, (4,))
    cost = failure(MANIFEST, TIMES, demand, fleet)
    assert cost.resent > 0 and cost.late > 0.05, "with one in three gone, many are late"
    assert cost.spare == 1
    hours = day(MANIFEST, TIMES, demand, fleet)
    assert len(hours) == 24 and min(hours) == hours[0] < max(hours) == hours[12] == fleet.devices


def test_a_load_that_is_hardly_one(capsys: pytest.CaptureFixture[str]) -> None:
    """No request comes while a device is lost."""
    given = ["plan", "--engines", "digits", "--fleet", "--devices", "l4", "--rate", "0.0001"]
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(given) == 0
    assert "nan" not in capsys.readouterr().out


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    begin = ["plan", "--engines", "digits", "--fleet"]
    given = ["--rate", "20", "--objective", "p99:0.5", "--devices", "l4,h100", "--of-peak", "0.0001"]
    assert main([*begin, *given, "--n-draft-floor", "3", "--price", "l4=0.5"]) == 0
    told = capsys.readouterr().out
    assert "digits: 20 images a second, 99 % of them within 0.5 s" in told
    assert "l4  " in told and "h100  " in told and "at 0.01 % of peak rates" in told and "a thousand images" in told
    for wrong, expected in (
        (["--rate", "0", "--devices", "l4"], "--rate is 0.0"),
        (["--rate", "nan", "--devices", "l4"], "--rate is nan"),
        (["--devices", "l4"], "--rate is None"),
        (["--rate", "1", "--devices", "l4", "--objective", "2 s"], "--objective is '2 s'"),
        (["--rate", "1", "--devices", "l4", "--objective", "p30:1"], "--objective is 'p30:1'"),
        (["--rate", "1"], "a fleet needs times"),
        (["--rate", "1", "--devices", "x9"], "device is 'x9'"),
        (["--rate", "1", "--devices", "l4", "--of-peak", "2"], "--of-peak is 2"),
        (["--rate", "1", "--devices", "l4", "--n-draft-floor", "9"], "--n-draft-floor is 9"),
        (["--rate", "1", "--devices", "l4", "--price", "l4"], "--price has 'l4'"),
        (["--rate", "1", "--report", str(tmp_path / "none.json")], "cannot read"),
    ):
        assert main([*begin, *wrong]) == 2
        assert expected in capsys.readouterr().err
