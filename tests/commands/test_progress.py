import sys

from letkd_keras.commands import progress


def test_nothing_is_shown_without_a_terminal(capsys):
    with progress.bar("measuring", 2) as advance:
        advance("first", parts=0)
        advance()
    assert capsys.readouterr() == ("", "")


def test_a_bar_with_its_note_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with progress.bars(shown=True) as bars:
        task = bars.add_task("epoch 200/240", total=240, note="loss 0.123  train 97.1%  test 96.1%")
        bars.update(task, completed=200)
    shown = capsys.readouterr().err
    assert "epoch 200/240" in shown and "test 96.1%" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_finished_tasks_vanish_in_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bars = progress.bars(shown=False)
    first, second = bars.add_task("first", total=1), bars.add_task("second", total=2)
    bars.update(first, completed=1)
    bars.update(second, completed=1)
    (table,) = bars.get_renderables()
    assert table.row_count == 1
