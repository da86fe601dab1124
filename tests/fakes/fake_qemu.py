# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that looks like QEMU with the plugin, and fails in the way its plan says.

    fake_qemu.py PLAN.json QEMU-OPTIONS...

See plan.py for the plan.  Standard library only, so that it starts in 30 ms.
"""

import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.fake_memory import FakeMemory, Refused


RESTRICTED = (
    "query-restricted-memory", "query-restricted-memory-ranges", "restricted-memory-convert",
    "restricted-memory-accept", "restricted-memory-discard", "restricted-memory-poison",
    "restricted-memory-set-policy", "restricted-memory-invalidate",
    "query-restricted-memory-checkpoints", "restricted-memory-checkpoint",
    "restricted-memory-rewind", "restricted-memory-checkpoint-drop", "restricted-memory-save",
    "restricted-memory-stop-at",
    "restricted-memory-restore", "restricted-memory-follow-writes", "restricted-memory-take-writes",
    "restricted-memory-dump",
)  # fmt: skip
PLAIN = ("qmp_capabilities", "query-version", "query-commands", "qom-list-types", "query-status",
         "cont", "stop", "quit")  # fmt: skip
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
GREETING = {"QMP": {"version": {"qemu": {}, "package": ""}, "capabilities": ["oob"]}}


class FakeQemu:
    """The options, the connections and the plan of one run."""

    def __init__(self, plan: dict[str, Any], argv: list[str]) -> None:
        self.plan = plan
        self.options: dict[str, list[str]] = {}
        for option, value in zip(argv, [*argv[1:], ""], strict=True):
            if option.startswith("-"):
                self.options.setdefault(option, []).append(value)
        self.selector = selectors.DefaultSelector()
        self.monitors: list[socket.socket] = []
        self.buffers: dict[socket.socket, bytes] = {}
        self.steps: list[dict[str, Any]] = []
        self.status = "prelaunch"
        self.memory = self._memory()
        self.chardevs = {
            fields["id"]: int(fields["fd"])
            for value in self.options["-chardev"]
            if "fd" in (fields := parse(value))
        }

    def _memory(self) -> FakeMemory | None:
        for value in self.options.get("-object", []):
            if self.plan.get("no_plugin") == "at start":
                sys.exit(
                    "qemu: -object: Parameter 'qom-type' does not accept value "
                    "'memory-backend-restricted'"
                )
            fields = parse(value)
            if "size" not in fields:
                continue  # the guest's own object
            return FakeMemory(fields, int(fields["size"][:-1]) * UNITS[fields["size"][-1]])
        return None

    def run(self) -> None:
        if "exit_at_start" in self.plan:
            sys.stderr.write("qemu: it cannot be\n")
            leave(self.plan["exit_at_start"])
        signal.signal(signal.SIGTERM, self._terminated)
        self._listen()
        self._add_monitor(socket.socket(fileno=self.chardevs["qmp0"]))
        console = socket.socket(fileno=self.chardevs["console"])
        self.console = console
        self.agent = socket.socket(fileno=self.chardevs["agent"])
        self.selector.register(console, selectors.EVENT_READ, self._echo)
        while True:
            for key, _ in self.selector.select(0 if self.steps else None):
                key.data(key.fileobj)
            if self.steps:
                self._step(self.steps.pop(0))

    def _listen(self) -> None:
        path = self.options["-qmp"][0].removeprefix("unix:").split(",server")[0]
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
        self.selector.register(
            server, selectors.EVENT_READ, lambda _: self._add_monitor(server.accept()[0])
        )

    def _add_monitor(self, monitor: socket.socket) -> None:
        self.monitors.append(monitor)
        self.buffers[monitor] = b""
        self.selector.register(monitor, selectors.EVENT_READ, self._read)
        if not self.plan.get("no_greeting"):
            self._send(monitor, self.plan.get("greeting", GREETING))

    def _terminated(self, *_: object) -> None:
        if not self.plan.get("ignore_sigterm"):
            leave(0)

    def _echo(self, console: socket.socket) -> None:
        data = console.recv(4096)
        if data:
            console.sendall(data)
        else:
            self.selector.unregister(console)

    def _read(self, monitor: socket.socket) -> None:
        data = monitor.recv(1 << 20)
        if not data:
            self._drop(monitor)
            return
        *lines, self.buffers[monitor] = (self.buffers[monitor] + data).split(b"\n")
        for line in split_messages(lines):
            self._message(monitor, json.loads(line))
        # qemu.qmp sends no newline: a whole object ends a message.
        if (rest := self.buffers[monitor]).endswith(b"}") and whole(rest):
            self.buffers[monitor] = b""
            self._message(monitor, json.loads(rest))

    def _drop(self, monitor: socket.socket) -> None:
        self.selector.unregister(monitor)
        self.monitors.remove(monitor)
        monitor.close()

    def _send(self, monitor: socket.socket, message: dict[str, Any]) -> None:
        monitor.sendall(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, data: dict[str, Any]) -> None:
        seconds, rest = divmod(time.time_ns(), 10**9)
        stamp = {"seconds": seconds, "microseconds": rest // 1000}
        for monitor in self.monitors:
            self._send(monitor, {"event": name, "data": data, "timestamp": stamp})

    def _message(self, monitor: socket.socket, message: dict[str, Any]) -> None:
        command = message.get("execute") or message["exec-oob"]
        if self._misbehave(monitor, command):
            return
        answer: dict[str, Any]
        try:
            if command in self.plan.get("refuse", {}):
                raise Refused(self.plan["refuse"][command])  # noqa: TRY301 - as if it were below
            answer = {"return": self._execute(command, message.get("arguments", {}))}
        except Refused as refused:
            answer = {"error": {"class": "GenericError", "desc": str(refused)}}
        self._send(monitor, {**answer, "id": message.get("id")})
        if command == "quit":
            self._shutdown("host-qmp-quit")
            leave(self.plan.get("quit_status", 0))
        if command == "cont":
            self.steps += self.plan.get("boot", [])
            self.plan["boot"] = []

    def _misbehave(self, monitor: socket.socket, command: str) -> bool:
        """Do what the plan has for this command instead of answering; False: nothing."""
        match self.plan.get("on", {}).get(command):
            case None:
                return False
            case "hang":
                pass
            case "hang all":
                signal.pause()
            case "drop":
                self._drop(monitor)
            case "truncate":
                monitor.sendall(b'{"return": {"pages"')
                self._drop(monitor)
            case "garbage":
                monitor.sendall(b"\x00\xffnot json\r\n")
            case "nonsense":
                monitor.sendall(b'{"return": 5, "id": "who?"}\r\n')
            case int(status):
                leave(status)
        return True

    def _execute(self, command: str, arguments: dict[str, Any]) -> Any:
        known = PLAIN if self.plan.get("no_plugin") else (*PLAIN, *RESTRICTED)
        match command:
            case "query-version":
                return {"qemu": {"major": 10, "minor": 0, "micro": 99}, "package": "fake"}
            case "query-commands":
                return [{"name": name} for name in known]
            case "qom-list-types":
                return [] if self.plan.get("no_plugin") else [{"name": "memory-backend-restricted"}]
            case "query-status":
                return {"status": self.status, "running": self.status == "running"}
            case "cont" | "stop":
                self.status = "running" if command == "cont" else "paused"
            case _ if command in RESTRICTED:
                return self._restricted(command, arguments)
            case _ if command not in known:
                raise Refused(f"The command {command} has not been found")
        return {}

    def _restricted(self, command: str, arguments: dict[str, Any]) -> Any:
        if self.memory is None or command == "query-restricted-memory-checkpoints":
            return []
        match command.removeprefix("restricted-memory-"):
            case "query-restricted-memory":
                return [self.memory.info()]
            case "query-restricted-memory-ranges":
                return [{"gpa": 0, "size": self.memory.size, "state": "pending"}]
            case "set-policy":
                self.memory.policy = arguments["policy"]
                return {}
            case "invalidate":
                return {}
            case (
                "checkpoint"
                | "checkpoint-drop"
                | "rewind"
                | "save"
                | "restore"
                | "take-writes"
                | "follow-writes"
            ):
                raise Refused("this QEMU has no state to go back to")
            case verb:
                to = arguments.get("to", "")
                return {"pages": self.memory.change(verb, arguments["ranges"], to)}

    def _step(self, step: dict[str, Any]) -> None:
        """Run one step of the plan's boot."""
        ((name, value),) = step.items()
        self._actions()[name](value)

    def _actions(self) -> dict[str, Callable[[Any], object]]:
        memory = self.memory
        actions: dict[str, Callable[[Any], object]] = {
            "console": lambda text: self.console.sendall(text.encode()),
            "agent": lambda text: self.agent.sendall(text.encode()),
            "event": lambda event: self.event(*event),
            "log": lambda text: sys.stderr.write(f"{text}\n"),
            "shutdown": self._shutdown,
            "die": leave,
        }
        if memory is None:
            return actions
        return actions | {
            "touch": lambda span: memory.touch(*span),
            "phase": memory.begin_phase,
            "host_fault": memory.host_fault,
            "call": memory.call,
            "crash": lambda stop: setattr(memory, "stopped", stop),
            "stopped": self._stopped,
            "records": memory.push_many,
            "unpublished": lambda _: memory.claim_without_publishing(),
            "write_ring": lambda at: os.pwrite(memory.ring_fd, bytes.fromhex(at[1]), at[0]),
        }

    def _stopped(self, stop: dict[str, Any]) -> None:
        """The plugin stops the VM: its event comes before QEMU's."""
        self.status = "paused"
        if self.memory is not None:
            self.memory.stopped = stop
        self.event("RESTRICTED_MEMORY_STOPPED", {"id": "ram0", "stop": stop})
        self.event("STOP", {})

    def _shutdown(self, reason: str) -> None:
        self.status = "shutdown"
        self.event("SHUTDOWN", {"guest": reason.startswith("guest"), "reason": reason})


def parse(value: str) -> dict[str, str]:
    """Read ``type,key=value,...``."""
    return dict(part.split("=", 1) for part in value.split(",") if "=" in part)


def whole(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def split_messages(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if line.strip()]


def leave(status: int) -> None:
    """End now, by a signal if *status* is negative."""
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
        signal.pause()
    os._exit(status)


if __name__ == "__main__":
    FakeQemu(json.loads(Path(sys.argv[1]).read_bytes()), sys.argv[2:]).run()
