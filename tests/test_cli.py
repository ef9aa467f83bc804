"""The command line itself: verbs, help, exit codes, and what is imported when."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dust2gold import cli

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "transformers", "peft", "sympy", "matplotlib", "torchmetrics", "openai")


def test_no_verb_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert shown.startswith("usage: dust2gold VERB")
    for word in (["--help"], ["-h"], ["--debug", "--help"]):
        assert cli.main(word) == 0
        assert capsys.readouterr().out == shown
    for verb in [*cli.TRAINER_VERBS, *cli.VERBS]:
        assert f"\n  {verb} " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    number = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert number is not None
    assert capsys.readouterr().out in (f"dust2gold {number[1]}\n", "dust2gold (a checkout that is not installed)\n")


def test_unknown_verb_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "dust2gold: error: no verb 'trian'\n"
        "  choose one of fit, validate, test, predict, run, report, prepare, collect, augment, export, "
        "export-data, import-data, export-task, generate, fetch-smollm2\n"
    )


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_of_our_verbs_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    assert f"usage: dust2gold {verb} " in capsys.readouterr().out


def test_sigterm_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
import cli, dust2gold.demo.generate
from dust2gold.core.files import write_atomically

def main(parsed):
    with write_atomically(Path(parsed.output) / "file"):
        os.kill(os.getpid(), signal.SIGTERM)

dust2gold.demo.generate.main = main
sys.exit(cli.main(["generate", "--output", sys.argv[1]]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_of_our_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["report"], ["prepare", "--formatt", "tdg"], ["run", "--config", "x", "--only", "a", "--from", "b"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 2
        assert f"dust2gold {words[0]}: error:" in capsys.readouterr().err


@pytest.mark.parametrize("verb", cli.TRAINER_VERBS)
def test_each_trainer_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--config", "--print_config", "--model.help", "--data.help", "--trainer.max_epochs", "--ckpt_path"):
        assert option in shown


@pytest.mark.parametrize("name", ["nat", "rank"])
def test_print_config_is_a_config(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["fit", "--config", f"{REPOSITORY}/configs/{name}.yaml", "--trainer.max_epochs", "7", "--print_config"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    config = yaml.safe_load(printed)
    assert config["trainer"]["max_epochs"] == 7
    (tmp_path / "again.yaml").write_text(printed, encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config", str(tmp_path / "again.yaml"), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == config


@pytest.mark.parametrize(
    "words",
    [["--help"], ["run", "--config", "configs/demo.yaml", "--dry-run"], *([verb, "--help"] for verb in cli.VERBS)],
)
def test_our_verbs_answer_without_heavy_imports(words: list[str]) -> None:
    program = (
        "import sys, cli\n"
        "try:\n    status = cli.main(sys.argv[1:])\n"
        "except SystemExit as ended:\n    status = ended.code\n"
        f"print(status, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stderr == "0 []\n"


def test_as_a_program() -> None:
    done = subprocess.run([sys.executable, "cli.py", "nonsense"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("dust2gold: error: no verb 'nonsense'")


def test_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "dispatch", interrupted)
    assert cli.main(["fit"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
