"""The wheel: what it holds, and that it runs away from the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.records import write_positive
from tests.words import REPOSITORY

pytestmark = pytest.mark.slow

NOT_SOURCE = shutil.ignore_patterns(*".* __pycache__ *.egg-info build dist runs models lightning_logs".split())


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command as a stranger would, without this process's PYTHONPATH; returns its standard output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that setuptools leaves nothing in the working tree."""
    source = tmp_path_factory.mktemp("source") / "dust2gold"
    shutil.copytree(REPOSITORY, source, ignore=NOT_SOURCE)
    output = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", output, cwd=source)
    (built,) = output.glob("*.whl")
    return built


def test_holds_every_package_config_and_the_student(wheel: Path) -> None:
    wanted = {"cli.py"}
    for package in ("callbacks", "datamodules", "dust2gold", "lightning_modules"):
        wanted |= {str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / package).rglob("*.py")}
        wanted.add(f"{package}/py.typed")
    wanted |= {f"dust2gold/{file.relative_to(REPOSITORY)}" for file in (REPOSITORY / "configs").rglob("*.yaml")}
    for data in ("demo/student", "report/assets"):
        files = (REPOSITORY / "dust2gold" / data).glob("*")
        wanted |= {str(file.relative_to(REPOSITORY)) for file in files if file.is_file()}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == wanted


def test_runs_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment that sees this one's dependencies but not its editable dust2gold."""
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # Plain paths in a .pth file are appended without reading the .pth files there: the editable install stays out.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")

    home = run(python, "-c", "import cli, dust2gold; print(cli.__file__, dust2gold.__file__)", cwd=tmp_path)
    assert home.split() == [str(site / "cli.py"), str(site / "dust2gold" / "__init__.py")]
    program = environment / "bin" / "dust2gold"
    assert "fit" in run(program, "--help", cwd=tmp_path)

    (here := tmp_path / "here").mkdir()
    show = ("fit", "--config", "configs/nat.yaml", "--print_config")
    shown = run(program, *show, cwd=here)
    config = yaml.safe_load(shown)
    assert config["model"]["class_path"] == "lightning_modules.nat.NATModel"
    for name in ("callbacks", "configs", "datamodules", "lightning_modules"):  # as a user's project may have them
        (here / name).mkdir()
        (here / name / "__init__.py").write_text("raise ImportError('not ours')", encoding="utf-8")
    assert run(program, *show, cwd=here) == shown
    assert run(python, "-m", "dust2gold.cli", *show, cwd=here) == shown  # the working directory comes first in sys.path
    train = ("fit", "--config", "configs/neg.yaml", "--trainer.default_root_dir", "run", "--trainer.max_steps", "1")
    where = (
        "--trainer.accelerator",
        "cpu",
        "--data.train",
        "train.jsonl",
        "--data.verdicts",
        "positive",
        "--data.max_length",
        "256",
    )
    write_positive(here / "train.jsonl", 8)
    run(program, *train, *where, cwd=here)
    assert (here / "run" / "adapter-last" / "adapter_model.safetensors").is_file()
