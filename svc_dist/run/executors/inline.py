"""Executor in this process: units run in parallel threads."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from svc_dist.errors import DrainedError, SvcDistError
from svc_dist.plan.model import Plan
from svc_dist.run.devices.cuda import limit_memory
from svc_dist.run.host import available_memory, cores, default_slots, device_memory, window_memory
from svc_dist.run.options import Options
from svc_dist.run.placement import AHEAD, Node
from svc_dist.run.process import set_up_for_units
from svc_dist.run.schedule import Event, Failed, Instruction
from svc_dist.run.worker import Worker
from svc_dist.run_folder.output import Output

#: Seconds for which the end of a run waits for what its threads are writing; they begin to write nothing more.
_LAST_WRITES = 5.0


class InlineExecutor:
    """Executes each instruction in a new thread; the schedule limits their number."""

    name = "inline"

    def __init__(self, plan: Plan, output: Output, options: Options) -> None:
        settings, window = plan.settings, window_memory()
        slots = options.slots or default_slots(settings)
        memory, name = available_memory() // 2 + window, socket.gethostname()
        node = Node(slots, memory, device_memory(settings.device), name, ahead=AHEAD * slots)
        host = Node(max(1, cores() // settings.threads_per_unit), memory // 2, name=name)
        self._worker = Worker(
            output.location, plan.fingerprint, options.scratch, output.access, plan,
            window=window, lanes=slots, host_lanes=host.slots,
        )  # fmt: skip
        self.nodes: Mapping[str, Node] = {"": node}
        if node.device_memory is not None:  # units that need no device compute on the cores beside it
            self.nodes = {"": replace(node, memory=memory // 2), "cores": replace(host, ahead=AHEAD * host.slots)}
        self._events: queue.Queue[Event | BaseException] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._process = ExitStack()
        self._process.enter_context(set_up_for_units(settings))
        if node.device_memory is not None:
            limit_memory(node.device_memory)

    def submit(self, instruction: Instruction) -> None:
        # Daemon threads: the process must be able to exit while they run, after the grace period of a drain.
        thread = threading.Thread(target=self._run, args=(instruction,), name=str(instruction), daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    def drain(self) -> None:
        self._worker.drain()

    def abandon(self, instruction: Instruction) -> bool:
        return False  # a thread cannot be stopped, and would run in parallel with its successor

    def wait(self, timeout: float) -> list[Event]:
        """The events that came in; waits at most ``timeout`` seconds for the first. Raises unexpected errors."""
        events: list[Event] = []
        try:
            item = self._events.get(timeout=timeout)
            while True:
                if isinstance(item, BaseException):
                    raise item
                events.append(item)
                item = self._events.get_nowait()
        except queue.Empty:
            return events

    def close(self) -> None:
        """End what is in flight before it writes more, then restore the process's settings with the last thread.

        What is being written may finish: whoever holds the output next must not find it changing.
        """
        self._worker.stop()
        until = time.monotonic() + _LAST_WRITES
        try:
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))
        finally:
            self._process.close()

    def _run(self, instruction: Instruction) -> None:
        try:
            with set_up_for_units(self._worker.plan.settings):
                self._events.put(self._worker.execute(instruction))
        except DrainedError as error:
            self._events.put(Failed(instruction, error, lost=True, uncounted=True))
        except SvcDistError as error:
            self._events.put(Failed(instruction, error))
        except BaseException as error:
            self._events.put(error)  # a bug: it ends the run with its traceback, in the thread that waits
