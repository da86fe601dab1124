# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hostile QMP client says, and what it leaves out, with the reason for each."""

from fnmatch import fnmatchcase


NUMBERS = (
    0, 1, 2, 7, 4095, 4096, 0x9F000, 0xA0000, 0x100000, 0x2000000, 0x3FFF000, 0x4000000, 1 << 32,
    (1 << 52) - 4096, 1 << 61, (1 << 63) - 1, -1, -4096, -(1 << 63),
)  # fmt: skip
PATHS = (
    "/objects", "/objects/ram0", "/machine", "/machine/peripheral", "/machine/unattached",
)  # fmt: skip
# Also names of files that QEMU makes, so none begins with a slash.
WORDS = (
    "", "ram0", "tdx0", "sev0", "sev-snp0", "edu0", "on", "off", "shared", "private", "discard",
    "x" * 3000, "\u0000", "tcp:127.0.0.1:1", "unix:/nonexistent", "edu", "virtio-rng-pci", "name",
    "merge", "dump", "prealloc", "size", "share", "policy", "realized", "hotplugged",
    "quote-generation-socket", "guest-request-socket", "serial0", "pcie.0",
)  # fmt: skip
SIZES = (0, 1, 8, 4095, 4096, 65536, 1 << 20)  # of what is saved: larger ones take seconds
CHECKPOINTS = ("a", "b", "c", "")
HMP = (
    "info registers", "info mem", "info tlb", "info mtree", "info qtree", "info ramblock", "x /4xg 0",
    "xp /4xg 0x2000000", "gva2gpa 0", "gpa2hva 0x2000000", "print $rip", "info lapic", "sum 0 4096",
    "log guest_errors", "log none", "info migrate", "savevm x", "loadvm x", "info snapshots", "nmi",
    "gdbserver none", "calc_dirty_rate 1", "info dirty_rate", "info cpus", "info irq", "info pic",
    "one-insn-per-tb on", "one-insn-per-tb off", "i /b 0x60", "p 1+", "cpu 0", "info jit",
)  # fmt: skip
FAVOURITES = (
    "qom-get", "qom-set", "qom-list", "device_add", "device_del", "migrate", "migrate-set-parameters",
    "migrate_cancel", "migrate-set-capabilities", "migrate-continue", "migrate-pause", "human-monitor-command",
    "restricted-memory-convert", "restricted-memory-accept",
    "restricted-memory-discard", "restricted-memory-poison", "restricted-memory-set-policy",
    "restricted-memory-invalidate", "restricted-memory-checkpoint", "restricted-memory-rewind",
    "restricted-memory-checkpoint-drop", "restricted-memory-save", "restricted-memory-restore",
    "restricted-memory-follow-writes", "restricted-memory-take-writes", "restricted-memory-dump", "restricted-memory-stop-at",
    "query-restricted-memory", "query-restricted-memory-ranges", "query-restricted-memory-checkpoints",
    "memsave", "pmemsave", "dump-guest-memory", "stop", "cont", "system_reset", "object-add",
    "object-del", "calc-dirty-rate", "set-vcpu-dirty-limit", "inject-nmi", "balloon", "device-sync-config",
    "trace-event-set-state", "sev-inject-launch-secret", "qom-list-properties", "device-list-properties",
    "rtc-reset-reinjection", "query-cpu-model-expansion",
)  # fmt: skip
SLOW = ("device_add", "query-cpu-definitions", "query-machines", "cont")  # asked less often
# Plugged often enough to use them; the others are any device that this QEMU has.
DEVICES = (
    "edu",
    "virtio-rng-pci",
    "virtio-net-pci",
    "nvme",
    "virtio-balloon-pci",
    "max-x86_64-cpu",
)
OBJECTS = (
    "memory-backend-restricted", "memory-backend-ram", "memory-backend-memfd", "tdx-guest", "sev-guest",
    "sev-snp-guest", "rng-random", "iothread", "throttle-group", "secret",
)  # fmt: skip
# What keeps a guest from attacking at the same time.
DISTURBING = (
    "stop", "system_reset", "inject-nmi", "restricted-memory-set-policy", "restricted-memory-invalidate",
    "restricted-memory-rewind", "nmi", "one-insn-per-tb on",
)  # fmt: skip
# The rest of the schema is asked for.
LEFT_OUT = {
    "quit": "it does what it says",
    "query-qmp-schema": "long, and always the same",
    "blockdev-reopen": "bdrv_reopen_multiple() asserts on an empty list",
    "transaction": "reads through NULL for a bitmap that does not exist",
    "set-action": "QEMU would exit when the guest resets, which is what it is told to do",
}
# Types of objects, devices and character devices for which stock QEMU calls exit() or abort().
LEFT_OUT_TYPES = {
    "acpi-generic-initiator": "exits if the machine has no such NUMA node",
    "acpi-generic-port": "the same",
    "hub": "has no handler of events, which chardev-send-break calls all the same",
    "vc": "a text console of any width aborts for want of memory",
    "filter-dump": "closes descriptor 0, whatever that is, if it cannot be completed",
    "parallel": "the same, if it cannot be opened",
    "stdio": "asserts if QEMU's own input is closed by then, which the one before does",
    "pr-manager-helper": "waits for its peer, which may be a socket of QEMU itself",
    "qtest": "closes standard error, where the sanitizers report",
    "cryptodev-*": "query-cryptodev reads through NULL if one has no client",
}
# Members of arguments that are left out, wherever they are.
LEFT_OUT_MEMBERS = {
    "wait": "QEMU waits for a client before it answers",
    "open-timeout": "QEMU waits so long for a server that is not there, and holds its main loop",
    "preallocation": "it would fill the disk",
    "block-bitmap-mapping": "stock QEMU does not free a clone of this list",
}
# A test must not eat the machine: values of members, by command.
_SMALL_MEMORY: dict[str, object] = {"size": 1 << 20, "prealloc": False}
SMALL: dict[str, dict[str, object]] = {
    "object-add": _SMALL_MEMORY,
    "device_add": _SMALL_MEMORY,
    "blockdev-create": _SMALL_MEMORY,
    "chardev-add": _SMALL_MEMORY,
    "chardev-change": _SMALL_MEMORY,
    "netdev_add": {"type": "user"},  # no network of the host
    "announce-self": {"rounds": 3},  # of more, without a pause, the main loop does nothing else
}


def is_left_out(name: str, of: dict[str, str] = LEFT_OUT) -> bool:
    """Tell whether no request has this name, of a command or of another table here."""
    return any(fnmatchcase(name, pattern) for pattern in of)
