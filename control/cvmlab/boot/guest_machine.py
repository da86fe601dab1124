# SPDX-License-Identifier: GPL-2.0-or-later
"""From words and the guest's files to the machine that boots them."""

from dataclasses import replace

from cvmlab.boot.words import Words
from cvmlab.images.guest_files import GuestFiles
from cvmlab.machine.spec import BootSpec, EventLoss
from cvmlab.qemu.firmware import rom_dirs


def machine_of(words: Words, guest: GuestFiles) -> BootSpec:
    """Return the machine that *words* ask for, with the files of *guest* in it; raise ConfigError."""
    asked = words.machine
    machine = replace(
        asked,
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=guest.append,
        disks=(*guest.disks, *asked.disks, *guest.late_disks),
        share=guest.share,
        rom_dirs=asked.rom_dirs or tuple(rom_dirs(asked.architecture)),
        # What happened in a phase is known from events only.
        events=EventLoss.LOSSLESS if words.judge.by_phase else asked.events,
    )
    machine.validate()
    return machine
