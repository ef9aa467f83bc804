"""The method's stages as command lines, and a user's own beside them (examples/own_stage.py)."""

from pathlib import Path

import pytest

from dust2gold import cli
from dust2gold.core.errors import InputError
from dust2gold.run.method import data_stage, method_stages
from dust2gold.run.settings import RunSettings
from dust2gold.run.stage import Stage, as_typed
from tests.words import REPOSITORY

pytestmark = pytest.mark.usefixtures("elsewhere")
STAGES = ["cot-kd", "neg", "nat", "samples", "nce", "rank", "votes", "report"]


def stages(**values: object) -> dict[str, Stage]:
    settings = RunSettings(run="my run", **values)  # type: ignore[arg-type]
    return {stage.name: stage for stage in [*method_stages(settings), data_stage(settings)]}


def test_commands_are_what_a_user_could_type() -> None:
    found = stages(student="a b", seed=3)
    assert list(found) == [*STAGES, "data"]
    assert as_typed(found["nat"].words[0]) == (
        "python cli.py fit --config configs/nat.yaml --config configs/demo/student.yaml --config configs/demo/nat.yaml "
        "--model.student 'a b' --data.tokenizer 'a b' --seed_everything 3 --data.seed 3 "
        "--model.negative 'my run/neg/adapter' --data.train 'my run/data/positive.jsonl' "
        "--trainer.default_root_dir 'my run/nat' --ckpt_path same"
    )
    assert "[my run/samples/samples.jsonl, my run/data/solutions.jsonl]" in found["rank"].words[0]
    assert found["neg"].configs == ("configs/neg.yaml", "configs/demo/student.yaml")
    assert found["rank"].configs == ("configs/rank.yaml", "configs/demo/rank.yaml")


def test_a_ranker_may_be_an_encoder_of_its_own() -> None:
    found = stages(rank_base="flan", rank_encoder=True)
    assert "--model.backbone.init_args.path flan --data.tokenizer flan" in as_typed(found["rank"].words[0])
    assert found["votes"].students == ("embedded", "flan")


def test_data_of_files() -> None:
    data = stages(test_data="t.jsonl", teacher_data="x.jsonl", questions=5)["data"]
    assert data.inputs == ("x.jsonl", "t.jsonl")
    assert all("--limit 5" in command for command in data.commands)
    for wrong, problem in (
        ({"test_data": "t.jsonl"}, "field 'teacher_data': is missing"),
        ({"configs": "configs/dmeo"}, "no configs in configs/dmeo"),
    ):
        with pytest.raises(InputError, match=problem):
            stages(**wrong)


def test_data_by_columns() -> None:
    columns = {"columns": {"question": "my problem", "samples": "generations"}, "test_columns": {"gold": "answer"}}
    data = stages(test_data="t.jsonl", teacher_data="x.jsonl", test_source="mine", **columns)["data"]
    assert [as_typed(words).split("--output")[0] for words in data.words] == [
        "python cli.py prepare --input x.jsonl --columns 'question=my problem' samples=generations "
        "--source demo-train ",
        "python cli.py prepare --input t.jsonl --columns gold=answer --source mine ",
    ]
    by_format = stages(test_data="t.jsonl", teacher_data="x.jsonl", test_format="gsm8k", train_format="records")["data"]
    assert ["--format records" in by_format.commands[0], "--format gsm8k" in by_format.commands[1]] == [True, True]
    with pytest.raises(InputError, match="problems are generated"):
        stages(**columns)


def test_options_of_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    def told(setting: str, status: int) -> str:
        assert cli.main(["run", "--config", "configs/demo.yaml", "--dry-run", "--set", setting]) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert told("options.nat=--model.lora.r 16 --trainer.max_epochs 2", 0).count("same --model.lora.r 16") == 1
    assert "no stage 'nta'" in told("options.nta=--model.lora.r 16", 1)


def test_the_usual_case(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--config", "configs/single_gpu.yaml", "--dry-run"]
    for name in ("teacher", "test"):
        Path(f"{name}.jsonl").write_text("{}\n")
    assert cli.main([*words, "--set", "student=embedded", "--set", "columns.gold=final"]) == 0
    found = capsys.readouterr().out
    assert "--columns question=problem gold=final samples=generations --source mine" in found
    assert "--config configs/nce.yaml --config configs/single_gpu/student.yaml --model.student embedded" in found


def test_a_stage_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--config", "configs/demo.yaml", "--stages", str(REPOSITORY / "examples/own_stage.py"), "--dry-run"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "/13] nce-long: NCE with longer answers" in told
    assert "--trainer.default_root_dir runs/demo/nce-long --model.sampling.max_new_tokens 160" in told
    assert "[13/13] report" in told
    assert "13 of 13 stages would run" in told
    (Path("empty.py")).write_text("")
    for file, problem in (("none.py", "no such file of Python"), ("empty.py", "defines no function `stages`")):
        assert cli.main(["run", "--config", "configs/demo.yaml", "--stages", file]) == 1
        assert problem in capsys.readouterr().err


def test_columns_go_over_those_of_a_format() -> None:
    made = stages(
        test_data="t", teacher_data="x", train_format="openr1", columns={"keep": "whole"}, test_format="gsm8k"
    )
    read = made["data"].commands
    assert "--format openr1 --columns keep=whole --source" in read[0]
    assert "--format gsm8k --source" in read[1]
