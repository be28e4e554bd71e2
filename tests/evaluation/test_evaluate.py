"""Runs from end to end with a predictor that costs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.fakes import Looker, bright_task, shade

from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place, Sample
from chiasm.evaluation import evaluate as engine
from chiasm.evaluation import tasks as registry
from chiasm.evaluation.controls import mean_picture, partners, with_pictures
from chiasm.evaluation.evaluate import Plan, against, evaluate, rescore
from chiasm.evaluation.journal import Journal
from chiasm.evaluation.protocol import Item, Metric, Task, ask, each
from chiasm.evaluation.statistics import mcnemar, paired, resamples, wilson


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make one made-up task the only known one."""

    def use(task: Task) -> Task:
        monkeypatch.setattr(registry, "tasks", lambda: {task.name: task})
        monkeypatch.setattr(engine, "known_tasks", lambda: {task.name: task})
        return task

    return use


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run but the log of times and the journal, whose order is that of the asking."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name != "run.jsonl" and not name.startswith("outputs/")}


def test_the_picture_is_told_from_no_picture(tmp_path: Path, only: Any) -> None:
    task = only(bright_task())
    seeing = evaluate(Looker(), Plan(tasks=[task], out=tmp_path / "a"))["chiasm"]["bright"]
    accuracy = seeing["metrics"]["accuracy"]
    assert accuracy["seen"]["value"] == 1.0
    assert accuracy["blind"]["value"] == accuracy["prior"]["value"] == 0.5
    assert accuracy["swapped"]["value"] < 1.0
    assert accuracy["over_blind"]["low"] > 0 and seeing["verdict"].startswith("the picture was used")
    assert set(seeing["kinds"]) == {"early", "late"} and seeing["kinds"]["late"]["n"] == 20
    blind = evaluate(Looker(blindness=True), Plan(tasks=[task], out=tmp_path / "b"))["chiasm"]["bright"]
    assert blind["metrics"]["accuracy"]["over_blind"]["difference"] == 0.0
    assert blind["verdict"].startswith("nothing shows that the picture was used")


def test_every_file_is_equal_whatever_the_batch_and_after_a_stop(tmp_path: Path, only: Any) -> None:
    task = only(bright_task())
    runs = []
    for size in (1, 4, 16):
        evaluate(Looker(), Plan(tasks=[task], out=tmp_path / str(size), batch_size=size))
        runs.append(files(tmp_path / str(size)))
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Looker(stop_after=30), Plan(tasks=[task], out=stopped, batch_size=4))
    journal = stopped / "outputs" / "bright.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])  # the stop cut a line
    kept = len(Journal(journal).outputs)
    second = Looker()
    evaluate(second, Plan(tasks=[task], out=stopped, batch_size=16, resume=True))
    assert kept > 0 and second.asked == len(Journal(journal).outputs) - kept
    runs.append(files(stopped))
    assert len(runs[0]) > 30 and "report.html" in runs[0]
    assert runs[0] == runs[1] == runs[2] == runs[3]


def test_a_question_is_asked_once(tmp_path: Path, only: Any) -> None:
    turn = Message("user", (ImagePart(shade(250)), TextPart("Is it bright?")))
    same = [Item(key=f"s{at}", conversation=Conversation((turn,)), references=("yes",)) for at in range(6)]
    model = Looker()
    evaluate(model, Plan(tasks=[only(bright_task(2, same))], out=tmp_path / "run"))
    journal = Journal(tmp_path / "run" / "outputs" / "bright.jsonl")
    assert model.asked == len(journal.outputs) <= 11, "8 items and 3 conditions, but only so many different questions"


def test_another_run_is_never_written_over(tmp_path: Path, only: Any) -> None:
    task = only(bright_task())
    evaluate(Looker(), Plan(tasks=[task], out=tmp_path))
    with pytest.raises(ConfigError, match="out_exists"):
        evaluate(Looker(), Plan(tasks=[task], out=tmp_path))
    with pytest.raises(ConfigError, match="eval_mismatch.*weights"):
        evaluate(Looker(blindness=True), Plan(tasks=[task], out=tmp_path, resume=True))


def test_scores_come_again_from_the_files_alone(tmp_path: Path, only: Any) -> None:
    task = only(bright_task())
    evaluate(Looker(), Plan(tasks=[task], out=tmp_path))
    before = files(tmp_path)
    for name in ("results.json", "report.html", "samples/bright.jsonl"):
        (tmp_path / name).unlink()
    rescore(tmp_path)
    assert files(tmp_path) == before
    journal = tmp_path / "outputs" / "bright.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:5]))
    with pytest.raises(ConfigError, match="run_incomplete"):
        rescore(tmp_path)


def test_what_cannot_be_read_or_asked_is_counted(tmp_path: Path, only: Any) -> None:
    bad = [
        Item(key="mumble", conversation=ask(shade(99), "please mumble"), references=("yes",)),
        Item(key="refused", conversation=ask(shade(98), "refuse"), references=("yes",)),
        Item(key="missing", conversation=ask(str(tmp_path / "no.png"), "?"), references=("yes",)),
    ]
    truncated = tmp_path / "cut.png"
    shade(240, 64).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:-40])
    bad.append(Item(key="cut", conversation=ask(str(truncated), "?"), references=("yes",)))
    found = evaluate(Looker(), Plan(tasks=[only(bright_task(10, bad))], out=tmp_path / "run"))["chiasm"]["bright"]
    assert found["parse_failures"]["seen"] == 1
    assert [(row["row"], row["code"]) for row in found["bad"]] == [
        ("missing", "picture_missing"),
        ("cut", "picture_truncated"),
    ]
    assert [row["row"] for row in found["invalid"]] == ["refused"]
    assert found["metrics"]["accuracy"]["n"] == 11, "an unreadable reply is wrong, an invalid sample is left out"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>1</b>" not in page
    assert "http-equiv" in page and 'src="http' not in page


def test_a_judge_that_fails_makes_the_sample_invalid(tmp_path: Path, only: Any) -> None:
    def judged(items: Any, answers: Any) -> list[float | None]:
        return [None if at < 3 else 1.0 for at in range(len(items))]

    task = only(bright_task(10, metrics=(Metric(name="judged", values=judged),), prior=None))
    metric = evaluate(Looker(), Plan(tasks=[task], out=tmp_path))["chiasm"]["bright"]["metrics"]["judged"]
    assert (metric["n"], metric["invalid"], metric["seen"]["value"]) == (7, 3, 1.0)


def test_a_missing_capability_is_said_and_never_scored(tmp_path: Path, only: Any) -> None:
    task = bright_task()
    other = bright_task(name="places", way="ground")
    only(task)
    found = evaluate(Looker(), Plan(tasks=[task, other], out=tmp_path))
    assert found["skipped"] == {"places": "the model has no ground; it has embed, generate, score"}
    assert set(found["results"]) == {"bright"}
    with pytest.raises(ConfigError, match="tasks_skipped"):
        evaluate(Looker(), Plan(tasks=[other], out=tmp_path / "none"))


def test_training_pictures_are_found(tmp_path: Path, only: Any) -> None:
    class Trained:
        name, fingerprint = "trained", "t"

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Sample:
            turn = Message("user", (ImagePart(shade(20 + 2 * index)),))
            return Sample(key=str(index), conversation=Conversation((turn,)), place=Place("t", index))

    plan = Plan(tasks=[only(bright_task(10))], out=tmp_path, training=Trained())  # type: ignore[arg-type]
    found = evaluate(Looker(), plan)["chiasm"]["bright"]["training_overlap"]
    assert found == {"items": 3, "of": 10, "keys": ["q0", "q2", "q4"]}


def test_results_have_the_shape_that_lmms_eval_users_know(tmp_path: Path, only: Any) -> None:
    evaluate(Looker(), Plan(tasks=[only(bright_task())], out=tmp_path))
    found = json.loads((tmp_path / "results.json").read_text())
    row = found["results"]["bright"]
    assert row["accuracy,none"] == 1.0 and row["accuracy_stderr,none"] == 0.0 and row["accuracy,blind"] == 0.5
    assert {"configs", "versions", "n-shot", "higher_is_better", "n-samples", "config"} <= set(found)
    sample = json.loads((tmp_path / "samples" / "bright.jsonl").read_text().splitlines()[0])
    assert {"doc_id", "target", "resps", "filtered_resps", "accuracy", "controls"} <= set(sample)


def test_two_runs_on_the_same_items(tmp_path: Path, only: Any) -> None:
    task = only(bright_task())
    evaluate(Looker(), Plan(tasks=[task], out=tmp_path / "a"))
    evaluate(Looker(blindness=True), Plan(tasks=[task], out=tmp_path / "b"))
    found = against(tmp_path / "a", tmp_path / "b")["bright"]["accuracy"]
    assert found["difference"] == 0.5 and found["low"] > 0.2 and found["p"] < 0.05
    assert found["mcnemar"] == {"only_first": 20, "only_second": 0, "p": pytest.approx(2 * 0.5**20, abs=1e-6)}


def test_controls() -> None:
    keys = ["a", "a", "b", "b"] * 5
    assert all(keys[other] != keys[at] for at, other in enumerate(partners(keys)))
    assert partners(keys) == partners(keys) and len(set(partners(keys))) > 5
    assert partners(["a", "a"]) == [0, 1]
    mean = mean_picture([shade(0), shade(100), "nowhere.png"])
    assert mean.getpixel((5, 5)) == (50, 50, 50)
    two = ask([shade(1), shade(2)], "which?")
    assert [part.source.getpixel((0, 0))[0] for part in with_pictures(two, [shade(7)]).images()] == [7, 7]


def test_statistics_against_the_books() -> None:
    """McNemar's exact test by the binomial; groups are drawn whole; a pair's difference is that of its figures."""
    from scipy.stats import binomtest

    found = mcnemar([1, 1, 1, 0, 1, 0], [0, 0, 0, 1, 1, 0])
    assert found["p"] == pytest.approx(binomtest(1, 4).pvalue)
    assert mcnemar([1, 0], [1, 0])["p"] == 1.0
    for draw in resamples(["a", "a", "b", "c", "c", "c"], 20):
        counts = [int((draw == row).sum()) for row in range(6)]
        assert counts[0] == counts[1] and counts[3] == counts[4] == counts[5]
    values = [1.0, 0.0, 1.0, 1.0]
    same = paired(
        lambda d: sum(values[i] for i in d) / len(d),
        lambda d: sum(values[i] for i in d) / len(d),
        4,
        resamples(list("abcd"), 50),
    )
    assert same == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    assert wilson(10, 10)[1] == 1.0 and wilson(10, 10)[0] == pytest.approx(0.7225, abs=1e-3)


def test_where_lower_is_better_the_verdict_turns_round(tmp_path: Path, only: Any) -> None:
    def wrong(item: Item, answer: Any) -> float:
        return float(answer not in item.references)

    task = only(bright_task(metrics=(Metric(name="errors", values=each(wrong), higher=False),), prior=None))
    found = evaluate(Looker(), Plan(tasks=[task], out=tmp_path))
    told = found["chiasm"]["bright"]
    assert told["metrics"]["errors"]["over_blind"]["high"] < 0 and told["verdict"].startswith("the picture was used")
    assert found["higher_is_better"]["bright"] == {"errors": False}
