"""A stack of child processes kept running: what is killed is started again, what fails ends the stack."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Sequence

from deploy.embedded.processes import Child, Command, Pause, StartError, start

#: More deaths than this of one child within the window is a crash loop, not an accident.
MAX_RESTARTS = 20
RESTART_WINDOW = 60.0


class Supervisor:
    """Keeps a stack of children running: what is killed is started again, what fails ends the stack."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` prints one line for a person."""
        self._say = say
        self._children: list[Child] = []
        self._restarts: dict[str, deque[float]] = {}

    def start(self, command: Command) -> Child:
        """Start it after those it needs: they are restarted first and stopped last."""
        child = start(command)
        self._keep(child)
        return child

    def start_together(self, commands: Sequence[Command], pause: Pause) -> list[Child]:
        """Start those that do not need each other, and wait for all; after an error call `stop`.

        Raises StartError, and what `pause` raises.
        """
        children = [self._keep(Child(command)) for command in commands]
        for child in children:
            child.wait_ready(pause)
        return children

    def check(self, now: float) -> str | None:
        """Restart what was killed. Returns why the stack must stop, or None. `now`: any monotonic seconds."""
        for child in self._children:
            child.trim_log()
            code = child.exit_code
            if code is None:
                continue
            name, restarts = child.command.name, self._restarts[child.command.name]
            if code > 0:
                return f"{name} ended with code {code}: {child.last_line()}"
            if is_crash_loop(restarts, now):
                return f"{name} died {MAX_RESTARTS} times within {RESTART_WINDOW:g} s: {child.last_line()}"
            restarts.append(now)
            self._say(f"{name} {ending(code)}; starting it again")
            try:
                child.start()
            except StartError as error:
                return str(error)
        return None

    def stop(self, count: int | None = None) -> None:
        """Stop the last started first: `count` of them, or all."""
        for _ in range(len(self._children) if count is None else count):
            self._children.pop().stop()

    def kill(self) -> None:
        """Kill everything, the last started first."""
        while self._children:
            self._children.pop().kill()

    def _keep(self, child: Child) -> Child:
        self._children.append(child)
        self._restarts[child.command.name] = deque(maxlen=MAX_RESTARTS)
        return child


def is_crash_loop(restarts: deque[float], now: float) -> bool:
    return len(restarts) == MAX_RESTARTS and now - restarts[0] < RESTART_WINDOW


def ending(code: int) -> str:
    """How it ended, for people. `code`: 0, or minus a signal's number."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else "ended by itself"
