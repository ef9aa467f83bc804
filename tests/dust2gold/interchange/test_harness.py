from pathlib import Path

import pytest
import yaml
from jinja2 import Template

from dust2gold import cli
from tests.records import write_asked


@pytest.mark.parametrize(
    ("prompt", "asked", "option"),
    [
        ("plain", "Problem:\nWhy?\nSolution:\n", ""),
        ("chat", "Why?", " --apply_chat_template"),
        ("{x}\n{question} =", "{x}\nWhy? =", ""),
    ],
)
def test_the_task_asks_in_the_prompt_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: str, asked: str, option: str
) -> None:
    if "{question}" in prompt:
        (tmp_path / "own.txt").write_text(prompt)
        prompt = str(tmp_path / "own.txt")
    words = f"export-task --questions {write_asked(tmp_path / 'q.jsonl')} --output {tmp_path / 'task'} --name own"
    assert cli.main([*words.split(), "--prompt", prompt]) == 0
    assert capsys.readouterr().out.endswith(f"--include_path {tmp_path / 'task'}{option}\n")
    text = (tmp_path / "task/own.yaml").read_text().partition("process_results")[0]
    template = Template(yaml.safe_load(text)["doc_to_text"], keep_trailing_newline=True)
    assert template.render(question="Why?") == asked
