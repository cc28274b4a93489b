import pytest

from counterpoint.cli import main

COMMANDS = ("fit", "compare", "embed", "search", "layers", "report", "export", "papers", "claim", "generate")


def test_overview_names_every_command(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in shown


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("counterpoint 0.")


def test_unknown_command_suggests(capsys):
    assert main(["compar"]) == 2
    assert "did you mean 'compare'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_every_argument(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: counterpoint {command}" in shown
    options = [line for line in shown.splitlines() if line.startswith("  --")]
    assert len(options) >= 2


def test_compare_knows_the_settings_of_fit(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    shown = capsys.readouterr().out
    assert "--temperature" not in shown
    for option in ("--epochs", "--encoder", "--views", "--labels", "--lr"):
        assert option in shown


def test_fit_report_export_in_a_row(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["fit", "digits", "--epochs", "1", "--limit", "300", "--out", str(run), "--options.temperature", "0.2"]
    assert main([*words, "--progress", "false", "--report", "false"]) == 0
    assert "knn" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").exists()
    assert main([*words, "--progress", "false"]) == 1
    assert "out:" in capsys.readouterr().err
    assert main(["export", str(run), str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "model.safetensors").exists()


def test_errors_are_a_line_not_a_traceback(capsys, tmp_path):
    assert main(["fit", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("counterpoint: ")
    assert "Traceback" not in message


def test_papers_show(capsys):
    assert main(["papers", "show", "12"]) == 0
    assert "Decoupled Contrastive Learning" in capsys.readouterr().out
