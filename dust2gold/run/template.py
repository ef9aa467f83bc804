"""`{name}` in a pipeline file, replaced by the variable's value; every other brace is left as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from dust2gold.core.errors import InputError

# A doubled pair around a name is that name in single braces, written literally. Only names count, so that JSON
# and YAML values such as {"lr": 1} or {a: {b: 1}} pass through commands unharmed.
_PLACEHOLDER = re.compile(r"\{\{(\*?[A-Za-z_]\w*)\}\}|\{\*?([A-Za-z_]\w*)\}")
_SPLICE = re.compile(r"\{\*([A-Za-z_]\w*)\}")


def substitute(text: str, variables: Mapping[str, str], *, file: Path, field: str) -> str:
    """Replaces each `{name}` of `text` by `variables[name]`, and each `{{name}}` by a literal `{name}`.

    Args:
        text: The template.
        variables: The value of each name.
        file: The pipeline file the text stands in, for errors.
        field: Its key there, for errors.

    Raises:
        InputError: If a name is not among the variables.
    """

    def value(match: re.Match[str]) -> str:
        literal, name = match.groups()
        if literal is not None:
            return "{" + literal + "}"
        if name not in variables:
            raise InputError(
                f"unknown variable '{{{name}}}'",
                file=file,
                field=field,
                remedy=f"known here: {', '.join(variables)}; a literal brace pair is written {{{{{name}}}}}",
            )
        return variables[name]

    return _PLACEHOLDER.sub(value, text)


def names_in(text: str) -> set[str]:
    """The names that `substitute` would replace."""
    return {match[2] for match in _PLACEHOLDER.finditer(text) if match[2] is not None}


class Scope:
    """The names known in a part of a pipeline file, each with its value as a text and as words.

    A command's word `{name}` is the value, one word whatever it holds. A word `{*name}` is as many words as the text
    of `name` has when a shell splits it, as it was written: a path with blanks that a `{variable}` in it stands for
    stays one word.

    Args:
        values: The value of each name to begin with; each is one word.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)
        self._words: dict[str, tuple[str, ...] | None] = {name: (value,) for name, value in values.items()}

    def inner(self) -> Scope:
        """A copy, in which more names can be defined."""
        copy = Scope(self.values)
        copy._words = dict(self._words)
        return copy

    def define(self, name: str, text: str, *, file: Path, field: str) -> None:
        """Gives `name` the text, in which the names defined so far are replaced.

        Raises:
            InputError: If the text holds an unknown name.
        """
        value = self.text(text, file=file, field=field)
        try:
            words: tuple[str, ...] | None = self.words(shlex.split(text), file=file, field=field)
        except ValueError:  # an apostrophe, say: as long as nobody wants words of it, that is no error
            words = None
        self.values[name], self._words[name] = value, words

    def text(self, text: str, *, file: Path, field: str) -> str:
        """Replaces the names in a text; raises as `substitute` does."""
        return substitute(text, self.values, file=file, field=field)

    def words(self, words: Iterable[str], *, file: Path, field: str) -> tuple[str, ...]:
        """Replaces the names in the words of a command.

        Raises:
            InputError: If a name is unknown, or what is to become several words cannot be split.
        """
        found: list[str] = []
        for word in words:
            text = self.text(word, file=file, field=field)
            splice = _SPLICE.fullmatch(word)
            several = (text,) if splice is None else self._words[splice[1]]
            if several is None:
                problem = f"this cannot be split into words: {text}"
                raise InputError(problem, file=file, field=field, remedy="close the quotation in it")
            found += several
        return tuple(found)
