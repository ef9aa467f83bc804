"""The stages of the method: data, CoT KD, M_neg, NAT, its samples, NCE, M_rank, votes, report.

Each is a few command lines that a user could type (`run --dry-run` prints them). What a run's settings hold is put into
them here; `tables.py` adds the other rows of the paper's tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from shlex import quote

from dust2gold.core.configs import find_config
from dust2gold.core.errors import InputError
from dust2gold.run.settings import RunSettings
from dust2gold.run.stage import ALL, Stage

METHODS = {
    "fine-tune": "trained on the data set's own solutions, greedy (the paper's Fine-tune)",
    "cot-kd": "trained on the teacher's right rationales (D_pos), greedy: the baseline",
    "cot-kd-long": "CoT KD with twice the steps: as many as M_neg and NAT together",
    "cot-kd-wide": "cot-kd-long with as many trained parameters as NAT",
    "mix": "trained on right and wrong rationales alike (D_pos and D_neg)",
    "cl": "CoT KD with a contrastive term: a question's right rationales near, its wrong ones far",
    "nt": "negative training: lowers the likelihood of wrong rationales",
    "ul": "unlikelihood training on wrong rationales",
    "self-augmentation": "CoT KD on D_pos and the right samples of CoT KD itself",
    "kd": "self-refinement: NCE with β switched off",
    "neg": "M_neg, trained on the wrong rationales (D_neg), greedy",
    "nat": "M_NAT, right rationales with the frozen M_neg integrated (stage 1), greedy",
    "neg-shuffled": "M_neg's placebo, trained on rationales called wrong by shuffled verdicts",
    "nat-from-mix": "NAT whose positive half starts from MIX",
    "nat-shuffled": "NAT's placebo: its M_neg learned from shuffled verdicts",
    "nce": "M_NCE, one plain LoRA distilled from M_NAT, calibrated by M_neg (stage 2), greedy",
    "nce-from-mix": "a plain LoRA distilled from MIX, calibrated by M_neg",
    "nce-permuted": "NCE's placebo: each sample weighted by another one's β",
    "nce-token": "NCE with one β per token",
    "nat-no-negatives": "NAT whose frozen half is CoT KD's LoRA instead of M_neg",
    "nat-single": "NAT without the dual structure: one LoRA, trained on D_neg and then on D_pos",
    "nat-sum": "NAT without the attention: both halves are added",
    "nat-unscaled": "NAT with the gate as the paper writes it: its logits are not divided by √d_k",
    "nat-delta": "NAT whose units see the LoRAs' own outputs, without the base's",
    "nat-semantic": "NAT on data graded by value instead of by text",
    "redi": "REDI: reinforced on right, penalised on wrong rationales, normalised by length",
    "dpo": "direct preference optimisation on pairs of right and wrong rationales",
    "kto": "Kahneman-Tversky optimisation on right and wrong rationales, unpaired",
    "glow": "MIX with each rationale weighted by its gain since the epoch before",
    "opd": "on-policy distillation: NAT corrects the student's own samples, token by token",
    "sc": "self-consistency: majority vote over the samples",
    "ws": "vote weighted by the model's own length-normalised probability",
    "asc": "adaptive self-consistency: vote weighted by M_rank's score s (stage 3)",
    "asc-permuted": "asc's placebo: M_rank's scores exchanged among a question's samples",
    "asc-1+s": "vote weighted by 1 + s",
    "asc-1+2s": "vote weighted by 1 + 2s",
}
"""What each row of the report is, by its `method` in predictions.jsonl, in the report's order. Most are stages."""

ABOUT = METHODS | {
    "samples": "NAT answers the training questions; its right answers join D_pos (stage 2)",
    "rank": "M_rank: tells right rationales from wrong ones (stage 3)",
    "votes": "NCE samples the test questions, M_rank scores the samples, SC, WS and ASC vote (stage 3)",
    "report": "the tables and figures: report.md, results.json, analyses.json",
    "data-shuffled": "right and wrong rationales with shuffled verdicts",
    "cot-kd-samples": "CoT KD answers the training questions; its right answers join D_pos for self-augmentation",
    # Of 8 samples a question, 2 hold a quarter of the wrong ones.
    "nat-negatives-25": "NAT with a quarter of the negatives: those among 2 of the teacher's 8 samples",
    "nat-negatives-50": "NAT with half of the negatives: those among 4 of the teacher's 8 samples",
}
"""What each stage does. A stage's directory is named after it, and so is its row of the report."""


class Commands:
    """Parts of command lines, quoted for a shell."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.run = quote(settings.run)
        student, base = quote(settings.student), quote(settings.rank_base or settings.student)
        reader = "path" if settings.rank_encoder else "student"
        self.decoder = f"--model.student {student} --data.tokenizer {student}"
        self.ranker = f"--model.backbone.init_args.{reader} {base} --data.tokenizer {base}"
        self.seeds = f"--seed_everything {settings.seed} --data.seed {settings.seed}"
        rate = settings.learning_rate
        self.rate = "" if rate is None else f"--model.optimizer.init_args.lr {rate:g}"
        self.test_set = self.questions(f"{self.run}/test", settings.test_limit)
        if not any(find_config(f"{settings.configs}/{name}.yaml").is_file() for name in ("student", "neg", "rank")):
            remedy = "name a directory with student.yaml or rank.yaml in it, as configs/demo"
            raise InputError(f"no configs in {settings.configs}", field="configs", remedy=remedy)

    def configs(self, name: str) -> str:
        """The configs of a stage: ours, then those of the run's sizes that there are."""
        sizes = [f"{self.settings.configs}/{file}.yaml" for file in ("student", name) if (file, name) != _RANKER]
        found = [f"configs/{name}.yaml", *(size for size in sizes if find_config(size).is_file())]
        return " ".join(f"--config {quote(file)}" for file in found)

    def questions(self, directory: str, limit: int | None) -> str:
        """The first so many questions of a prepared data set; its directory is quoted already."""
        return f"--data.questions {directory}/questions.jsonl --data.limit_questions {json.dumps(limit)}"

    def files(self, *names: str) -> str:
        """Several files of the run directory as one option."""
        return quote(f"[{', '.join(f'{self.settings.run}/{name}' for name in names)}]")

    def fit(self, config: str, train: str, root: str, options: str = "", budgets: int = 1) -> str:
        """Trains a decoder on a file or files, quoted already, for so many times the run's `steps`."""
        steps = ""
        if self.settings.steps is not None:
            steps = f"--trainer.max_epochs -1 --trainer.max_steps {self.settings.steps * budgets}"
        return (
            f"fit {self.configs(config)} {self.decoder} {self.seeds} {steps} {self.rate} {options} "
            f"--data.train {train} --trainer.default_root_dir {root} --ckpt_path same"
        )

    def test(self, config: str, adapter: str, root: str, questions: str | None = None) -> str:
        """Answers questions greedily, by default the test set's."""
        return (
            f"test {self.configs(config)} {self.decoder} --model.adapter {adapter} {questions or self.test_set} "
            f"--trainer.default_root_dir {root}"
        )

    def trained(self, name: str, needs: str, config: str, train: str, options: str = "", budgets: int = 1) -> Stage:
        """A stage that trains a decoder and answers the test questions; `needs` names stages, with blanks between."""
        root = f"{self.run}/{name}"
        return Stage(
            name,
            ABOUT[name],
            (self.fit(config, train, root, options, budgets), self.test(config, f"{root}/adapter", root)),
            tuple(needs.split()),
            students=(self.settings.student,),
            outputs=(f"{name}/adapter", f"{name}/predictions.jsonl"),
        )

    def sampled(self, name: str, student: str, config: str) -> Stage:
        """A stage in which a trained student answers the training questions; its right answers join D_pos."""
        run, root, settings = self.run, f"{self.run}/{name}", self.settings
        return Stage(
            name,
            ABOUT[name],
            (
                f"predict {self.configs(config)} {self.decoder} --model.adapter {run}/{student}/adapter "
                f"--model.sampling.samples {settings.samples} --model.sampling.seed {settings.seed} "
                f"{self.questions(f'{run}/data', settings.train_limit)} --trainer.default_root_dir {root}",
                f"augment --positive {run}/data/positive.jsonl --samples {root}/samples.jsonl "
                f"--output {root}/positive.jsonl",
            ),
            ("data", student),
            students=(settings.student,),
            outputs=(f"{name}/samples.jsonl", f"{name}/positive.jsonl"),
        )


RIGHT = "--data.verdicts positive"  # where the stage that trains M_neg trains on right rationales
VOTE_PLACEBO = "asc-permuted"  # a row without a stage of its own: the votes make it
_RANKER = ("student", "rank")  # M_rank is no student: its sizes stand in rank.yaml alone


def method_stages(settings: RunSettings) -> list[Stage]:
    """The stages of the method, without the data."""
    make = Commands(settings)
    run, positive, augmented = make.run, f"{make.run}/data/positive.jsonl", f"{make.run}/samples/positive.jsonl"
    rank_base = settings.rank_base or settings.student
    placebo = "--model.placebo true" if VOTE_PLACEBO in settings.rows else ""
    return [
        make.trained("cot-kd", "data", "neg", positive, RIGHT),
        make.trained("neg", "data", "neg", f"{run}/data/negative.jsonl"),
        make.trained("nat", "data neg", "nat", positive, f"--model.negative {run}/neg/adapter"),
        make.sampled("samples", "nat", "nat"),
        make.trained("nce", "nat samples", "nce", augmented, f"--model.nat {run}/nat/adapter"),
        Stage(
            "rank",
            ABOUT["rank"],
            (
                f"fit {make.configs('rank')} {make.ranker} {make.seeds} --data.train {make.files(*settings.rank_data)} "
                f"--trainer.default_root_dir {run}/rank --ckpt_path same",
            ),
            ("data", "samples"),
            students=(rank_base,),
            outputs=("rank/adapter",),
        ),
        Stage(
            "votes",
            ABOUT["votes"],
            (
                f"predict {make.configs('nce')} {make.decoder} --model.adapter {run}/nce/adapter "
                f"--model.sampling.samples {settings.votes} --model.sampling.seed {settings.seed} {make.test_set} "
                f"--trainer.default_root_dir {run}/votes",
                f"predict {make.configs('rank')} {make.ranker} --model.trained {run}/rank/adapter "
                f"--data.predict {run}/votes/samples.jsonl --trainer.default_root_dir {run}/votes",
                f"test --config configs/vote.yaml {placebo} --data.samples {run}/votes/scored.jsonl "
                f"--data.samples_per_question {settings.votes} --trainer.default_root_dir {run}/votes",
            ),
            ("nce", "rank"),
            students=tuple(dict.fromkeys((settings.student, rank_base))),
            outputs=("votes/samples.jsonl", "votes/scored.jsonl", "votes/predictions.jsonl"),
        ),
        Stage(
            "report",
            ABOUT["report"],
            (f"report {run}",),
            (ALL,),
            outputs=("results.json", "analyses.json", "report.md", "report"),
        ),
    ]


def data_stage(settings: RunSettings) -> Stage:
    """D_pos, D_neg and the test questions: of generated problems, or of files."""
    run, source = quote(settings.run), quote(settings.train_source)
    if settings.test_data is None:
        if settings.columns or settings.test_columns:
            raise InputError("are given, and problems are generated", field="columns", remedy="give test_data, too")
        return Stage(
            "data",
            "a seeded teacher solves generated problems, often wrongly; its answers are graded into D_pos and D_neg",
            (
                f"generate --output {run}/raw --seed {settings.data_seed} --train-questions {settings.train_questions} "
                f"--test-questions {settings.test_questions} --samples 8 --teacher {quote(settings.teacher)} "
                f"--levels {quote(settings.levels)} --notation {settings.notation:g}",
                f"prepare --input {quote(teacher_data(settings))} --format tdg --source {source} --output {run}/data",
                f"prepare --input {run}/raw/test.jsonl --format math --source demo --output {run}/test",
            ),
            directories=("raw", "data", "test"),
            outputs=("data", "test"),
        )
    teacher, limit = teacher_data(settings), "" if settings.questions is None else f"--limit {settings.questions}"
    return Stage(
        "data",
        "the teacher's samples, graded into D_pos and D_neg by string comparison (reference)",
        (
            f"prepare --input {quote(teacher)} {train_format(settings)} --source {source} {limit} --output {run}/data",
            f"prepare --input {quote(settings.test_data)} {test_format(settings)} "
            f"--source {quote(settings.test_source)} {limit} --output {run}/test",
        ),
        inputs=(teacher, settings.test_data),
        directories=("data", "test"),
        outputs=("data", "test"),
    )


def train_format(settings: RunSettings) -> str:
    """How `prepare` reads the teacher's samples."""
    return _format(settings.train_format, settings.columns, "tdg")


def test_format(settings: RunSettings) -> str:
    """How it reads the test set."""
    return _format(settings.test_format, settings.test_columns, "math")


def _format(name: str | None, columns: Mapping[str, str] | None, default: str) -> str:
    """How `prepare` reads a file: by a known format, by columns, or by columns over those of the format."""
    words = [] if name is None and columns else ["--format", quote(name or default)]
    if columns:
        words += ["--columns", *(quote(f"{ours}={theirs}") for ours, theirs in columns.items())]
    return " ".join(words)


def teacher_data(settings: RunSettings) -> str:
    """The file of the teacher's samples; it must be given unless problems are generated."""
    if settings.teacher_data is None and settings.test_data is not None:
        raise InputError("is missing, as `test_data` is given", field="teacher_data", remedy="give both, or neither")
    return settings.teacher_data or f"{settings.run}/raw/train.jsonl"
