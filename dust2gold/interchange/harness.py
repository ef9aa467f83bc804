"""`export-task`: a test set as a task of lm-evaluation-harness, graded as our own `test` grades.

DIR/<name>.yaml        the task: prompt, greedy decoding, the metric
DIR/<name>_grade.py    the metric, by this package's string grader
DIR/questions.jsonl    the questions

lm_eval --model hf --model_args pretrained=EXPORTED --tasks NAME --include_path DIR --batch_size 32
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from datamodules.components.encoding.prompts import PLAIN, text_prompt
from datamodules.components.grading.grader import grader_for
from datamodules.components.records.records import read_questions, write_questions
from dust2gold.core.errors import InputError
from dust2gold.core.files import write_directory_atomically

_GRADE = '''\
"""The metric of this task: whether the answer is the gold one, as dust2gold's `test` decides."""

from datamodules.components.encoding.prompts import PLAIN, text_prompt
from datamodules.components.grading.grader import StringGrader

_GRADER = StringGrader(by_value={grader.by_value}, stated={grader.stated})


def process_results(doc, results):
    """lm-evaluation-harness calls this with a question and the texts generated for it."""
    return {{"accuracy": float(_GRADER.grade(results[0], doc["gold"])[0] == "positive")}}
'''


def export_task(questions: Path, output: Path, name: str, max_new_tokens: int, prompt: str = PLAIN.kind) -> Path:
    """Writes the task of a questions.jsonl into a new directory and returns that.

    The prompt is `plain`, a file, or `chat`: the bare question, for the harness's own `--apply_chat_template`.

    Raises:
        InputError: If the questions cannot be read, `output` exists, or the name is no Python name.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise InputError(f"'{name}' is no task name", field="--name", remedy="use letters, digits and _")
    if output.exists():
        raise InputError("is there already", file=output, field="--output", remedy="name a new directory")
    asked = list(read_questions(questions))
    if not asked:
        raise InputError("holds no question", file=questions, remedy="check the output of prepare")
    grader = grader_for(asked)
    around = ("", "") if prompt == "chat" else (text_prompt(prompt).before, text_prompt(prompt).after)
    before, after = (part.replace("{", "{{ '{' }}") for part in around)
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(output.resolve() / "questions.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": f"{before}{{{{ question }}}}{after}",
        "doc_to_target": "{{ gold }}",
        "generation_kwargs": {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": max_new_tokens},
        "metric_list": [{"metric": "accuracy", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    metric = f"process_results: !function {name}_grade.process_results\n"  # a tag of the harness's own
    with write_directory_atomically(output) as directory:
        write_questions(directory / "questions.jsonl", asked)
        (directory / f"{name}_grade.py").write_text(_GRADE.format(grader=grader), encoding="utf-8")
        text = yaml.safe_dump(task, sort_keys=False, allow_unicode=True)
        (directory / f"{name}.yaml").write_text(text + metric, encoding="utf-8")
    return output
