"""Training the bundled model again: what cannot work is told before minutes of work."""

import pytest

from temporal_sae.assets import train_tiny


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "--steps=0: must be a whole number of at least 1"),
        (["--batch", "-1"], "--batch=-1: must be a whole number of at least 1"),
        (["--start", "{file}"], "--start='{file}': must be a folder that this command has written"),
        (["--seed", "-1"], "--seed=-1: must be a whole number of at least 0"),
        (["--lr", "nan"], "--lr=nan: must be a number in (0, inf)"),
        (["--out", "{file}"], "--out={file}: must be a folder that can be written (File exists)"),
        (["--out", "{file}/below"], "must be a folder that can be written (Not a directory)"),
    ],
)
def test_wrong_options_are_one_line_at_once(tmp_path, monkeypatch, capsys, words, message):
    def works(*arguments, **options):
        raise AssertionError("work was begun")

    monkeypatch.setattr(train_tiny, "StdlibText", works)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as stop:
        train_tiny.main([word.format(file=file) for word in words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message.format(file=file) in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
