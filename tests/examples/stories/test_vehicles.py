"""The vehicle fleet: its samples, its lake that takes each message once, measures, drift, and the story itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from prometheus_client import generate_latest

from examples.anomaly.readings import WINDOW
from examples.stories import sockets
from examples.vehicles import landing, learning, retrain, verdict
from examples.vehicles.harm import inverted
from examples.vehicles.lake import Lake, LakeError
from examples.vehicles.landing import Landing
from examples.vehicles.learning import DRIFTED, Labelled
from examples.vehicles.monitor import Monitor
from examples.vehicles.stage import Place
from examples.vehicles.temperatures import SAMPLES, SENSORS, Conditions, down_sample, faulty, sample
from modelsync_server.hub.messages import Messages
from modelsync_server.hub.routes import Message, Sink
from modelsync_server.iothub.identity import Identity
from tests.examples.stories.running import ROOT, run_story
from tests.support.tools import needs

VEHICLES = ROOT / "examples" / "vehicles"
WINTER, SUMMER = Conditions(), Conditions(heat=1.0)


def labelled(conditions: Conditions, first: int, count: int) -> Labelled:
    made = [sample(1 + n % 8, first + n // 8, conditions) for n in range(count)]
    return Labelled(
        learning.samples([down_sample(each.samples) for each in made]), np.hstack([each.faulty for each in made])
    )


def test_a_window_is_the_same_whenever_it_is_asked_for_and_its_faults_are_the_weathers_in_no_way() -> None:
    one, again, hot = sample(3, 7, WINTER), sample(3, 7, WINTER), sample(3, 7, Conditions(1.0, 1.0))
    assert one.samples.shape == (SENSORS, WINDOW, SAMPLES)
    assert np.array_equal(one.samples, again.samples) and not np.allclose(one.samples, hot.samples)
    assert np.array_equal(one.faulty, hot.faulty) and np.array_equal(one.faulty, faulty(3, 7))
    assert not np.array_equal(sample(3, 8, WINTER).samples, one.samples)


def test_stage_1_is_the_mean_of_each_readings_samples_in_hundredths_and_stays_in_16_bits() -> None:
    samples = np.zeros((SENSORS, WINDOW, SAMPLES))
    samples[0, 0, : SAMPLES // 2], samples[1, 1], samples[2, 2] = 3.0, 1e9, -1e9
    means = down_sample(samples)
    assert (means[0, 0], means[1, 1], means[2, 2], means[3, 3]) == (150, 32767, -32768, 0)


def test_conditions_and_a_place_are_read_as_they_were_written_and_a_damaged_place_begins_anew(tmp_path: Path) -> None:
    SUMMER.write(tmp_path / "c")
    assert Conditions.read(tmp_path / "c") == SUMMER
    place = Place(tmp_path / "p")
    place.sent, place.scored = 9, 7
    place.write()
    assert (Place(tmp_path / "p").sent, Place(tmp_path / "p").scored) == (9, 7)
    (tmp_path / "p").write_text("[]")
    assert (Place(tmp_path / "p").sent, Place(tmp_path / "p").scored) == (0, 0)


class Sender:
    """Sends what a vehicle sends, into a hub's messages."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder

    def send(self, vehicle: str, output: str, body: Any, mid: str, module: str = "stage") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with Messages(self._folder) as messages:
            messages.add(Message(Identity(vehicle, module), {"$.mid": mid, "$.on": output}, data), [Sink(None, "")])

    def readings(self, vehicle: str, window: int) -> None:
        readings = down_sample(sample(landing.number(vehicle), window, WINTER).samples).tolist()
        self.send(vehicle, "readings", {"window": window, "readings": readings}, f"readings-{window}")


def test_a_message_lands_once_however_often_it_was_sent_and_the_landing_was_killed(tmp_path: Path) -> None:
    sender, lake = Sender(tmp_path / "hub"), Lake(tmp_path / "lake")
    for window in (1, 2, 2):
        sender.readings("car-1", window)
    sender.readings("car-2", 1)
    alarm = {"window": 1, "version": 3, "sensors": [2], "probability": [0.9]}
    sender.send("car-1", "alarms", alarm, "alarm-1")
    score = {"version": 3, "outputs": {"label": [0, 0.5, 1, 0, 0, 0]}, "mean_of": {"messages": 4, "seconds": 1.0}}
    sender.send("car-1", "answers", score, "a1", module="scoring")
    assert Landing(lake, tmp_path / "hub").step() == 6
    # Killed after its files and before its commit, and then started anew: the files are there, and nobody sees them.
    left = lake.folder / "readings" / "date=2026-01-01"
    left.mkdir(parents=True)
    (left / "part-000000000002-dead.parquet").write_bytes(b"half a file")
    sender.readings("car-1", 2)
    sender.readings("car-1", 3)
    again = Landing(lake, tmp_path / "hub")
    assert (again.step(), again.step()) == (2, 0)
    assert [path.name for path in lake.leftovers()] == ["part-000000000002-dead.parquet"]
    rows = lake.read("readings", ["vehicle", "window"]).to_pylist()
    assert [(row["vehicle"], row["window"]) for row in rows] == [("car-1", 1), ("car-1", 2), ("car-2", 1), ("car-1", 3)]
    assert [commit.twice for commit in lake.commits()] == [1, 1]
    assert lake.read("alarms").to_pylist()[0]["sensors"] == [2]
    assert lake.read("scores").to_pylist()[0]["share"] == pytest.approx(0.25)
    assert verdict.not_once(lake) == []
    assert sum(each.alarmed + each.found for each in verdict.judged(lake)) == 1
    # Two writers can't both make the next commit.
    with pytest.raises(LakeError, match="somebody else"):
        lake.append({}, 1, 99)
    assert lake.read("inspections", None, lake.commits()[:1]).num_rows == 3, "the lake as it was"


@pytest.mark.parametrize(
    ("output", "body", "why"),
    [
        ("readings", b"\xff", "Unicode"), ("readings", {"window": 1}, "KeyError"), ("alarms", [1], "TypeError"),
        ("readings", {"window": 1, "readings": [[1, 2]]}, "another length"), ("elsewhere", {}, "KeyError"),
        ("readings", {"window": 1, "readings": [[40000] * WINDOW] * SENSORS}, "16 bits"),
        ("readings", {"window": 0, "readings": [[0] * WINDOW] * SENSORS}, "from 1"),
        ("readings", {"window": 1 << 40, "readings": [[0] * WINDOW] * SENSORS}, "Invalid"),
        ("alarms", {"window": 1, "version": 1, "sensors": [300], "probability": [0.5]}, "no vehicle has"),
        ("alarms", b'{"window": 1, "version": 1, "sensors": [1], "probability": [NaN]}', "beyond 0 and 1"),
        ("answers", b'{"version": 1, "outputs": {"label": [NaN]}}', "beyond 0 and 1"),
        ("answers", {"version": 1, "outputs": {"label": [1e9]}}, "beyond 0 and 1"),
        ("readings", {"window": 1, "readings": [["x" * 100_000]]}, "invalid literal"),
        ("alarms", b"[" * 100_000, "Recursion"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_kept_with_the_reason_and_holds_nothing_up(
    tmp_path: Path, output: str, body: Any, why: str
) -> None:
    sender, lake = Sender(tmp_path / "hub"), Lake(tmp_path / "lake")
    sender.send("car-1", output, body, "m", module="scoring" if output == "answers" else "stage")
    sender.readings("car-1", 1)
    assert Landing(lake, tmp_path / "hub").step() == 2
    [rejected] = lake.read("rejected").to_pylist()
    assert why in rejected["why"] and rejected["body"] and len(rejected["why"]) < 300
    assert lake.read("readings").num_rows == 1


def test_the_verdict_finds_gaps_and_windows_that_are_there_twice(tmp_path: Path) -> None:
    sender, lake = Sender(tmp_path / "hub"), Lake(tmp_path / "lake")
    for window in (1, 3):
        sender.readings("car-1", window)
    Landing(lake, tmp_path / "hub").step()
    rows = lake.read("readings").to_pylist()
    lake.append({"readings": rows[:1]}, 1, 2)
    assert verdict.not_once(lake) == ["car-1 lacks window 2", "car-1 has window 1 2 times"]


def test_the_newest_windows_are_held_out_by_their_number_and_never_trained_on() -> None:
    rows = [{"vehicle": "car-1", "window": n} for n in range(1, 31)]
    train, held_out = retrain.split(rows, 12)
    assert [each["window"] for each in held_out] == [21, 24, 27, 30]
    assert len(train) == 26 and not [each for each in train if each in held_out]


def test_a_window_that_is_sent_under_many_ids_counts_once_and_odd_devices_get_no_folder(tmp_path: Path) -> None:
    sender, lake = Sender(tmp_path / "hub"), Lake(tmp_path / "lake")
    good = down_sample(sample(1, 3, WINTER).samples).tolist()
    for mid in range(9):
        sender.send("..%2f#*?$'-1", "readings", {"window": 3, "readings": good}, f"m{mid}")
    sender.readings("car-2", 3)
    Landing(lake, tmp_path / "hub").step()
    assert [(each["vehicle"], each["window"]) for each in retrain.windows(lake)] == [("..%2f#*?$'-1", 3), ("car-2", 3)]
    assert {path.parent.parent.name for path in lake.folder.rglob("*.parquet")} == {"readings", "inspections"}


def test_windows_that_somebody_made_up_do_not_make_a_version() -> None:
    """A vehicle whose training windows are noise: the candidate is worse on what is held out, and the gate sees it."""
    honest, judged = labelled(WINTER, 1, 60), labelled(WINTER, 500, 30)
    rng = np.random.default_rng(3)
    made_up = learning.samples(rng.integers(-32768, 32768, (150, SENSORS, WINDOW)))
    lies = Labelled(np.vstack([honest.samples, made_up]), np.hstack([honest.faulty, rng.integers(0, 2, len(made_up))]))
    field, candidate = (learning.evaluate(learning.fit(each), judged) for each in (honest, lies))
    assert candidate["balanced_accuracy"] < field["balanced_accuracy"] - 0.05


def test_a_version_that_nobody_published_has_no_drift_and_stops_no_monitor(tmp_path: Path) -> None:
    sender, lake = Sender(tmp_path / "hub"), Lake(tmp_path / "lake")
    sender.readings("car-1", 1)
    score = {"version": 999, "outputs": {"label": [0, 1]}}
    sender.send("car-1", "answers", score, "a", module="scoring")
    Landing(lake, tmp_path / "hub").step()
    monitor = Monitor(lake, str(tmp_path / "no-store"), 10)
    monitor.step()
    assert b"temperature_windows 1.0" in generate_latest(monitor.registry)


def test_drift_is_none_in_the_same_season_and_in_another_the_version_fails_and_a_retrained_one_does_not(
    tmp_path: Path,
) -> None:
    winter, later, summer = labelled(WINTER, 1, 200), labelled(WINTER, 500, 60), labelled(SUMMER, 600, 60)
    known = learning.reference(winter.samples)
    assert max(learning.drift(json.loads(json.dumps(known)), winter.samples).values()) < 1e-6, "ties fall as they fell"
    assert max(learning.drift(known, later.samples).values()) < DRIFTED / 2
    assert max(learning.drift(known, summer.samples).values()) > 2 * DRIFTED
    first = learning.fit(winter)
    assert len(first) < 6_000
    assert learning.evaluate(first, later)["balanced_accuracy"] > 0.95
    assert learning.evaluate(first, summer)["balanced_accuracy"] < 0.85
    more = labelled(SUMMER, 700, 40)
    both = Labelled(np.vstack([winter.samples, more.samples]), np.hstack([winter.faulty, more.faulty]))
    assert learning.evaluate(learning.fit(both), summer)["balanced_accuracy"] > 0.93
    (tmp_path / "model.onnx").write_bytes(first)
    good, bad = (
        onnxruntime.InferenceSession(model).run(["label"], {"X": later.samples})[0]
        for model in (first, inverted(tmp_path / "model.onnx"))
    )
    assert np.mean(good == bad) < 0.02, "the wrong way round"


def test_the_kernels_count_of_a_line_is_what_went_over_it() -> None:
    needs("ss")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as ours, listener.accept()[0] as other:
            before = sockets.carried({os.getpid()}, port)
            ours.sendall(bytes(70_000))
            assert len(other.recv(70_000, socket.MSG_WAITALL)) == 70_000
            other.sendall(bytes(500))
            ours.recv(500, socket.MSG_WAITALL)
            assert sockets.carried({os.getpid()}, port) - before == 70_500
            assert sockets.carried({1}, port) == 0, "of another process"


def test_the_alert_speaks_and_is_silent_as_it_says() -> None:
    needs("promtool")
    done = subprocess.run(
        ["promtool", "test", "rules", str(VEHICLES / "rules.test.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.timeout(600)
def test_the_abridged_story_goes_around_once(tmp_path: Path) -> None:
    needs("prometheus")
    report = run_story("vehicles", tmp_path, "--short", seconds=560)
    assert {charge["way"].split(",")[0].split(":")[0] for charge in report["bill"]} == {"modelsync", "the copy trick"}
    assert (
        report["figures"]["bytes of samples, raw"]
        > 10 * report["figures"]["bytes sent up after stage 1 (messages' bodies)"]
    )
    assert (tmp_path / "story-vehicles.svg").stat().st_size > 10_000


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_whole_story_goes_around_twice_in_under_four_minutes(tmp_path: Path) -> None:
    needs("prometheus")
    report = run_story("vehicles", tmp_path, seconds=280)
    assert report["seconds"] < 240, "the issue's own limit"
    assert len(report["promises"]) >= 15 and not report["not_tried"]
    dearest = max(report["bill"], key=lambda charge: charge["bytes"])
    assert dearest["way"] == "image, built anew" and dearest["bytes"] > 20_000_000
