"""The fleet's month against cases that can be worked out by hand, and against the daemon's own plan and ledger."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from math import exp, inf
from pathlib import Path

import numpy as np
import pytest

from modelsync_bench import fleet_costs, fleet_models
from modelsync_bench.fleet import HELD, Fleet, Way, dollars, simulate, undisturbed
from modelsync_bench.fleet_engine import simulated
from modelsync_bench.idle_line import IdleLine
from modelsync_bench.result import Machine, Measurement, PeerVersion, Result
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.ledger import Ledger
from modelsync_protocol import offers, plan
from modelsync_protocol.twin import Policy
from modelsync_server.publish import price as pricing
from modelsync_server.publish.publisher import publish
from modelsync_server.store import create_store, open_store
from modelsync_server.store.published import read_manifest
from modelsync_server.trust import read_catalogue
from modelsync_server.trust.initialise import initialise

SURE = Fleet(devices=400, cuts_per_mb=0.0)
WIRE = (1000.0, 2000.0, 3000.0, 50_000.0)


def test_without_failures_the_month_is_the_exact_sum() -> None:
    fleet = replace(SURE, mix=(0.0, 1.0, 0.0, 0.0), releases=(0, 10, 20))
    outcome = simulate(Way("x", WIRE, idle_day=7.0), fleet)
    assert outcome.update_bytes == 3 * 400 * 2000
    assert outcome.idle_bytes == 30 * 400 * 7
    assert (outcome.cuts, outcome.resent_bytes, outcome.unfinished, outcome.deferred) == (0, 0, 0, 0)
    assert outcome.finished == 3 * 400


def test_a_mix_costs_its_shares() -> None:
    fleet = replace(SURE, devices=200_000, releases=(0,))
    outcome = simulate(Way("x", WIRE), fleet)
    assert outcome.update_bytes / fleet.devices == pytest.approx(undisturbed(Way("x", WIRE), fleet.mix), rel=0.02)


def test_the_same_seed_gives_the_same_month_and_another_does_not() -> None:
    fleet = Fleet(devices=2000, cuts_per_mb=50.0)
    way = Way("x", WIRE)
    assert simulate(way, fleet) == simulate(way, fleet)
    assert simulate(way, fleet) != simulate(way, replace(fleet, seed=2))


def test_a_large_fleet_has_the_same_month_on_any_number_of_workers() -> None:
    fleet = Fleet(devices=250_001, cuts_per_mb=50.0, releases=(0, 10))
    way = Way("x", WIRE, lost=100.0)
    here = simulate(way, fleet)
    assert here.finished == 2 * fleet.devices - here.unfinished
    for workers in (1, 3):
        assert simulated([(way, fleet), (way, SURE)], workers=workers) == [here, simulate(way, SURE)]


def test_who_starts_anew_pays_what_the_exponential_law_says() -> None:
    """Cuts at rate r a byte: a download of b bytes that starts anew carries (e^(r·b) − 1) / r in the mean."""
    size, per_mb = 1e6, 1.2
    fleet = Fleet(devices=60_000, cuts_per_mb=per_mb, attempts=200, releases=(0,))
    outcome = simulate(Way("x", (size,) * 4), fleet)
    expected = (exp(per_mb) - 1) / per_mb * size
    assert outcome.update_bytes / fleet.devices == pytest.approx(expected, rel=0.02)
    assert outcome.cuts / fleet.devices == pytest.approx(exp(per_mb) - 1, rel=0.02)


def test_who_goes_on_pays_nothing_but_the_new_beginnings() -> None:
    size, per_mb = 1e6, 2.0
    fleet = Fleet(devices=30_000, cuts_per_mb=per_mb, attempts=100, releases=(0,))
    smooth = simulate(Way("x", (size,) * 4, lost=0.0), fleet)
    assert smooth.update_bytes == pytest.approx(fleet.devices * size, rel=1e-12)
    assert smooth.cuts / fleet.devices == pytest.approx(per_mb, rel=0.02)
    bounded = simulate(Way("x", (size,) * 4, lost=1e4, again=500.0), fleet)
    assert 0 < bounded.resent_bytes <= bounded.cuts * 10_500


def test_a_device_that_is_cut_too_often_goes_on_the_next_day() -> None:
    fleet = Fleet(devices=2000, cuts_per_mb=3.0, attempts=1, releases=(0,))
    outcome = simulate(Way("x", (1e6,) * 4), fleet)
    assert outcome.done_share[0] == pytest.approx(exp(-3), abs=0.02)
    assert outcome.done_share[1] == pytest.approx(1 - (1 - exp(-3)) ** 2, abs=0.02)
    assert list(outcome.done_share) == sorted(outcome.done_share)


def test_a_budget_defers_until_it_has_room_and_refuses_what_never_fits() -> None:
    fleet = replace(SURE, mix=(1.0, 0.0, 0.0, 0.0), releases=(0, 1), bytes_per_month=2500.0)
    way = Way("x", (1000.0,) * 4, predicted=(900.0,) * 4)
    assert simulate(way, fleet).deferred == 0
    tight = simulate(way, replace(fleet, bytes_per_month=1500.0))
    assert tight.finished == 400  # the second release finds 500 bytes left, and waits to the month's end
    assert tight.deferred == 29 * 400
    assert tight.unfinished == 400
    never = simulate(way, replace(fleet, bytes_per_day=899.0, bytes_per_month=None))
    assert (never.update_bytes, never.unfinished) == (0, 400)
    unaware = simulate(replace(way, predicted=None), replace(fleet, bytes_per_day=1.0))
    assert unaware.unfinished == 0


def test_idle_traffic_counts_against_the_budget() -> None:
    fleet = replace(SURE, bytes_per_day=1000.0, releases=(0,))
    way = Way("x", (900.0,) * 4, predicted=(900.0,) * 4)
    assert simulate(replace(way, idle_day=100.0), fleet).unfinished == 0
    assert simulate(replace(way, idle_day=101.0), fleet).unfinished == 400


@pytest.mark.parametrize(("day", "month"), [(None, None), (5000, None), (None, 7000), (5000, 7000), (100, 7000)])
def test_the_budget_is_the_daemons_ledger(day: int | None, month: int | None, tmp_path: Path) -> None:
    from modelsync_bench.fleet import _Month

    ledger = Ledger(Database(tmp_path / "state.db", clock=lambda: 1_700_000_000.0))
    ledger.add(2500, 500)
    simulated = _Month(Way("x", WIRE), replace(SURE, bytes_per_day=day, bytes_per_month=month))
    left = simulated._left(np.array([3000.0]), np.array([3000.0]))[0]
    real = ledger.left(Policy(bytes_per_day=day, bytes_per_month=month))
    assert left == (inf if real is None else real)


def test_money_is_linear_in_the_price_and_the_storys_figure_by_default() -> None:
    assert dollars(60e9, fleet_costs.PRICE_PER_GB) == 1500
    assert dollars(123.0, 50) == 2 * dollars(123.0, 25)
    idle = {"modelsyncd": _line("modelsyncd"), "sdk-defaults": _line("sdk-defaults")}
    one, two = (
        fleet_costs.document(_result(), WIRE, idle, Fleet(devices=50), price, (50_000, 10**6)) for price in (25.0, 50.0)
    )
    for cheap, dear in zip(one["ways"], two["ways"], strict=True):
        assert dear["month_dollars"] == pytest.approx(2 * cheap["month_dollars"])
        assert cheap["outcome"] == dear["outcome"]


@pytest.mark.parametrize("wrong", [{"mix": (1.0, 0.0, 0.0)}, {"mix": (0.5, 0.1, 0.1, 0.1)}, {"releases": (3, 30)}])
def test_a_fleet_that_makes_no_sense_is_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match=r"mix|releases"):
        replace(SURE, **wrong)  # type: ignore[arg-type]


def test_a_device_without_failures_carries_what_the_daemons_plan_says(tmp_path: Path) -> None:
    """Real store, real offers as a bundle carries them, the daemon's `choose_update`, and the simulation on top."""
    rng = np.random.default_rng(5)
    weights = rng.normal(size=600)
    paths = []
    for number in range(4):
        weights = weights + rng.normal(scale=1e-3, size=600) * (rng.random(600) < 0.1)
        path = tmp_path / f"v{number}.pkl"
        path.write_bytes(pickle.dumps(weights, protocol=5))
        paths.append(path)
    predicted = fleet_models.plan_bytes(tuple(paths))
    assert predicted == asyncio.run(_as_a_daemon_plans(tmp_path, paths))
    for column in range(len(HELD)):
        mix = [0.0] * 4
        mix[column] = 1.0
        fleet = Fleet(devices=10, cuts_per_mb=0.0, releases=(0,), mix=(mix[0], mix[1], mix[2], mix[3]))
        ours = Way("modelsync", predicted, predicted)
        assert simulate(ours, fleet).update_bytes == 10 * predicted[column]


async def _as_a_daemon_plans(root: Path, paths: list[Path]) -> tuple[float, ...]:
    url, keys = str(root / "store"), str(root / "keys")
    await initialise(create_store(url), keys)
    store = open_store(url)
    for number, path in enumerate(paths):
        artifact = root / str(number) / "model.pkl"
        artifact.parent.mkdir()
        artifact.write_bytes(path.read_bytes())
        await publish(store, keys, "m", artifact)
    digests = (await read_catalogue(store)).model("m").versions
    offer = offers.decode(await pricing.offers_section(store, digests))[4]
    planned = []
    for held in (3, 2, 1):
        choice = plan.choose_update([digests[held]], offer)
        assert choice is not None
        planned.append(float(plan.plan_update(digests[4], choice.base, choice.bytes, 0, None).bytes))
    manifest, index, size = await read_manifest(store, digests[4])
    return (*planned, float(plan.plan_chunks(manifest, index, size, []).bytes))


def test_the_best_peer_is_the_one_with_the_fewest_bytes_over_the_mix() -> None:
    best = fleet_costs.best_peer(_result(), Fleet().mix)
    assert best is not None
    assert best.peer == "near"  # "first" has the cheapest update from one version behind, and the dearest install


def test_modelsyncs_way_is_the_plan_and_what_was_measured_beside_it() -> None:
    idle = {"modelsyncd": _line("modelsyncd"), "sdk-defaults": _line("sdk-defaults")}
    found, missing = fleet_costs.costed(_result(), WIRE, idle, Fleet())
    ways = {one.way.name: one for one in found}
    # Beside 1,000 bytes of payload each carried 500, 1,000, 2,000 and 8,000 bytes more.
    assert ways["modelsync"].way.wire == (WIRE[0] + 500, WIRE[1] + 1000, WIRE[2] + 2000, WIRE[3] + 8000)
    assert ways["modelsync"].way.predicted == WIRE
    assert ways["modelsync"].way.idle_day == _line("modelsyncd").day_bytes
    assert [text.split(":")[0] for text in missing] == ["naive image", "trick"]


def _line(name: str) -> IdleLine:
    return IdleLine(name, 100, 60 if name == "sdk-defaults" else 1740, 1000, 3480, "interface", "made up")


def _result() -> Result:
    """Two peers and ours, measured from every version."""
    result = Result(Machine("s", "p", 2, 1, "3", "0"))
    sizes = {"first": (800, 900, 900, 90_000), "near": (1000, 1000, 1000, 2000), "modelsync": (1500, 2000, 3000, 9000)}
    for peer, wires in sizes.items():
        result.peers.append(PeerVersion(peer, "1", None, "m"))
        for held, wire in zip(HELD, wires, strict=True):
            payload = 1000 if peer == "modelsync" else 700
            key = ("fleet", fleet_models.pair(held), peer, "direct")
            result.put(Measurement(*key, "interface", True, payload, 100, wire - 100, exact=True))
    return result
