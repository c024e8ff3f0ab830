"""Progress bars pass everything on; without a terminal they say nothing, and an epoch is a line."""

import sys

import pytest

from core import progress

METRICS = {"L_total": 1.23456, "val/accuracy": 0.8125, "train/accuracy": 0.9, "time/train_seconds": 30.0, "time/evaluate_seconds": 2.0}


def test_items_pass_and_nothing_is_written_without_a_terminal(capsys):
    assert list(progress.bar(range(3), "counting", total=3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("epoch", "lacking", "line"),
    [
        (3, (), "epoch 3/15: loss 1.235, val/accuracy 0.812, 32.0 s, 6 min left"),
        (15, (), "epoch 15/15: loss 1.235, val/accuracy 0.812, 32.0 s"),
        (14, ("val/accuracy",), "epoch 14/15: loss 1.235, train/accuracy 0.900, 32.0 s, 32 s left"),
        (15, ("val/accuracy", "train/accuracy"), "epoch 15/15: loss 1.235, 32.0 s"),
    ],
)
def test_an_epoch_s_line_has_loss_accuracy_and_the_time_left(epoch, lacking, line):
    assert progress.epoch_line(epoch, 15, {name: value for name, value in METRICS.items() if name not in lacking}) == line


def test_a_line_is_printed_where_no_terminal_shows_a_bar_and_no_study_speaks(capsys, monkeypatch):
    progress.tell_epoch(3, 15, METRICS)
    with progress.quiet():
        progress.tell_epoch(4, 15, METRICS)
    progress.tell_epoch(0, 15, {"val/accuracy": 0.1})  # of the untrained model
    assert capsys.readouterr() == ("taxon: epoch 3/15: loss 1.235, val/accuracy 0.812, 32.0 s, 6 min left\n", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress.tell_epoch(5, 15, METRICS)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (90000, "25.0 h")]
)
def test_times_are_spelt_as_people_say_them(seconds, said):
    assert progress.spelt(seconds) == said
