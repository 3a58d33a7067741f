"""A version in memory, and the right to run it: leases pin their version, whatever is swapped meanwhile.

It loads nothing and reads no files. What becomes of a lease and its runs is told to whoever gave it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from modelsync_inference.errors import InputError, RunError
from modelsync_inference.model.batch_rules import join, rows_of, split
from modelsync_inference.model.pointer import VersionRef
from modelsync_inference.model.trial import Label, Trial
from modelsync_inference.runtimes.datatypes import Array
from modelsync_inference.runtimes.port import (
    LANGUAGE_PLATFORM,
    Generating,
    LoadedModel,
    TensorSpec,
    check_inputs,
    check_outputs,
)


@dataclass(eq=False, slots=True)
class Loaded:
    """A version in memory and how it came there (milliseconds). The rest belongs to `Serving`, under its lock.

    `unbatched`: why requests are not run together, as a sentence; None: they may be.
    """

    ref: VersionRef
    model: LoadedModel
    load_ms: int
    probe_ms: int
    unbatched: str | None = "it is not asked for."
    leases: int = 0
    retired: bool = False
    requests: int = 0
    errors: int = 0
    errors_in_a_row: int = 0
    deaths: int = 0
    died: str = ""
    timed: int = 0
    busy_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Outputs by name, all from one model, which version it was, in which role, and how long the run took.

    `batched`: how many requests that run answered together.
    """

    outputs: Mapping[str, Array]
    version: int
    digest: str
    label: Label = Label.STABLE
    seconds: float = 0.0
    batched: int = 1


class Lender(Protocol):
    """What a lease tells (serving.Serving)."""

    def count(self, loaded: Loaded, seconds: float, error: RunError | None = None, requests: int = 1) -> None:
        """A run of `requests` took so long, or `error` broke it."""

    def shadow(self, feeds: Mapping[str, Array], outputs: Sequence[str], answers: dict[str, Array]) -> None:
        """The serving version gave these answers."""

    def give_back(self, loaded: Loaded) -> None:
        """The lease has ended."""


class Lease:
    """The right to run one version until `release` (or the end of `with`); swaps don't touch it."""

    def __init__(self, lender: Lender, loaded: Loaded, label: Label = Label.STABLE, trial: Trial | None = None) -> None:
        self._lender, self._trial = lender, trial
        self.label = label
        self._loaded: Loaded | None = loaded
        self.version = loaded.ref.version
        self.digest = loaded.ref.digest

    @property
    def platform(self) -> str:
        """The Open Inference Protocol's name of the platform."""
        return self._held().model.platform

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes."""
        return self._held().model.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` gives."""
        return self._held().model.outputs

    def run(self, inputs: Mapping[str, object], outputs: Sequence[str] | None = None) -> Prediction:
        """Run on `inputs` and return the named outputs (None: all).

        Raises InputError if the tensors don't fit, RunError if the model breaks.
        """
        loaded = self._held()
        wanted = check_outputs(loaded.model.outputs, outputs)
        return self._run(loaded, check_inputs(loaded.model.inputs, inputs), wanted)

    def run_batch(
        self, requests: Sequence[Mapping[str, object]], outputs: Sequence[str] | None = None
    ) -> list[Prediction | InputError | RunError]:
        """Run several requests of one kind (batching.kind_of) together; what became of each, in order.

        A request that does not fit, or breaks the model, hurts only itself: then each is run alone.
        """
        loaded = self._held()
        results: dict[int, Prediction | InputError | RunError] = {}
        fitting: dict[int, dict[str, Array]] = {}
        for number, inputs in enumerate(requests):
            try:
                wanted = check_outputs(loaded.model.outputs, outputs)
                fitting[number] = check_inputs(loaded.model.inputs, inputs)
            except InputError as error:
                results[number] = error
        predictions = self._run_together(loaded, list(fitting.values()), wanted) if len(fitting) > 1 else None
        if predictions is not None:
            results |= dict(zip(fitting, predictions, strict=True))
            return [results[number] for number in range(len(requests))]
        for number, feeds in fitting.items():
            try:
                results[number] = self._run(loaded, feeds, wanted)
            except (InputError, RunError) as error:
                results[number] = error
        return [results[number] for number in range(len(requests))]

    def _run_together(
        self, loaded: Loaded, requests: list[dict[str, Array]], wanted: list[str]
    ) -> list[Prediction] | None:
        """None: it can't be, or it went wrong."""
        rows = [rows_of(feeds) or 0 for feeds in requests]
        if loaded.unbatched is not None or 0 in rows:
            return None
        feeds = join(requests)
        started = time.monotonic()
        try:
            values = loaded.model.run(feeds, wanted)
        except (InputError, RunError):
            return None  # who is to blame shows when they are run alone, and is counted there
        seconds = time.monotonic() - started
        answers = split(values, rows)
        if answers is None:
            return None
        self._count(loaded, feeds, wanted, values, seconds, len(requests))
        return [Prediction(answer, self.version, self.digest, self.label, seconds, len(requests)) for answer in answers]

    def _run(self, loaded: Loaded, feeds: dict[str, Array], wanted: list[str]) -> Prediction:
        started = time.monotonic()
        try:
            values = loaded.model.run(feeds, wanted)
        except RunError as error:
            self._lender.count(loaded, time.monotonic() - started, error)
            if self._trial is not None and self.label is Label.CANARY:
                self._trial.count_canary(1, errors=1)
            raise
        seconds = time.monotonic() - started
        self._count(loaded, feeds, wanted, values, seconds, 1)
        return Prediction(values, self.version, self.digest, self.label, seconds)

    def _count(
        self,
        loaded: Loaded,
        feeds: dict[str, Array],
        wanted: list[str],
        values: dict[str, Array],
        seconds: float,
        requests: int,
    ) -> None:
        self._lender.count(loaded, seconds, requests=requests)
        if self._trial is None:
            self._lender.shadow(feeds, wanted, values)
        elif self.label is Label.CANARY:
            self._trial.count_canary(requests)

    def generate(self, request: bytes, emit: Callable[[bytes], bool]) -> None:
        """Have a language model answer `request` in parts (see runtimes.port.Generating).

        Raises InputError if it does not fit or this is no language model, RunError if the model breaks.
        """
        loaded = self._held()
        model = loaded.model
        if model.platform != LANGUAGE_PLATFORM or not isinstance(model, Generating):
            raise InputError("the model is no language model (a .gguf file), so it writes nothing.")
        started = time.monotonic()
        try:
            model.generate(request, emit)
        except RunError as error:
            self._lender.count(loaded, time.monotonic() - started, error)
            if self._trial is not None and self.label is Label.CANARY:
                self._trial.count_canary(1, errors=1)
            raise
        self._lender.count(loaded, time.monotonic() - started)
        if self._trial is not None and self.label is Label.CANARY:
            self._trial.count_canary(1)

    def release(self) -> None:
        """Give the version back; may be repeated."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            self._lender.give_back(loaded)

    def _held(self) -> Loaded:
        if self._loaded is None:
            raise InputError("this lease has been released; take a new one.")
        return self._loaded

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
