# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of a recorded boot: written while it runs, valid once its manifest is there."""

import shutil
from pathlib import Path
from typing import final

import msgspec

from cvmlab.base.errors import ConfigError
from cvmlab.machine.spec import BootSpec
from cvmlab.replays import replay_manifest as parts
from cvmlab.replays.replay_manifest import MANIFEST, ReplayManifest
from cvmlab.snapshots.manifest import EVENTS
from cvmlab.snapshots.snapshot_folder import store_file
from cvmlab.snapshots.spec_document import boot_files, from_document


def begin(place: Path, spec: BootSpec) -> None:
    """Make *place* a folder for a recording of *spec*; a recording that is there goes.

    :raise ConfigError: it has other files, or those of *spec*, or cannot be written.
    """
    place = place.absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in place.iterdir()}
        is_recording = not found.isdisjoint({MANIFEST, parts.LOG})
        odd = sorted(found - parts.NAMES if is_recording else found)
        if odd:
            raise ConfigError(
                f"{place} has files that are no part of a recording, such as {odd[0]}",
                hint="choose an empty folder, or one that is not there yet",
            )
        for path in (*boot_files(spec), *(disk.path for disk in spec.disks)):
            if path.resolve().is_relative_to(place.resolve()):
                raise ConfigError(
                    f"{path} is in the folder that is to be recorded in",
                    hint="choose another folder",
                )
        for name in (MANIFEST, *sorted(parts.NAMES - {MANIFEST})):
            (place / name).unlink(missing_ok=True)
    except OSError as error:
        raise not_written(place, error) from error


def keep_boot_files(place: Path, spec: BootSpec) -> dict[Path, str]:
    """Copy what QEMU reads at its start; return the names of the copies."""
    own = boot_files(spec)
    try:
        for path, name in own.items():
            shutil.copyfile(path, place / name)
    except OSError as error:
        raise not_written(place, error) from error
    return own


def finish(place: Path, manifest: ReplayManifest) -> ReplayManifest:
    """Add the digests of the files of *place*, and write the manifest, which makes it whole."""
    try:
        stored = {
            path.name: store_file(place, path.name, compress=False)
            for path in sorted(place.iterdir())
            if path.name in parts.NAMES and path.name != parts.UNFINISHED
        }
        manifest = msgspec.structs.replace(manifest, files=stored)
        (place / parts.UNFINISHED).write_bytes(manifest.encode())
        (place / parts.UNFINISHED).replace(place / MANIFEST)
    except OSError as error:
        raise not_written(place, error) from error
    return manifest


def not_written(place: Path, error: OSError) -> ConfigError:
    """Return the error of a recording that cannot be written."""
    return ConfigError(
        f"the recording {place} cannot be written: {error.strerror}", hint="choose another folder"
    )


@final
class ReplayFolder:
    """A recorded boot on disk.  Use open(); ``spec`` is its VM, with the files that the folder has."""

    def __init__(self, path: Path, manifest: ReplayManifest, spec: BootSpec) -> None:
        self.path = path
        self.manifest = manifest
        self.spec = spec

    @classmethod
    def open(cls, path: Path) -> "ReplayFolder":
        """Read a recording; raise ConfigError if there is none, or it is damaged."""
        path = path.absolute()
        try:
            text = (path / MANIFEST).read_bytes()
        except OSError as error:
            unfinished = (path / parts.LOG).exists()
            raise ConfigError(
                f"{path} is a recording that was not finished: QEMU or cvmlab ended before"
                if unfinished
                else f"{path} is no recording: {error.strerror}",
                hint="`cvmlab boot --record DIR` makes one",
            ) from error
        manifest = parts.decode(text, where=str(path / MANIFEST))
        try:
            spec = from_document(manifest.spec, path)
        except ValueError as error:
            raise ConfigError(
                f"{path}: its VM cannot be described: {error}", hint=parts.AGAIN
            ) from error
        found = cls(path, manifest, spec)
        found._verify()
        for disk in manifest.disks:
            disk.require_unchanged("recording", parts.AGAIN)
        return found

    @property
    def log(self) -> Path:
        """QEMU's log."""
        return self.path / parts.LOG

    @property
    def events(self) -> Path:
        """The journal."""
        return self.path / EVENTS

    def _verify(self) -> None:
        names = set(self.manifest.files)
        missing = sorted(parts.NEEDED - names)
        if missing:
            raise self._damaged(missing[0], "it is not in the manifest")
        for name, entry in self.manifest.files.items():
            if name not in parts.NAMES:
                raise self._damaged(name, "this is no name of a file of a recording")
            try:
                found = store_file(self.path, name, compress=False)
            except OSError as error:
                raise self._damaged(name, error.strerror or "it cannot be read") from error
            if found != entry:
                raise self._damaged(
                    name, f"its digest is {found.digest[:16]}…, not {entry.digest[:16]}…"
                )

    def _damaged(self, name: str, why: str) -> ConfigError:
        return ConfigError(f"the recording {self.path} is damaged: {name}: {why}", hint=parts.AGAIN)
