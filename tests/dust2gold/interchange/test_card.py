import shutil
from pathlib import Path

import pytest
import yaml

from dust2gold.core.errors import InputError
from dust2gold.interchange.card import model_card


def test_card_tells_data_training_and_results(run: Path, tiny_student: Path) -> None:
    card = model_card(run, "nce", str(tiny_student), "lora")
    assert "3 questions, 9 samples, 5 right (D_pos), 4 wrong (D_neg)" in card
    assert "25.00" in card
    assert "75.00" not in card  # another method's
    assert r"nuts\|\<b\>" in card
    assert "train: positive.jsonl" in card  # of the fit, not of the test after it
    assert "adapter: neg\n" in card
    assert str(run.parent) not in card
    assert f"student: {tiny_student.name}\n" in card


@pytest.mark.parametrize(("form", "library"), [("lora", "peft"), ("merged", "transformers"), ("nat", "other")])
def test_card_is_one_that_the_hub_takes(run: Path, tiny_student: Path, form: str, library: str) -> None:
    for student, base in ((str(tiny_student), None), ("owner/model", "owner/model")):  # no directory of this machine
        facts = yaml.safe_load(model_card(run, "nce", student, form).split("---\n")[1])
        assert (facts["library_name"], facts.get("base_model")) == (library, base)


@pytest.mark.parametrize("name", ["data/summary.json", "results.json", "nce/fit/config.yaml"])
@pytest.mark.parametrize("content", ["{", "[]", "[1]", '{"source": 1}', "\0", "- a\n- b"])
def test_a_damaged_run_is_named(run: Path, tmp_path: Path, name: str, content: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    if (Path(name).name, content) == ("results.json", "[]"):
        return  # nothing to tell, and lawful
    with pytest.raises(InputError) as caught:
        model_card(tmp_path / "run", "nce", "owner/model", "lora")
    assert caught.value.file == str(tmp_path / "run" / name)
