"""Icon packages from npm's registry: the pinned bytes only, plain names only, the configured registry."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from chiasm.core.errors import SourceError
from chiasm.data import npm as module
from chiasm.data.npm import CODES, REGISTRY, Npm, npm_files, registry, unpack_icons

ICONS = {
    "icons": {"koala": {"body": "<g/>"}, "../up": {"body": "<g/>"}, "wide": {"body": "<g/>", "width": 9}},
    "width": 4,
}


def archive(members: dict[str, object], *, kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def pin(data: bytes) -> Npm:
    return Npm(package="@toys/icons", version="1.0.0", sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], list[str]]:
    """A registry that gives `data` whatever is asked, and keeps what was asked."""
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", "https://mirror.example/npm/")

    def serve(data: bytes) -> list[str]:
        asked: list[str] = []

        def urlopen(address: str, timeout: float) -> io.BytesIO:
            asked.append(address)
            return io.BytesIO(data)

        monkeypatch.setattr(module.urllib.request, "urlopen", urlopen)
        return asked

    return serve


def test_icons_become_files_once(served: Callable[[bytes], list[str]]) -> None:
    data = archive({"package/icons.json": ICONS, "package/chars.json": {"1f428": "koala"}, "package/index.js": "x"})
    asked = served(data)
    folder = npm_files(pin(data))
    assert npm_files(pin(data)) == folder == pin(data).folder()
    assert asked == ["https://mirror.example/npm/@toys/icons/-/icons-1.0.0.tgz"]
    assert sorted(path.name for path in folder.iterdir()) == [CODES, "koala.svg", "wide.svg"]
    assert json.loads((folder / CODES).read_text()) == {"1f428": "koala"}
    assert 'viewBox="0 0 4 16"' in (folder / "koala.svg").read_text()
    assert 'viewBox="0 0 9 16"' in (folder / "wide.svg").read_text()
    assert not list(folder.parent.glob(".fetch-*"))


def test_other_bytes_are_refused_and_leave_nothing(
    served: Callable[[bytes], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = archive({"package/icons.json": ICONS})
    served(data + b"more")
    with pytest.raises(SourceError, match="pack_changed"):
        npm_files(pin(data))
    monkeypatch.setattr(module, "_MOST_BYTES", 10)
    with pytest.raises(SourceError, match="more than 10 bytes"):
        npm_files(pin(data))
    assert pin(data).folder() is None


def test_a_kept_archive_needs_no_registry(served: Callable[[bytes], list[str]]) -> None:
    data = archive({"package/icons.json": ICONS})
    asked = served(b"")
    kept = module.cache_folder() / "npm" / "icons-1.0.0.tgz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(data)
    assert (npm_files(pin(data)) / "koala.svg").is_file() and not asked


def test_an_unreachable_registry_is_one_line(
    served: Callable[[bytes], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def urlopen(address: str, timeout: float) -> io.BytesIO:
        raise OSError("no route")

    monkeypatch.setattr(module.urllib.request, "urlopen", urlopen)
    with pytest.raises(SourceError, match="pack_unreachable.*no route"):
        npm_files(pin(b""))
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    with pytest.raises(SourceError, match="pack_unreachable.*expected https"):
        npm_files(pin(b""))


@pytest.mark.parametrize(
    "data",
    [
        archive({"package/icons.json": {"icons": {"../up": {"body": ""}}}}),
        archive({"package/icons.json": ICONS}, kind=tarfile.SYMTYPE),
        archive({"elsewhere/icons.json": ICONS}),
        archive({"package/icons.json": ICONS})[:60],
        b"no archive",
    ],
    ids=["outside", "link", "elsewhere", "cut", "none"],  # the bytes hold the time: no two workers agree
)
def test_archives_without_plain_icons_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SourceError, match="empty_pack"):
        unpack_icons(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_registry_is_the_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    told = tmp_path / "npmrc"
    monkeypatch.setenv("NPM_CONFIG_USERCONFIG", str(told))
    assert registry("@toys/icons") == REGISTRY
    told.write_text("fund=false\nregistry = https://mirror.example/all/\n")
    assert registry("@toys/icons") == "https://mirror.example/all"
    told.write_text("registry=https://mirror.example/all\n@toys:registry=https://toys.example/\n")
    assert registry("@toys/icons") == "https://toys.example"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://env.example")
    assert registry("@toys/icons") == "https://env.example"
