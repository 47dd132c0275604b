# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Fetching packages: what is asked of pip, npm and apt, what is tried again, and what is said when a package fails."""

import io
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from training_concept.corpus import fetch
from training_concept.corpus.fetch import AptClient, Package, PackageCache, add_components, missing_tools

WHEEL = Package("pypi", "words", "1.0")
NPM = Package("npm", "@scope/words", "2.0")
DEBIAN = Package("debian", "words-doc")


def wheel_bytes() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("words/data.txt", "text of the wheel " * 100)
        file.writestr("../outside.txt", "escaped")
    return content.getvalue()


def npm_bytes(name: str = "package/data.txt") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        member = tarfile.TarInfo(name)
        member.size, member.mode = 4, 0o666
        file.addfile(member, io.BytesIO(b"text"))
    return content.getvalue()


class Registry:
    """Stands in for pip, npm and apt: writes an archive for each package asked for, or fails as often as told."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.failures: list[str] = []
        self.archives = {"words==1.0": ("words-1.0-py3-none-any.whl", wheel_bytes())}
        self.archives["@scope/words@2.0"] = ("scope-words-2.0.tgz", npm_bytes())
        self.archives["words-doc"] = ("words-doc_1%3a3.0-1_all.deb", b"!<arch>")

    def __call__(self, command: Sequence[str], folder: Path) -> None:
        self.commands.append(list(command))
        if self.failures:
            raise OSError(self.failures.pop(0))
        if command[-1] in self.archives:
            name, content = self.archives[command[-1]]
            (folder / name).write_bytes(content)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr(fetch, "_run", registry)
    monkeypatch.setattr(fetch, "SECONDS_BETWEEN_ATTEMPTS", 0)
    monkeypatch.setitem(fetch._UNPACKERS, ".deb", lambda archive, folder: (folder / "usr").mkdir(parents=True))
    return registry


def test_labels_of_packages() -> None:
    assert [Package.parse(str(package)) for package in (WHEEL, NPM, DEBIAN)] == [WHEEL, NPM, DEBIAN]
    for label in ("words", "pypi:words", "debian:words==1", "conda:words==1", "pypi:../words==1", "npm:a b==1"):
        with pytest.raises(ValueError, match="is not a package: write pypi:NAME==VERSION"):
            Package.parse(label)


def test_each_part_is_asked_in_its_own_way_and_once(registry: Registry, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path)
    assert cache.fetch([WHEEL, NPM, DEBIAN, WHEEL]) == {}
    pip, npm, update, apt = registry.commands
    assert pip[:4] == [sys.executable, "-m", "pip", "download"]
    # A source distribution would have its setup.py run, and so would the scripts of an npm package.
    assert {"--no-deps", "--only-binary=:all:"} < set(pip)
    assert npm[:2] == ["npm", "pack"]
    assert "--ignore-scripts" in npm
    assert (update[-1], apt[-2:]) == ("update", ["download", "words-doc"])
    assert (cache.path(WHEEL) / "words" / "data.txt").read_text().startswith("text of the wheel")
    assert (cache.path(NPM) / "package" / "data.txt").read_text() == "text"
    assert [cache.version(package) for package in (WHEEL, NPM, DEBIAN)] == ["1.0", "2.0", "1:3.0-1"]
    assert PackageCache(tmp_path).fetch([WHEEL, NPM, DEBIAN]) == {}
    assert len(registry.commands) == 4


def test_an_archive_writes_nothing_outside_its_folder(registry: Registry, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache")
    cache.fetch([WHEEL])
    assert [path.name for path in tmp_path.rglob("outside.txt")] == ["outside.txt"]
    assert next(tmp_path.rglob("outside.txt")).is_relative_to(cache.path(WHEEL))
    registry.archives["@scope/words@2.0"] = ("scope-words-2.0.tgz", npm_bytes("../../outside"))
    with pytest.raises(OSError, match=r"npm:@scope/words==2.0 could not be had in 3 attempts: .*damaged"):
        cache.fetch([NPM])
    assert not list(tmp_path.rglob("outside"))


def test_a_failing_download_is_tried_again(registry: Registry, tmp_path: Path) -> None:
    registry.failures = ["pip says: timed out"] * 2
    cache = PackageCache(tmp_path)
    cache.fetch([WHEEL])
    assert len(registry.commands) == 3
    assert cache.path(WHEEL).is_dir()


def test_a_download_that_keeps_failing_names_the_package_and_leaves_no_draft(
    registry: Registry, tmp_path: Path
) -> None:
    registry.failures = ["pip says: no such version"] * 3
    with pytest.raises(OSError, match=r"pypi:words==1\.0 could not be had in 3 attempts: pip says: no such version"):
        PackageCache(tmp_path).fetch([WHEEL])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith(".draft")]


@pytest.mark.parametrize("damage", [lambda content: content[:-30], lambda content: b"not a zip", lambda content: b""])
def test_a_damaged_archive_is_fetched_anew(damage: Callable, registry: Registry, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path)
    cache.fetch([WHEEL])
    archive = next((tmp_path / "archives").rglob("*.whl"))
    archive.write_bytes(damage(archive.read_bytes()))
    (tmp_path / "unpacked").rename(tmp_path / "elsewhere")
    cache.fetch([WHEEL])
    assert (cache.path(WHEEL) / "words" / "data.txt").is_file()
    assert len(registry.commands) == 2


def test_flipped_bits_are_noticed(registry: Registry, tmp_path: Path) -> None:
    name, content = registry.archives["words==1.0"]
    registry.archives["words==1.0"] = (name, content.replace(b"text of the wheel", b"test of the wheel", 1))
    with pytest.raises(OSError, match=r"pypi:words==1\.0 could not be had .* words-1.0-py3-none-any.whl is damaged"):
        PackageCache(tmp_path).fetch([WHEEL])
    assert not PackageCache(tmp_path).path(WHEEL).exists()


def test_an_unknown_kind_of_archive_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.archives["words==1.0"] = ("words-1.0.rar", b"")
    with pytest.raises(OSError, match=r"words-1\.0\.rar is no wheel, npm package or Debian package"):
        PackageCache(tmp_path).fetch([WHEEL])


def test_a_package_that_this_debian_does_not_have_is_reported(registry: Registry, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path)
    cache.fetch([DEBIAN])
    registry.failures = ["apt-get says: E: Unable to locate package python3.11-doc"]
    newer = Package("debian", "python3.11-doc")
    assert cache.fetch([newer]) == {newer: "this release of Debian has no package python3.11-doc"}
    assert len(registry.commands) == 3  # not tried again


STANZAS = "Types: deb\nURIs: mirror\nSuites: stable\nComponents: main{}\n\nTypes: deb\nComponents: other\n"


@pytest.mark.parametrize(
    ("suffix", "text", "expected"),
    [
        (".sources", STANZAS.format(""), STANZAS.format(" contrib non-free")),
        (".sources", STANZAS.format(" non-free"), STANZAS.format(" non-free contrib")),
        (
            ".list",
            "# deb x y main\ndeb mirror stable main\n",
            "# deb x y main\ndeb mirror stable main contrib non-free\n",
        ),
        (".list", "deb [a=b c=d] mirror stable main", "deb [a=b c=d] mirror stable main contrib non-free"),
        (".list", "deb mirror stable other\ndeb mirror ./\n", "deb mirror stable other\ndeb mirror ./\n"),
    ],
)
def test_components_are_added_where_main_is_served(suffix: str, text: str, expected: str) -> None:
    assert add_components(text, suffix) == expected
    assert add_components(expected, suffix) == expected


def test_apt_is_configured_apart_from_the_system(registry: Registry, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "sources.list").write_text("deb mirror stable main\n")
    (etc / "sources.list.d" / "debian.sources").write_text(STANZAS.format(""))
    (etc / "sources.list.d" / "debian.sources.disabled").write_text("no")
    before = {path: path.read_text() for path in etc.rglob("*") if path.is_file()}
    AptClient(tmp_path / "private", etc)
    written = {path.name: path.read_text() for path in (tmp_path / "private" / "sources").iterdir()}
    assert written == {
        "sources.list": "deb mirror stable main contrib non-free\n",
        "debian.sources": STANZAS.format(" contrib non-free"),
    }
    assert {path: path.read_text() for path in etc.rglob("*") if path.is_file()} == before
    assert f"Dir::State::lists={tmp_path / 'private' / 'lists'}" in registry.commands[0]


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.shutil, "which", lambda tool: None if tool in ("npm", "dpkg-deb") else f"/bin/{tool}")
    assert missing_tools(["npm", "debian"]) == {"npm": "npm", "debian": "dpkg-deb"}
    assert missing_tools([]) == {}


def test_the_last_words_of_a_failing_tool_are_the_error(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho first >&2\necho 'E: the reason' >&2\nexit 100\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(OSError, match=r"^tool says: E: the reason$"):
        fetch._run([str(tool)], tmp_path)


@pytest.mark.skipif("debian" in missing_tools(["debian"]), reason="needs dpkg-deb")
def test_a_debian_package_is_unpacked(tmp_path: Path) -> None:
    build = tmp_path / "build"
    (build / "DEBIAN").mkdir(parents=True)
    control = "Package: words-doc\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: words\n"
    (build / "DEBIAN" / "control").write_text(control)
    (build / "usr").mkdir()
    (build / "usr" / "data.txt").write_text("text")
    folder = tmp_path / "archives" / "debian" / "words-doc"
    folder.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-b", build, folder / "words-doc_1.0_all.deb"], check=True, capture_output=True)
    cache = PackageCache(tmp_path)
    cache.fetch([DEBIAN])
    assert (cache.path(DEBIAN) / "usr" / "data.txt").read_text() == "text"
    assert not (cache.path(DEBIAN) / "DEBIAN").exists()
