"""Which parts there are, in which state, and who needs whom."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from pydantic import BaseModel, ConfigDict

from corsac.core.exceptions import (
    AlreadyRegistered,
    DependencyCycle,
    EngineUnavailable,
    HasDependents,
    ServiceNotFound,
)
from corsac.core.service import Part, StartFailure

SERVICE = "service"


class State(StrEnum):
    """Where a part is in its life."""

    REGISTERED = "registered"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


WORKING = frozenset({State.READY, State.DEGRADED})
FailureKind = Literal["not_ready", "refused", "broken"]


@dataclass(slots=True)
class Entry:
    """One part in the registry.

    Args:
        name: `tts` for a service, `speech:piper` for an engine.
        kind: `service`, or the engine's kind.
        part: What is started and stopped.
        requires: Kinds of engines and names of services that it needs.
        state: Its own state; `ServiceRegistry.state_of` adds what its requirements make of it.
        failure: Which of the three start failures it is in.
        detail: Why it is in this state.
        hint: What mends it.
        since: Epoch seconds of the last change of state.
        attempts: Starts tried since it last worked.
    """

    name: str
    kind: str
    part: Part
    requires: tuple[str, ...] = ()
    state: State = State.REGISTERED
    failure: FailureKind | None = None
    detail: str = ""
    hint: str | None = None
    since: float = 0.0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Why:
    """Why something does not work, and what mends it."""

    detail: str
    hint: str | None = None


class PartStatus(BaseModel):
    """The state of a part, as it is answered."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    state: State
    failure: FailureKind | None
    detail: str
    hint: str | None
    since: float
    attempts: int
    requires: list[str]
    required_by: list[str]


@dataclass(slots=True)
class ServiceRegistry:
    """All parts of one server.

    Args:
        now: Epoch seconds.
        on_move: Told of every change of state.
    """

    now: Callable[[], float] = time.time
    on_move: Callable[[Entry], object] | None = None
    _entries: dict[str, Entry] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def register(self, entry: Entry) -> None:
        """Add a part.

        Raises:
            AlreadyRegistered: The name is taken.
            DependencyCycle: It closes a circle; the detail names it, and the part is not added.
        """
        if entry.name in self._entries:
            raise AlreadyRegistered(f"{entry.name} is registered already.")
        entry.since = self.now()
        self._entries[entry.name] = entry
        try:
            self.start_order()
        except DependencyCycle:
            del self._entries[entry.name]
            raise

    def get(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            ServiceNotFound: There is none; the detail names near ones.
        """
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=3)
        raise ServiceNotFound(f"Near names: {', '.join(near)}." if near else "", hint="GET /api/registry lists them.")

    def needed_by(self, entry: Entry) -> list[Entry]:
        """The registered parts that `entry` requires, engines of a required kind included."""
        return [other for other in self if other.name in entry.requires or other.kind in entry.requires]

    def dependents(self, name: str) -> list[Entry]:
        """The parts that cannot do without `name`: an engine of which others of its kind work is not listed."""
        target = self.get(name)
        others = [each for each in self._of_kind(target.kind) if each is not target and each.state in WORKING]
        return [
            each
            for each in self
            if each.state in WORKING
            and (name in each.requires or (target.kind in each.requires and target.kind != SERVICE and not others))
        ]

    def start_order(self) -> list[Entry]:
        """All parts, each after what it requires.

        Raises:
            DependencyCycle: There is no such order; the detail names the circle.
        """
        graph = {each.name: [other.name for other in self.needed_by(each)] for each in self}
        try:
            return [self._entries[name] for name in TopologicalSorter(graph).static_order()]
        except CycleError as error:
            raise DependencyCycle(f"{' → '.join(error.args[1])} need each other in a circle.") from error

    def check_stoppable(self, name: str) -> None:
        """Raises HasDependents where working parts need this one."""
        if dependents := self.dependents(name):
            raise HasDependents(f"{name} is needed by {', '.join(each.name for each in dependents)}.")

    def move(
        self, entry: Entry, state: State, why: StartFailure | None = None, kind: FailureKind | None = None
    ) -> None:
        """Record a change of state."""
        entry.state, entry.failure, entry.since = state, kind, self.now()
        entry.detail, entry.hint = (why.detail, why.hint) if why else ("", None)
        if state is State.READY:
            entry.attempts = 0
        if self.on_move is not None:
            self.on_move(entry)
        self._changed.set()
        self._changed = asyncio.Event()

    def state_of(self, entry: Entry) -> State:
        """Its own state, or `degraded` where it works without something that it requires."""
        if entry.state is State.READY and self._missing(entry):
            return State.DEGRADED
        return entry.state

    def why_unavailable(self, name: str) -> Why | None:
        """Why a service takes no calls, or None while it does."""
        entry = self.get(name)
        if entry.state in WORKING:
            return None
        detail = f"The service {name} is {entry.state}."
        return Why(f"{detail[:-1]}: {entry.detail}" if entry.detail else detail, entry.hint)

    async def engines(self, kind: str, wait_s: float = 0.0) -> list[Part]:
        """The working engines of a kind, in the order of registration.

        Args:
            kind: For example `speech`.
            wait_s: Seconds to wait where none works but one is starting.

        Raises:
            EngineUnavailable: None works; the detail says why, the hint what mends it.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            entries = self._of_kind(kind)
            if working := [each.part for each in entries if each.state in WORKING]:
                return working
            left_s = deadline - asyncio.get_running_loop().time()
            if not await self.another_started(kind, left_s):
                raise self._no_engine(kind, entries)

    async def another_started(self, kind: str, wait_s: float) -> bool:
        """Wait for an engine of the kind that is starting.

        Args:
            kind: For example `speech`.
            wait_s: Seconds to wait.

        Returns:
            Whether the state of a part has changed; False at once where no engine of the kind is starting.
        """
        if not any(each.state in (State.STARTING, State.REGISTERED) for each in self._of_kind(kind)):
            return False
        changed = self._changed
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    def check_engine(self, kind: str, name: str) -> None:
        """Raises EngineUnavailable where an engine is installed and does not work."""
        entry = self._entries.get(f"{kind}:{name}")
        if entry is not None and entry.state not in WORKING:
            raise self._no_engine(kind, [entry])

    def status(self, entry: Entry) -> PartStatus:
        """What `GET /api/registry` says of it."""
        missing = self._missing(entry) if entry.state is State.READY else []
        details = [entry.detail, *(f"{each.name} is {each.state}: {each.detail}" for each in missing)]
        hints = [entry.hint, *(each.hint for each in missing)]
        return PartStatus(
            name=entry.name,
            kind=entry.kind,
            state=self.state_of(entry),
            failure=entry.failure,
            detail=" ".join(filter(None, details)),
            hint=next(filter(None, hints), None),
            since=entry.since,
            attempts=entry.attempts,
            requires=list(entry.requires),
            required_by=[each.name for each in self if entry.name in each.requires or entry.kind in each.requires],
        )

    def _missing(self, entry: Entry) -> list[Entry]:
        return [each for each in self.needed_by(entry) if each.state not in WORKING]

    def _of_kind(self, kind: str) -> list[Entry]:
        return [each for each in self if each.kind == kind]

    @staticmethod
    def _no_engine(kind: str, entries: Sequence[Entry]) -> EngineUnavailable:
        if not entries:
            return EngineUnavailable(f"No engine of the kind {kind} is installed.")
        reasons = " ".join(f"{each.name} is {each.state}: {each.detail or 'no detail'}" for each in entries)
        hint = next((each.hint for each in entries if each.hint), None)
        return EngineUnavailable(f"No {kind} engine works. {reasons}", hint=hint)
