"""The words of the generated stories. Two sets: the one that teaches, and another that only tests.

In the sentences, `{name}` is who the story is about, `{they}` the pronoun (capitalised), `{item}` what is counted and
`{n}` the number that the sentence brings in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Wording:
    """How a story is told."""

    names: Mapping[str, str]  # name → pronoun
    items: tuple[str, ...]  # what is counted
    containers: tuple[str, ...]  # what items come in
    gains: tuple[str, ...]  # predicates of a sentence that adds
    losses: tuple[str, ...]  # and of one that takes away
    has: str  # the scene of one quantity
    total: str  # its question
    grouped: str  # the scene of {count} {container} with {n} items each
    shared: str  # divides among {n} friends
    share: str  # its question
    wanted: str  # the scene of {count} items at {n} dollars
    cost: str  # its question
    cheaper: str  # takes off {n} dollars
    dearer: str  # adds {n} dollars
    times: str  # one has {n} times what {other} has
    fewer: str  # one has {n} less
    more: str  # one has {n} more
    asked: str  # the question after comparisons


def _people(women: str, men: str) -> Mapping[str, str]:
    return MappingProxyType({**dict.fromkeys(women.split(), "She"), **dict.fromkeys(men.split(), "He")})


PLAIN = Wording(
    names=_people("Mia Anna Lucy Nora Ella Ruth", "Tom Ben Sam Max Leo Paul"),
    items=("apples", "books", "coins", "cards", "shells", "pens", "stamps", "cookies", "marbles", "beads"),
    containers=("boxes", "bags", "jars", "crates"),
    gains=("buys {n} more", "finds {n} more", "gets {n} more", "wins {n} more"),
    losses=("gives away {n}", "loses {n}", "sells {n}", "uses {n}"),
    has="{name} has {n} {item}.",
    total="How many {item} does {name} have now?",
    grouped="{name} has {count} {container} with {n} {item} each.",
    shared="{they} shares them equally among {n} friends.",
    share="How many {item} does each friend get?",
    wanted="{name} wants {count} {item} at {n} dollars each.",
    cost="How many dollars does it cost in total?",
    cheaper="A coupon takes off {n} dollars.",
    dearer="{they} adds a hat for {n} dollars.",
    times="{name} has {n} times as many as {other}.",
    fewer="{name} has {n} fewer than {other}.",
    more="{name} has {n} more than {other}.",
    asked="How many {item} does {name} have?",
)
"""What the training questions are told in."""

PAST = Wording(
    names=_people("Zoe Iris Faye Dana Gwen Tess", "Hugo Omar Carl Yuri Rick Noah"),
    items=("flowers", "pencils", "photos", "stickers", "tickets", "muffins", "bottles", "toys", "songs", "balls"),
    containers=("rows", "trays", "albums", "shelves"),
    gains=("picked {n} more", "made {n} more", "was given {n} more"),
    losses=("threw out {n}", "mailed {n} to a cousin", "ate or broke {n}"),
    has="For the school fair {name} had {n} {item}.",
    total="How many {item} were left at the end of the day?",
    grouped="{name} put {n} {item} in each of {count} {container}.",
    shared="{they} split them evenly into {n} bags.",
    share="How many {item} went into one bag?",
    wanted="Each of the {item} {name} bought cost {n} dollars, and there were {count}.",
    cost="How much money did {name} spend?",
    cheaper="The shop gave {n} dollars back.",
    dearer="The bus was another {n} dollars.",
    times="{name} had {n} times the number of {other}.",
    fewer="{name} had {n} less than {other}.",
    more="{name} beat {other} by {n}.",
    asked="What number of {item} did {name} have?",
)
"""Other names, things and phrases, in the past tense: a test of what training on `PLAIN` carries over."""

WORDINGS = {"plain": PLAIN, "past": PAST}
"""By name, as `generate --wording` takes them."""
