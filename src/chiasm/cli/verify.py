"""`chiasm verify`: prove a checkpoint, tensors, pixels, features and logits."""

from __future__ import annotations

from pathlib import Path

from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import DONE, FAILED, UsageError, emit, note, say


def verify(folder: str, /, *, write: bool = False, options: Loading = LOADING) -> int:
    """Prove a checkpoint against the golden vectors stored beside it: chiasm verify FOLDER.

    Args:
        folder: A checkpoint folder, or a bundled name.
        write: Store golden vectors beside the checkpoint first.

    Returns:
        0 when everything is proved, else 1.
    """
    from chiasm.weights.bundled import bundled_folders
    from chiasm.weights.golden import check_golden, write_golden
    from chiasm.weights.sources import resolve

    if options.quantize is not None:
        raise UsageError("verify proves full precision; --quantize has no place here")
    place: Path = resolve(folder, offline=True, bundled=bundled_folders())
    model = options.load(folder)
    written = [str(path) for path in write_golden(model, place)] if write else []
    report = check_golden(model, place)
    if options.json:
        emit(
            {
                **{name: getattr(report, name) for name in report.__dataclass_fields__},
                "passed": report.passed,
                "written": written,
            }
        )
    else:
        for path in written:
            note(f"wrote {path}")
        for check in report.checks:
            say(f"{'ok    ' if check.passed else 'FAILED'} {check.name}: {check.detail}")
        say(f"{report.used} of {report.tensors} stored tensors fill the model")
    if report.passed:
        return DONE
    failed = [check.name for check in report.checks if not check.passed]
    note(f"error[verify_failed]: {len(failed)} of {len(report.checks)} checks failed: {', '.join(failed)}")
    return FAILED
