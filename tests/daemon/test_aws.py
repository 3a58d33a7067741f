"""AWS IoT's named shadows and jobs, against a stand-in that speaks the documented topics on a real Mosquitto."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.config import Settings
from modelsync_daemon.control.aws import MAX_DOCUMENT_BYTES, AwsControlPlane
from modelsync_daemon.control.plane import MethodAnswer
from modelsync_protocol import twin
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_protocol.mqtt import broker
from modelsync_server.broker.address import parse
from modelsync_server.broker.aws import AwsService
from modelsync_server.iothub.service_client import ConflictError, NotFoundError, NotOnlineError
from tests.support.aws_iot import AwsIot, aws_iot
from tests.support.mosquitto import Mosquitto, mosquitto
from tests.support.waiting import until, within


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[tuple[Mosquitto, AwsIot]]:
    with mosquitto(tmp_path / "broker") as served:
        async with aws_iot(served) as services:
            yield served, services


@contextlib.asynccontextmanager
async def device(root: Path, served: Mosquitto, **more: Any) -> AsyncIterator[tuple[AwsControlPlane, list[int | None]]]:
    """A connected plane and the hints that it gave."""
    made = Settings(data=root, control_kind="aws", control_url=served.url, control_device="pi", **more)
    plane, hints = AwsControlPlane(made, call_seconds=20.0), list[int | None]()

    async def answer(name: str, payload: Any) -> MethodAnswer:
        return MethodAnswer(200, {})

    plane.listen(hints.append, answer)
    await within(plane.connect())
    try:
        yield plane, hints
    finally:
        await plane.close()


def operator(served: Mosquitto) -> AwsService:
    return AwsService(replace(parse(served.url), aws=True))


async def test_a_thing_without_a_shadow_makes_it_by_its_first_report(tmp_path: Path, cloud: Any) -> None:
    served, services = cloud
    async with device(tmp_path, served) as (plane, hints):
        assert (await plane.read_twin()).desired == {"$version": 0}
        await plane.patch_reported({"modelsync": {"models": {"a": {"state": "active"}}}})
        assert services.shadows["pi", "modelsync"].reported == {"models": {"a": {"state": "active"}}}
        assert not hints, "a device's own report is no news"


async def test_wishes_and_deletions_are_told_once_and_own_reports_never(tmp_path: Path, cloud: Any) -> None:
    served, services = cloud
    await services.desire(
        "pi", "modelsync", {"models": {"a": {"version": 1}, "b": {"version": 1}}, "policy": {"hold": True}}
    )
    async with device(tmp_path, served) as (plane, hints):
        await plane.read_twin()
        version = await services.desire("pi", "modelsync", {"models": {"a": {"version": 2}, "b": None}})
        await until(lambda: hints == [version], "the hint")
        await plane.patch_reported({"modelsync": {"models": {"a": {"state": "active"}}}})
        found = (await plane.read_twin()).desired
        assert found["modelsync"] == {"models": {"a": {"version": 2}}, "policy": {"hold": True}}
        assert len(hints) == 1
        # Somebody's change that this device did not hear of: the next number says that one is missing.
        services.shadows["pi", "modelsync"].desired = {"models": {"a": {"version": 3}}}
        services.shadows["pi", "modelsync"].version += 1
        await services.desire("pi", "modelsync", {"origin": "https://models.example.com"})
        await until(lambda: len(hints) == 2, "the second hint")
        assert (await plane.read_twin()).desired["modelsync"]["models"] == {"a": {"version": 3}}


async def test_what_does_not_fit_into_8_kb_is_cut_and_said(tmp_path: Path, cloud: Any) -> None:
    served, services = cloud
    names = [f"model-{n:02}" for n in range(60)]
    await services.desire("pi", "modelsync", {"models": {name: {"version": 2} for name in names}})
    async with device(tmp_path, served) as (plane, _):
        desired = (await plane.read_twin()).desired["modelsync"]
        assert plane.reported_limit == MAX_DOCUMENT_BYTES - 256 - len(broker.encode(desired))
        model = {"version": 2, "digest": "0" * 64, "generation": 2, "state": "active", "since": "2026-11-29T00:00:00Z"}
        status = {"models": dict.fromkeys(names, model), "daemon": {"version": "1"}, "ledger": {}}
        report = twin.build_reported(status, None, plane.reported_limit)
        await plane.patch_reported(report)
        shown = services.shadows["pi", "modelsync"].reported
        assert shown["cut"] == list(twin.CUT_FIRST[: len(shown["cut"])])
        assert len(shown["models"]) == 60 and all(one["state"] == "active" for one in shown["models"].values())
        with pytest.raises(RefusedError, match="8192 bytes together"):
            await plane.patch_reported({"modelsync": {"text": "x" * 8000}})


@pytest.mark.parametrize(
    ("code", "error"), [(429, UnreachableError), (500, UnreachableError), (403, RefusedError), (400, RefusedError)]
)
async def test_rejections_say_whether_trying_again_helps(tmp_path: Path, cloud: Any, code: int, error: Any) -> None:
    served, services = cloud
    async with device(tmp_path, served) as (plane, _):
        services.refuse["update"] = [code]
        with pytest.raises(error, match=str(code)):
            await plane.patch_reported({"modelsync": {"a": 1}})
        await plane.patch_reported({"modelsync": {"a": 1}})
        services.refuse["get"] = [code]
        with pytest.raises(error, match=str(code)):
            await plane.connect()


def has(job: Any, status: str) -> bool:
    return bool(job.status == status)


async def test_a_job_becomes_a_wish_and_ends_as_its_models_do(tmp_path: Path, cloud: Any) -> None:
    served, services = cloud
    good = await services.add_job("pi", "one", {"modelsync": {"models": {"a": {"version": 2}}}})
    async with device(tmp_path, served, control_jobs=True) as (plane, hints):
        await until(lambda: hints, "the wish")
        assert (await plane.read_twin()).desired["modelsync"]["models"] == {"a": {"version": 2}}
        await plane.patch_reported({"modelsync": {"models": {"a": {"version": 1, "state": "fetching", "desired": 2}}}})
        assert good.status == "IN_PROGRESS"
    async with device(tmp_path, served, control_jobs=True) as (plane, _):  # a restart in between
        await plane.patch_reported({"modelsync": {"models": {"a": {"version": 2, "state": "active", "desired": 2}}}})
        await until(lambda: good.status == "SUCCEEDED", "the end")
        bad = await services.add_job("pi", "two", {"modelsync": {"models": {"a": {"version": 3}}}})
        await until(lambda: bad.status == "IN_PROGRESS", "the second job")
        error = {"error": {"code": "probe", "text": "the probe failed."}}
        await plane.patch_reported({"modelsync": {"models": {"a": {"state": "quarantined", "desired": 3, **error}}}})
        await until(lambda: bad.status == "FAILED", "its failure")
        assert "a version 3: the probe failed." in bad.history[-1][1]
        for number, wrong in enumerate([{}, {"modelsync": 7}, {"modelsync": {"models": {"a": {"version": "x"}}}}]):
            made = await services.add_job("pi", f"wrong-{number}", wrong)
            await until(partial(has, made, "REJECTED"), "the rejection")
            assert "names no version" in made.history[-1][1]


async def test_a_job_for_what_is_so_already_ends_though_nothing_is_reported_any_more(
    tmp_path: Path, cloud: Any
) -> None:
    served, services = cloud
    refused = {"version": 1, "state": "quarantined", "desired": 3, "error": {"code": "probe", "text": "it differs."}}
    async with device(tmp_path, served, control_jobs=True) as (plane, _):
        await plane.patch_reported(
            {"modelsync": {"models": {"a": {"version": 2, "state": "active", "desired": 2}, "b": refused}}}
        )
        same = await services.add_job("pi", "same", {"modelsync": {"models": {"a": {"version": 2}}}})
        await until(lambda: same.status == "SUCCEEDED", "the end of what serves")
        again = await services.add_job("pi", "again", {"modelsync": {"models": {"b": {"version": 3}}}})
        await until(lambda: again.status == "FAILED", "the end of what is in quarantine")
        assert "b version 3: it differs." in again.history[-1][1]


async def test_the_operators_side_has_compare_and_set_and_says_what_it_lacks(tmp_path: Path, cloud: Any) -> None:
    served, services = cloud
    async with operator(served) as hub:
        with pytest.raises(NotFoundError, match="never reported"):
            await hub.twin("pi")
        first = await hub.set_desired("pi", {"modelsync": {"models": {"a": {"version": 1}}}})
        await services.desire("pi", "modelsync", {"models": {"b": {"version": 1}}})
        with pytest.raises(ConflictError, match="read it again"):
            await hub.set_desired("pi", {"modelsync": {"models": {"a": {"version": 2}}}}, etag=first["etag"])
        with pytest.raises(UsageError, match="too large"):
            many = {f"model-{n}": {"version": 1, "retry": "x" * 100} for n in range(80)}
            await hub.set_desired("pi", {"modelsync": {"models": many}})
        for call in (
            hub.update_twin("pi", {"tags": {"ring": "x"}}),
            hub.query_page("SELECT * FROM devices"),
            hub.set_desired("pi", {"other": 1}),
            hub.twin("pi", "module"),
        ):
            with pytest.raises(UsageError):
                await call
        with pytest.raises(NotOnlineError):
            await hub.invoke("pi", "status", response_seconds=0)
