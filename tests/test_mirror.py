"""Every source file has a test file of the same name in the same place, or stands here with the place of its tests."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "callbacks", "datamodules", "dust2gold", "lightning_modules")
ELSEWHERE: dict[str, str] = {}
"""Source file to the test file, or directory of tests, that holds it, where one of its own would say the same again."""


def sources() -> list[str]:
    files = [file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py")]
    return sorted(file.relative_to(REPOSITORY).as_posix() for file in files if file.name != "__init__.py")


def own_test(source: str) -> Path:
    return REPOSITORY / "tests" / Path(source).parent / f"test_{Path(source).name}"


def test_every_source_file_has_its_tests() -> None:
    without = {source for source in sources() if not own_test(source).is_file()}
    assert without == ELSEWHERE.keys()


@pytest.mark.parametrize(("source", "place"), ELSEWHERE.items())
def test_the_place_named_is_about_the_source(source: str, place: str) -> None:
    path = REPOSITORY / place
    texts = [file.read_text(encoding="utf-8") for file in ([path] if path.is_file() else path.rglob("*.py"))]
    module, verb = source.removesuffix(".py").replace("/", "."), Path(source).stem.replace("_", "-")
    named = (module, f"from {module.rpartition('.')[0]} import {Path(source).stem}", f'"{verb}')
    assert any(name in text for text in texts for name in named), f"{place} names neither {module} nor the verb"
