"""The log of a run holds every step once, also after a crash."""

from __future__ import annotations

from cromss.training.runlog import RunLog, read_log


def test_rows_behind_the_step_of_a_continued_run_are_dropped(tmp_path):
    with RunLog(tmp_path, start_step=0, total_steps=10) as log:
        for step in (1, 2, 3):
            log.row("train", step, 0, {"loss": 1.0 / step})
    with RunLog(tmp_path, start_step=2, total_steps=10) as log:
        log.row("train", 3, 0, {"loss": 9.0})
    rows = list(read_log(tmp_path / "log.jsonl"))
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 9.0)]


def test_a_line_cut_by_a_crash_is_not_a_row(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 1, "epoch": 0}\n{"kind": "tr')
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1]


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    with RunLog(tmp_path, start_step=0, total_steps=1) as log:
        log.row("train", 1, 0, {"loss": float("nan")})
    assert next(read_log(tmp_path / "log.jsonl"))["loss"] is None


def test_a_rank_that_is_not_the_first_writes_nothing(tmp_path):
    with RunLog(tmp_path, start_step=0, total_steps=1, enabled=False) as log:
        log.row("train", 1, 0, {"loss": 1.0})
        log.progress(1, 0, "x", always=True)
    assert list(tmp_path.iterdir()) == []


def test_progress_shows_rate_and_time_left(tmp_path, capsys):
    with RunLog(tmp_path, start_step=0, total_steps=100) as log:
        log.progress(50, 3, "loss 1.0", always=True)
    shown = capsys.readouterr().err
    assert "step 50/100" in shown
    assert "steps/s" in shown
    assert "left" in shown
