"""What follows from inference processes' reports about a switch: how the version before did, and what is trouble.

No I/O here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelsync_daemon.activate import inference_processes as reports
from modelsync_daemon.activate.inference_processes import Event, Report
from modelsync_daemon.disk.pointer import Pointer

_MIN_ERRORS = 5
_ERROR_RATE_RISE = 0.1
_MIN_TIMED_REQUESTS = 50
_SLOWER = 4.0
_SLOWER_BY_MICROSECONDS = 2000


@dataclass(frozen=True, slots=True)
class Before:
    """How the version before the switch did: the share of runs that failed, and the mean microseconds of one.

    0: not known, and then it is not compared.
    """

    error_rate: float = 0.0
    run_us: float = 0.0


def how_it_did(last: Sequence[Report]) -> Before:
    """What the processes' last reports say of the version that serves."""
    served = [report for report in last if report.state == reports.SERVING]
    requests = sum(report.requests for report in served)
    timed = [report.run_us for report in served if report.run_us and report.requests >= _MIN_TIMED_REQUESTS]
    errors = sum(report.errors for report in served)
    return Before(errors / requests if requests else 0.0, sum(timed) / len(timed) if timed else 0.0)


def how_it_ended(event: Event) -> str:
    """The rest of a sentence about the process that a reporting one came after; empty if nobody knows."""
    return f" (it {event.ended})" if isinstance(event, Report) and event.restarts and event.ended else ""


def is_about(report: Report, pointer: Pointer) -> bool:
    """Whether a report speaks of this very switch."""
    return report.pointer == "current" and report.generation == pointer.generation and report.digest == pointer.digest


def trouble_with(report: Report, before: Before) -> str | None:
    """Why a report on probation means that the version has to go; None if it may stay."""
    if report.state in (reports.REFUSED, reports.FAILED):
        return report.reason or "the inference process can't serve it."
    if report.errors >= _MIN_ERRORS and report.errors / max(report.requests, 1) > before.error_rate + _ERROR_RATE_RISE:
        return f"{report.errors} of {report.requests} requests failed since the switch."
    limit = max(before.run_us * _SLOWER, before.run_us + _SLOWER_BY_MICROSECONDS)
    if before.run_us and report.requests >= _MIN_TIMED_REQUESTS and report.run_us > limit:
        return (
            f"a run takes {report.run_us / 1000:.1f} ms on average since the switch; "
            f"the version before took {before.run_us / 1000:.1f} ms."
        )
    return None
