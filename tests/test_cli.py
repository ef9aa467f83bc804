"""The command line itself: verbs, help, exit codes, and what is imported when."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from dust2gold import cli
from tests.words import REPOSITORY

Capture = pytest.CaptureFixture[str]
SHARED = {
    "__init__",
    "arguments",
    "check",
    "disk",
    "logs",
    "resumption",
    "stage_defaults",
    "stand_ins",
}  # modules beside the commands that are none
OWN_VERBS = [verb for verb in cli.VERBS if verb not in cli.TRAINER_VERBS]
HEAVY = ("torch", "lightning", "transformers", "peft", "sympy", "matplotlib", "torchmetrics", "openai")


def test_no_verb_shows_the_usage(capsys: Capture) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert shown.startswith("usage: dust2gold VERB")
    assert all(f"\n  {verb} " in shown for verb in cli.VERBS)
    for word in (["--help"], ["-h"], ["--debug", "--help"]):
        assert cli.main(word) == 0
        assert capsys.readouterr().out == shown


def test_version(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    number = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert number is not None
    assert capsys.readouterr().out in (f"dust2gold {number[1]}\n", "dust2gold (a checkout that is not installed)\n")


def test_each_command_is_a_module() -> None:
    modules = {file.stem for file in (REPOSITORY / "dust2gold/commands").glob("*.py")} - SHARED - {"trainer"}
    assert modules == {verb.replace("-", "_") for verb in OWN_VERBS}


def test_sigterm_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
import cli, dust2gold.commands.generate
from dust2gold.core.files import write_atomically

def main(parsed):
    with write_atomically(Path(parsed.output) / "file"):
        os.kill(os.getpid(), signal.SIGTERM)

dust2gold.commands.generate.main = main
sys.exit(cli.main(["generate", "--output", sys.argv[1]]))
"""
    done = run(code, str(tmp_path), cwd=REPOSITORY)
    assert done.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_of_our_verbs(capsys: Capture) -> None:
    for words in (["report"], ["prepare", "--formatt", "tdg"], ["run", "--config", "x", "--only", "a", "--from", "b"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(words)
        assert f"dust2gold {words[0]}: error:" in capsys.readouterr().err


@pytest.mark.parametrize("verb", cli.TRAINER_VERBS)
def test_each_trainer_verb_explains_itself(verb: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([verb, "--help"])
    shown = capsys.readouterr().out
    for option in ("--config", "--print_config", "--model.help", "--data.help", "--trainer.max_epochs", "--ckpt_path"):
        assert option in shown


@pytest.mark.parametrize("name", ["nat", "rank"])
def test_print_config_is_a_config(name: str, capsys: Capture, tmp_path: Path) -> None:
    def printed(*words: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            cli.main(["fit", *words, "--print_config"])
        return capsys.readouterr().out

    first = printed("--config", f"{REPOSITORY}/configs/{name}.yaml", "--trainer.max_epochs", "7")
    assert yaml.safe_load(first)["trainer"]["max_epochs"] == 7
    (tmp_path / "again.yaml").write_text(first, encoding="utf-8")
    assert yaml.safe_load(printed("--config", str(tmp_path / "again.yaml"))) == yaml.safe_load(first)


def run(code: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["run", "--config", "configs/demo.yaml", "--dry-run"], *([verb, "--help"] for verb in OWN_VERBS)],
)
def test_our_verbs_answer_without_heavy_imports(words: list[str]) -> None:
    code = (
        "import sys, cli\n"
        "try:\n    status = cli.main(sys.argv[1:])\n"
        "except SystemExit as ended:\n    status = ended.code\n"
        f"print(status, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = run(code, *words, cwd=REPOSITORY)
    assert done.stderr == "0 []\n"
    assert f"usage: dust2gold {words[0]} " in done.stdout or words[1:] != ["--help"]


def test_an_unknown_verb_names_the_known_ones() -> None:
    done = subprocess.run([sys.executable, "cli.py", "trian"], cwd=REPOSITORY, capture_output=True, text=True)
    problem = f"dust2gold: error: no verb 'trian'\n  choose one of {', '.join(cli.VERBS)}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", problem)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["prepare", "--help"], pytest.param(["fit", "-c", "configs/nat.yaml", "--print_config"], id="config")],
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_pipe_that_nobody_reads(words: list[str], buffered: str) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        assert reader.stdin is not None
        reader.wait()
        environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
        command = [sys.executable, "cli.py", *words]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=reader.stdin, stderr=subprocess.PIPE, env=environment)
        reader.stdin = None
    assert done.stderr == b""
    assert done.returncode in (128 + signal.SIGPIPE, 0)  # argparse itself says nothing of it


def test_our_packages_come_before_the_users(tmp_path: Path) -> None:
    for name in ("callbacks", "configs", "datamodules", "lightning_modules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not ours')", encoding="utf-8")
    code = f"import sys; sys.path.append({str(REPOSITORY)!r}); from dust2gold.cli import main; main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run(code, "fit", "--config", "configs/nat.yaml", "--print_config", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["model"]["class_path"] == "lightning_modules.nat.NATModel"


def test_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(cli, "dispatch", Mock(side_effect=KeyboardInterrupt))
    assert cli.main(["fit"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
