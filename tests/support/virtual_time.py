"""An asyncio loop whose clock jumps to the next timer whenever nothing else is to be done: weeks pass in seconds.

Nothing is mocked: what measures time by the loop's clock (`loop.time`, asyncio.sleep, asyncio.timeout) lives in it.
While work is in threads, time stands still, unless they wait for the loop themselves (`threads_may_wait`). Sockets
work, but the far side's delays take no time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_THREAD_SECONDS = 0.05


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.idle: Callable[[float | None], bool] = lambda timeout: False
        self.grace = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; where nothing is, let time jump instead of waiting."""
        ready = super().select(0)
        if not ready and self.grace and timeout != 0:
            ready = super().select(self.grace if timeout is None else min(timeout, self.grace))
        if ready or timeout == 0 or self.idle(timeout):
            return ready
        return super().select(_THREAD_SECONDS if timeout is None else min(timeout, _THREAD_SECONDS))


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at 0 seconds. Whoever uses sockets gives the kernel `grace` seconds to bring what is on its way."""

    def __init__(self, grace: float = 0.0) -> None:
        selector = _Selector()
        selector.grace = grace
        self._now = 0.0
        self._threads = 0
        super().__init__(selector)
        self._clock_resolution = 1e-6  # a jump may miss its timer by a rounding error
        selector.idle = self._jump

    def time(self) -> float:
        """Seconds since the loop was made, as it sees them."""
        return self._now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]  # typeshed's has another type variable syntax
        """As the loop's own; time stands still meanwhile."""
        self._threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, future: asyncio.Future[Any]) -> None:
        self._threads -= 1

    def waited_for(self, coroutine: Coroutine[Any, Any, _Result]) -> Coroutine[Any, Any, _Result]:
        """`coroutine`, for which one of the threads waits: that thread does no work meanwhile."""

        async def waiting() -> _Result:
            self._threads -= 1
            try:
                return await coroutine
            finally:
                self._threads += 1

        return waiting()

    def _jump(self, timeout: float | None) -> bool:
        if self._threads or timeout is None:
            return False
        self._now += timeout
        return True


@contextlib.contextmanager
def threads_may_wait() -> Iterator[None]:
    """Let time go on while a thread waits in asyncio.run_coroutine_threadsafe."""
    real = asyncio.run_coroutine_threadsafe

    def asked(coroutine: Any, loop: Any) -> Any:
        return real(loop.waited_for(coroutine) if isinstance(loop, VirtualLoop) else coroutine, loop)

    asyncio.run_coroutine_threadsafe = asked  # type: ignore[assignment]  # a generic function, for tests' coroutines
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe = real


def run_virtually(main: Coroutine[Any, Any, _Result], grace: float = 0.0) -> _Result:
    """As asyncio.run, in virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(grace)) as runner:
        return runner.run(main)


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Have a test run in virtual time: what it waits for, and how long for nothing to happen, no load decides."""

    @functools.wraps(test)
    def run(*args: Any, **options: Any) -> None:
        run_virtually(test(*args, **options))

    return run
