# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of ``cvmlab boot``, one line of help each.

Words that are one of a few are checked later, by bootplan.py, which can suggest the nearest one;
defaults are those of BootSpec, named here for people only.
"""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


_WHAT, _JUDGE, _OUTPUT = "What to boot", "Until when, and the verdict", "Output"
_BUDGET = "N|PHASE=N"

Image = Annotated[
    str | None, Argument(metavar="[IMAGE]", help="One of `cvmlab images`; default: the first.")
]
Kernel = Annotated[
    Path | None,
    Option("--kernel", "-k", help="Linux kernel, its build tree, or an ELF guest (PVH)."),
]
Initrd = Annotated[Path | None, Option(help="Initial RAM disk.")]
Append = Annotated[str | None, Option(help="Added to the kernel's command line.")]
Disks = Annotated[
    list[Path] | None, Option("--disk", help="Disk, qcow2 or raw; never written. Repeatable.")
]
DiskInterface = Annotated[
    str | None, Option(metavar="virtio-blk|nvme|ahci", help="Default: virtio-blk.")
]
Share = Annotated[
    Path | None, Option(metavar="DIR", help="A folder that the guest may read, on /share.")
]
OnConsole = Annotated[
    bool, Option("--console", help="Be at the guest's console; Ctrl-] ends the VM.")
]
UserData = Annotated[
    Path | None, Option(metavar="FILE", help="For cloud-init in a disk: a NoCloud seed.")
]
Exec = Annotated[
    str | None, Option("--exec", metavar="CMD", help="Run CMD in the guest; its status is ours.")
]
Coco = Annotated[str | None, Option(metavar="PROFILE|off", help="Default: generic.")]
CocoOptions = Annotated[
    list[str] | None,
    Option(
        "--coco-option",
        metavar="NAME=VALUE",
        help="Property of the guest object, such as sept-ve-disable=off. Repeatable.",
    ),
]
MapGpa = Annotated[
    str | None,
    Option(
        "--mapgpa",
        metavar="all|max:SIZE|retry:N|refuse",
        help="How the host answers a TD that asks for a conversion. Default: all.",
    ),
]
Quotes = Annotated[
    bool,
    Option(
        "--quotes",
        help="Answer requests for attestation, with quotes and reports that prove nothing.",
    ),
]
FirmwareName = Annotated[
    str | None, Option("--firmware", metavar="seabios|ovmf|FILE", help="Default: seabios.")
]
Memory = Annotated[str | None, Option("--memory", "-m", metavar="SIZE", help="Default: 1G.")]
Cpus = Annotated[int | None, Option(help="Default: 1.")]
TbCache = Annotated[
    str | None,
    Option(metavar="SIZE", help="QEMU's cache of translated guest code. Default: 256M."),
]
NetName = Annotated[str | None, Option("--net", metavar="user|none", help="Default: none.")]
OnHostAccess = Annotated[
    str | None,
    Option(
        metavar="deny|share|zero|stop", help="When the host touches private memory. Default: deny."
    ),
]
OnPending = Annotated[
    str | None,
    Option(metavar="accept|stop", help="When the guest touches what it has not accepted."),
]
Expect = Annotated[
    str | None, Option(metavar="REGEX", help="Wait for this on the console; then stop.")
]
Timeout = Annotated[float | None, Option(metavar="S", help="Seconds until it fails. Default: 120.")]
MaxFaults = Annotated[
    list[str] | None, Option(metavar=_BUDGET, help="Host accesses to private pages allowed.")
]
MaxConversions = Annotated[
    list[str] | None, Option(metavar=_BUDGET, help="Pages that may be converted.")
]
MaxAccepts = Annotated[
    list[str] | None, Option(metavar=_BUDGET, help="Pages that may be accepted.")
]
Baseline = Annotated[
    Path | None, Option(metavar="FILE", help="Fail if it takes more than that file says it took.")
]
Json = Annotated[
    str | None, Option("--json", metavar="FILE|-", help="Write result.json; the report to stderr.")
]
Junit = Annotated[Path | None, Option(metavar="FILE", help="Write JUnit XML.")]
Trace = Annotated[
    Path | None, Option(metavar="FILE", help="Write a trace that ui.perfetto.dev opens.")
]
Html = Annotated[Path | None, Option(metavar="FILE", help="Write the report as one HTML file.")]
RunDir = Annotated[Path | None, Option(metavar="DIR", help="Keep console, logs, events there.")]
Name = Annotated[str | None, Option(help="For `cvmlab ps` and the like. Default: vm.")]
Keep = Annotated[bool, Option("--keep", help="Keep the run folder of a good boot, too.")]
Gdb = Annotated[
    bool, Option("--gdb", help="Wait for gdb on port 1234; gdb may see private memory.")
]
Qemu = Annotated[Path | None, Option(metavar="PROGRAM", help="Default: what `build` made.")]
SymbolsFile = Annotated[
    Path | None,
    Option("--symbols", metavar="FILE", help="ELF file or System.map to name functions."),
]
DryRun = Annotated[bool, Option("--dry-run", help="Check everything, print the QEMU command.")]
Verbose = Annotated[
    bool, Option("--verbose", "-v", help="Show the console, and all of every list.")
]
Progress = Annotated[
    str | None, Option(metavar="auto|plain|rich|none", help="How to show progress on stderr.")
]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks.")]
