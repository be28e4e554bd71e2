"""The application: every verb registered, every failure turned into one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from chiasm.cli.output import DONE, FAILED, INTERRUPTED, USAGE, UsageError, one_line, report
from chiasm.core.errors import ChiasmError
from chiasm.core.spelling import nearest

if TYPE_CHECKING:
    from cyclopts import App

VERBS = (
    "ask", "caption", "classify", "embed", "match", "ground", "locate", "index", "search", "inspect", "verify",
    "models", "new", "convert", "export", "doctor", "demo", "train", "eval", "compare", "curate", "data", "serve",
)  # fmt: skip


def build_app() -> App:
    """The cyclopts application with one command a verb, each in the module of its name."""
    import importlib

    from cyclopts import App, Parameter

    app = App(
        name="chiasm",
        help="Vision-language models from a few shared parts: run, verify and train them.",
        version=_version,
        help_format="plaintext",
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    for verb in VERBS:
        app.command(getattr(importlib.import_module(f"chiasm.cli.{verb}"), verb), name=verb)
    return app


def dispatch(argv: list[str]) -> int:
    """Parse and run one command line.

    Args:
        argv: the words after the program's name.

    Returns:
        The exit code.
    """
    flags = argv[: argv.index("--")] if "--" in argv else argv
    as_json, debug = "--json" in flags, "--debug" in flags
    try:
        return _run(argv or ["--help"])
    except UsageError as error:
        return _fail(_hinted(error, argv), USAGE, as_json, debug)
    except ChiasmError as error:
        return _fail(_hinted(error, argv), FAILED, as_json, debug)
    except KeyboardInterrupt:
        return _fail(ChiasmError("interrupted", "stopped by the keyboard"), INTERRUPTED, as_json, debug)
    except BrokenPipeError:
        # The reader went away: say nothing, and keep the interpreter from flushing into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except MemoryError as error:
        return _fail(ChiasmError("memory", one_line(str(error)) or "memory ran out"), FAILED, as_json, debug)
    except ModuleNotFoundError as error:
        what = f"the package {error.name!r} is not installed"
        return _fail(ChiasmError("package_missing", what, hint=f"pip install {error.name}"), FAILED, as_json, debug)
    except OSError as error:
        return _fail(_hinted(ChiasmError("file", one_line(str(error))), argv), FAILED, as_json, debug)
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(str(error))}"
        hint = "the same command with --debug, and report what it shows"
        return _fail(ChiasmError("internal", what, hint=hint), FAILED, as_json, debug)


def _hinted(error: ChiasmError, argv: list[str]) -> ChiasmError:
    """The error with a command to try next: its own, else the help of the verb that failed."""
    if error.hint is None:
        verb = f"{argv[0]} " if argv and argv[0] in VERBS else ""
        return ChiasmError(error.code, error.what, hint=f"chiasm {verb}--help")
    return error


def _run(argv: list[str]) -> int:
    from cyclopts import CycloptsError

    if argv[0] not in VERBS and not argv[0].startswith("-"):
        close = f"chiasm {nearest(argv[0], VERBS)} --help"
        raise UsageError(f"no verb {argv[0]!r}; there are {', '.join(VERBS)}", hint=close)
    app = build_app()
    try:
        command, bound, _ = app.parse_args(argv, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(one_line(str(error)).rstrip(".")) from error
    code = command(*bound.args, **bound.kwargs)
    return code if isinstance(code, int) else DONE


def _fail(error: ChiasmError, code: int, as_json: bool, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    report(error, as_json=as_json)
    return code


def _version() -> str:
    import chiasm

    return chiasm.__version__
