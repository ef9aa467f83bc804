"""`{name}` in a pipeline file, replaced by the variable's value; every other brace is left as it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from foundation.errors import InputError

# A doubled pair around a name is that name in single braces, written literally. Only names count, so that JSON
# and YAML values such as {"lr": 1} or {a: {b: 1}} pass through commands unharmed.
_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


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
                f"unknown variable '{{{name}}}'", file=file, field=field,
                remedy=f"known here: {', '.join(variables)}; a literal brace pair is written {{{{{name}}}}}",
            )  # fmt: skip
        return variables[name]

    return _PLACEHOLDER.sub(value, text)
