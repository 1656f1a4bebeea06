"""What the tests of all commands use."""

import pytest

from backlit.cli import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        """(exit code, standard output, standard error) of a command."""
        with pytest.raises(SystemExit) as leaving:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return leaving.value.code or 0, out, err

    return call
