# SPDX-License-Identifier: GPL-2.0-or-later
"""Call apt with a private configuration, as any user, without changing the system's.

Each archive (suite, architecture, binaries or sources) has a folder with everything apt needs:
configuration, sources, package lists, cache, lock.  Only the mirror (sources.py) and the way to
reach it (``Acquire``: proxies, certificates, checks) come from the machine's configuration; hooks
and extra indices do not.
"""

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cvmlab.base.errors import BuildError, CvmError, ImageError
from cvmlab.base.paths import cache_dir
from cvmlab.debian.sources import AptSource, Suite, debian_archive, machine_sources
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE


_QUERY_DEADLINE_S = 60
_UPDATE_DEADLINE_S = 300
_DOWNLOAD_DEADLINE_S = 900
_HTTP_TIMEOUT_S = 20
_LOCK_WAIT_S = 600
_APT_HELPER = "/usr/lib/apt/apt-helper"
_LOCKED_STATUS = 75  # flock -E: an exit status that apt does not use
# Settings under Acquire that choose what apt downloads, not how.
_NOT_COPIED = ("IndexTargets", "Languages", "CompressionTypes", "Changelogs", "GzipIndexes")

# Text in apt's output, and the advice it leads to.
_ADVICE = (
    ("No space left on device", "free some disk space, or point XDG_CACHE_HOME elsewhere"),
    ("enough free space", "free some disk space, or point XDG_CACHE_HOME elsewhere"),
    ("NO_PUBKEY", "install a newer debian-archive-keyring"),
    ("is not signed", "install debian-archive-keyring"),
    ("is expired", "the clock is wrong, or the mirror is no longer updated"),
    ("is not valid yet", "the clock of this machine is wrong"),
    ("does not have a Release file", "the mirror lacks this suite; set CVMLAB_DEBIAN_MIRROR"),
    ("Could not resolve", "the network is not reachable; try again when it is"),
    ("Temporary failure", "the network is not reachable; try again when it is"),
    ("onnect", "the network is not reachable; try again when it is"),
    ("Unable to locate package", "the suite does not have it; check name and suite"),
    ("'deb-src' URIs", "the suite does not have it; check name and suite"),  # no sources at all
    ("Unable to find a source package", "the suite does not have it; check name and suite"),
    ("No packages found", "the suite does not have it; check name and suite"),
)


@dataclass(frozen=True, slots=True)
class Archive:
    """One suite of Debian's archive, for one architecture, binaries or (``source``) sources."""

    suite: Suite
    arch: str = DEFAULT_ARCHITECTURE.debian
    source: bool = False

    @property
    def folder(self) -> Path:
        suffix = "" if self.arch == DEFAULT_ARCHITECTURE.debian else f"-{self.arch}"
        return cache_dir() / "apt" / f"{self.suite}{'-source' if self.source else suffix}"

    def entry(self) -> str:
        """Return the source of packages (deb822), on the mirror that this machine uses."""
        return _machine_archive().for_suite(self.suite, source=self.source)

    def update(self) -> None:
        """Fetch the package lists; raise ImageError or BuildError with apt's message."""
        self._configure()
        self.call("apt-get", "update", deadline_s=_UPDATE_DEADLINE_S)

    def show(self, package: str) -> str:
        """Return the newest entry for *package*, as in a Packages file."""
        return self.call("apt-cache", "show", "--no-all-versions", package)

    def uris(self, package: str) -> str:
        """Return the files of a download, a line for each: 'URI' NAME SIZE HASH."""
        return self.call("apt-get", "--print-uris", *self._verb(), package)

    def download(self, package: str, into: Path) -> None:
        """Download *package* into the folder *into*; apt checks signature and hashes."""
        self.call("apt-get", *self._verb(), package, cwd=into, deadline_s=_DOWNLOAD_DEADLINE_S)

    def download_file(self, path: str, target: Path) -> None:
        """Download the file at *path* of the archive as *target*.

        No list names it, so apt checks nothing: whoever calls this has to know its hash.
        """
        self._configure()
        failure: CvmError | None = None
        for mirror in _machine_archive().uris:
            uri = f"{mirror.rstrip('/')}/{path}"
            try:
                self.call(
                    *(_APT_HELPER, "download-file", uri, str(target)),
                    deadline_s=_DOWNLOAD_DEADLINE_S,
                )
            except CvmError as error:
                failure = error
            else:
                return
        raise failure or self.error("the archive has no URI")

    def _verb(self) -> tuple[str, ...]:
        return ("--download-only", "source") if self.source else ("download",)

    def call(
        self,
        *argv: str,
        cwd: Path | None = None,
        deadline_s: float = _QUERY_DEADLINE_S,
    ) -> str:
        """Run an apt command with this archive's configuration, one at a time; return its output.

        flock replaces itself by the command (--no-fork), so that a deadline ends both.
        """
        lock = ["flock", "--no-fork", "-w", str(_LOCK_WAIT_S), "-E", str(_LOCKED_STATUS)]
        status, output, errors = run(
            [*lock, str(self.folder / "lock"), *argv],
            deadline_s=deadline_s + _LOCK_WAIT_S,
            what=argv[0],
            cwd=cwd,
            env={"APT_CONFIG": str(self.folder / "apt.conf")},
        )
        if status == _LOCKED_STATUS:
            raise self.error(f"another {argv[0]} for {self.suite} did not end in {_LOCK_WAIT_S} s")
        # apt-get update reports a mirror that cannot be reached as a warning only.
        unreachable = "update" in argv and "\nW: Failed to fetch" in f"\n{errors}"
        if status != 0 or unreachable:
            raise self._failure(argv, errors)
        return output

    def error(self, message: str, hint: str | None = None) -> CvmError:
        """Return a BuildError for source packages, an ImageError for binary ones."""
        return (BuildError if self.source else ImageError)(message, hint=hint)

    def _failure(self, argv: Sequence[str], errors: str) -> CvmError:
        told = [line[3:] for line in errors.splitlines() if line.startswith(("E: ", "W: "))]
        reason = told[0] if told else (errors.strip().splitlines() or ["it did not say why"])[-1]
        hint = next((advice for sign, advice in _ADVICE if sign in errors), None)
        what = " ".join(word for word in argv if not word.startswith("-"))
        return self.error(f"{what} ({self.suite}) failed: {reason}", hint)

    def _configure(self) -> None:
        """Write the configuration, each time, because the machine's may have changed."""
        folder, sources = self.folder, self.entry()
        for name in ("lists/partial", "cache/archives/partial", "state"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": folder / "cache",
            "Dir::Cache::srcpkgcache": "",  # it takes half of the space and is never read twice
            "Dir::Etc::sourcelist": folder / "debian.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": self.arch,
            "APT::Sandbox::User": "root",  # the user _apt may not write into our folders
            "Acquire::Languages": "none",
            "Acquire::GzipIndexes": "true",
            "Acquire::PDiffs": "false",
            "Acquire::Retries": "1",
            "Acquire::http::Timeout": _HTTP_TIMEOUT_S,
            "Acquire::https::Timeout": _HTTP_TIMEOUT_S,
        }
        own = "".join(f'{key} "{value}";\n' for key, value in settings.items())
        own += f'APT::Architectures {{ "{self.arch}"; }};\n'
        replace_text(folder / "debian.sources", sources)
        replace_text(folder / "apt.conf", machine_settings() + own)


def run(
    argv: Sequence[str],
    *,
    what: str,
    deadline_s: float,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> tuple[int, str, str]:
    """Return exit status, output and errors; however this call ends, no process is left."""
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
    except FileNotFoundError as error:
        raise ImageError(
            f"{argv[0]} is not installed; cvmlab needs it to handle Debian packages",
            hint="on a system without apt, give your own files: --kernel, --initrd, --qemu-source",
        ) from error
    try:
        output, errors = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{what} took longer than {deadline_s:g} s") from error
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, output, errors


def replace_text(path: Path, text: str) -> None:
    """Write *path* so that a reader sees the old text or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _machine_archive() -> AptSource:
    """Return the Debian archive that this machine's apt uses."""
    return debian_archive(machine_sources(*_machine_places()))


def _machine_places() -> tuple[Path, Path]:
    """Return the file and the folder of the machine's sources; apt-config honours $APT_CONFIG."""
    asked = ("F", "Dir::Etc::sourcelist/f", "D", "Dir::Etc::sourceparts/d")
    _, output, _ = run(
        ["apt-config", "shell", *asked], what="apt-config", deadline_s=_QUERY_DEADLINE_S
    )
    told = dict(word.partition("=")[::2] for word in shlex.split(output))
    return Path(told.get("F", "/dev/null")), Path(told.get("D", "/dev/null"))


def machine_settings() -> str:
    """Return the machine's settings for reaching its mirrors, in the syntax of apt.conf."""
    status, output, _ = run(
        ["apt-config", "dump", "Acquire"], what="apt-config", deadline_s=_QUERY_DEADLINE_S
    )
    skipped = tuple(f"Acquire::{name}" for name in _NOT_COPIED)
    lines = [line for line in output.splitlines() if not line.startswith(skipped)]
    return "\n".join(lines) + "\n" if status == 0 else ""
