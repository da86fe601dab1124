# SPDX-License-Identifier: GPL-2.0-or-later
"""What devices lose by the guard: a guest's throughput through bounce buffers in shared memory.

Against a guest of unpatched QEMU that uses its bounce buffers just the same (``swiotlb=force``):
what they cost by themselves is nobody's fault here.
"""

import re
import socketserver
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import override

from cvmlab import images
from cvmlab.qemu import build
from tests.bench.boots import MEMFD, TIMEOUT_S, command, memory, stock_alike
from tests.bench.measure import Figure, ratio


ROUNDS = 5
PASSES = 5  # the first of which touches the bounce buffer for the first time, and does not count
DISK_MIB = 256
NET_MIB = 32
VIRTIO = "iommu_platform=on,disable-legacy=on"
# Host and guest share a clock under TCG; /proc/uptime has its hundredths of a second.
TIMED = """
now() {{ cut -d' ' -f1 /proc/uptime; }}
wait-for /dev/vda
for pass in $(seq {passes}); do
  echo 3 >/proc/sys/vm/drop_caches
  from=$(now); dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null; echo "took disk $from $(now)"
done
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
for pass in $(seq {passes}); do
  from=$(now); nc 10.0.2.2 {port} </dev/null >/dev/null; echo "took net $from $(now)"
done
"""


class _Giver(socketserver.BaseRequestHandler):
    """Sends as much as a pass of the network takes."""

    @override
    def handle(self) -> None:
        for _ in range(NET_MIB):
            self.request.sendall(bytes(1 << 20))


@contextmanager
def giving() -> Iterator[int]:
    """Serve on loopback, which the guest reaches as 10.0.2.2; yield the port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Giver) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def throughput(qemu: Path, kind: str, folder: Path) -> dict[str, float]:
    """Boot once; return the median MiB/s of disk and network as the guest sees them."""
    disk, said = folder / "disk", folder / "said"
    with disk.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    with giving() as port:
        script = TIMED.format(passes=PASSES, port=port)
        files = images.resolve("debian-devices", exec_command=script)
        argv = [
            *command(
                qemu, memory(kind), files, append="swiotlb=force", agent=f"file:{said}"
            ),
            "-drive", f"if=none,id=disk,format=raw,file={disk},cache=writeback",
            "-device", f"virtio-blk-pci,drive=disk,{VIRTIO}",
            "-netdev", "user,id=net", "-device", f"virtio-net-pci,netdev=net,romfile=,{VIRTIO}",
        ]  # fmt: skip
        subprocess.run(argv, check=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    text = said.read_text(errors="replace")
    return {"disk": rate(text, "disk", DISK_MIB), "net": rate(text, "net", NET_MIB)}


def rate(said: str, what: str, mib: int) -> float:
    times = [
        float(end) - float(start)
        for start, end in re.findall(rf"took {what} ([0-9.]+) ([0-9.]+)", said)
    ]
    if len(times) != PASSES:
        raise RuntimeError(f"the guest did not measure its {what}: {said[-500:]}")
    return mib / max(statistics.median(times[1:]), 0.01)


def figures(rounds: int | None = None) -> Iterator[Figure]:
    patched, stock = build.qemu_binary(), stock_alike()
    setups = {"tdx": (patched, "tdx"), "sev-snp": (patched, "sev-snp"), "": (stock, MEMFD)}
    with tempfile.TemporaryDirectory(prefix="cvmlab-bench-") as folder:
        taken = [
            {name: throughput(*setup, Path(folder)) for name, setup in setups.items()}
            for _ in range(rounds or ROUNDS)
        ]
    for coco in ("tdx", "sev-snp"):
        for what in ("disk", "net"):
            mine, plain = ([one[name][what] for one in taken] for name in (coco, ""))
            yield ratio(f"{what}-{coco}", mine, plain, "MiB/s")
