"""The deployment example: what it shows, and that torch is really forbidden."""

import deploy
import pytest

pytestmark = pytest.mark.process


@pytest.mark.slow
def test_the_answers_are_torchs_and_torch_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "RUNS", 1)
    monkeypatch.setattr("sys.argv", ["deploy.py", "--out", str(tmp_path)])
    assert deploy.main() == 0
    out = capsys.readouterr().out
    assert "the same class for 100.0%" in out
    assert "npbn, torch forbidden" in out


def test_a_program_that_imports_torch_fails(tmp_path, capfd):
    program = tmp_path / "app.py"
    program.write_text("import torch\n")
    with pytest.raises(ChildProcessError, match=r"app\.py failed"):
        deploy.run("without torch", program)
    assert "import of torch halted" in capfd.readouterr().err
