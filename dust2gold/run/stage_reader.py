"""Reads the stages of a pipeline file: their own keys, and what a template says for several of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dust2gold.core.secret_options import check_command
from dust2gold.run.fields import Fields
from dust2gold.run.stage import Stage
from dust2gold.run.template import Scope

_CONTENT = ("about", "inputs", "students", "needs", "commands", "outputs", "directory")
"""What a stage says itself or leaves to its template."""
_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def read_templates(fields: Fields) -> dict[str, Fields]:
    """The templates of a file by name.

    Raises:
        InputError: If a template is no mapping or has another key.
    """
    return {
        name: Fields(value, fields.file, (*_CONTENT, "parameters"), f"templates.{name}")
        for name, value in fields.mapping("templates").items()
    }


class StageReader:
    """Makes stages of what stands under `stages`.

    Args:
        scope: The pipeline's variables.
        templates: The templates by name.
        run: The run directory.
    """

    def __init__(self, scope: Scope, templates: Mapping[str, Fields], run: Path) -> None:
        self._scope = scope
        self._templates = templates
        self._run = run

    def read(self, value: Any, file: Path, number: int) -> Stage:
        """Makes one stage.

        Args:
            value: What YAML gave.
            file: The file it stands in.
            number: Its place there, counted from 1, for errors about a stage without a name.

        Raises:
            InputError: If a key, template, parameter or variable is unknown, something is missing, or a command
                holds a key.
        """
        named = isinstance(value, dict) and isinstance(value.get("name"), str)
        own = Fields(
            value, file, ("name", "template", "with", *_CONTENT), f"stages.{value['name'] if named else number}"
        )
        name = own.text("name")
        if not _STAGE_NAME.fullmatch(name):
            raise own.error("name", f"'{name}' is no stage name", "use letters, digits, - and _; it names files")
        scope = self._scope.inner()
        scope.define("stage", name, file=file, field=own.where)
        template = self._template(own)
        self._define_parameters(scope, own, template)

        def says(key: str) -> Fields:
            return own if own.get(key) is not None or template is None else template

        def texts(key: str) -> tuple[str, ...]:
            source = says(key)
            where = f"{source.where}.{key}"
            return tuple(scope.text(text, file=source.file, field=where) for text in source.texts(key))

        return Stage(
            name=name,
            about=" ".join(scope.text(says("about").text("about", ""), file=file, field=f"{own.where}.about").split()),
            commands=_commands(says("commands"), scope),
            needs=texts("needs"),
            inputs=texts("inputs"),
            students=tuple(dict.fromkeys(texts("students"))),
            outputs=texts("outputs"),
            directories=texts("directory") or (str(self._run / name),),
            file=file,
        )

    def _template(self, own: Fields) -> Fields | None:
        if own.get("template") is None:
            if own.get("with") is not None:
                raise own.error("with", "parameters without a template", "name it with `template: ...`")
            return None
        name = own.text("template")
        if name not in self._templates:
            known = ", ".join(self._templates) or "none"
            raise own.error("template", f"no template '{name}'", f"the templates are {known}")
        return self._templates[name]

    def _define_parameters(self, scope: Scope, own: Fields, template: Fields | None) -> None:
        if template is None:
            return
        defaults = template.mapping("parameters")
        given = Fields(own.mapping("with"), own.file, list(defaults), f"{own.where}.with")
        for name, default in defaults.items():
            value, source, where = given.get(name), own, given.where
            if value is None:
                value, source, where = default, template, f"{template.where}.parameters"
            if value is None:
                raise given.error(name, "is missing", f"template '{own.text('template')}' wants it under `with`")
            text = source.scalar(value, where.rpartition(".")[2] + f".{name}")
            scope.define(name, text, file=source.file, field=f"{where}.{name}")


def _commands(fields: Fields, scope: Scope) -> tuple[tuple[str, ...], ...]:
    where = f"{fields.where}.commands"
    commands = tuple(
        scope.words(_words(command, fields), file=fields.file, field=where) for command in fields.items("commands")
    )
    if not commands:
        raise fields.error("commands", "there is none", "list at least one, as `- fit --config FILE`")
    for command in commands:
        check_command(command, fields.file, where)
    return commands


def _words(command: Any, fields: Fields) -> list[str]:
    """Splits a command as a shell would, before variables are replaced: a value with spaces stays one word."""
    if isinstance(command, list):
        words = [fields.scalar(word, "commands") for word in command]
    else:
        try:
            words = shlex.split(fields.scalar(command, "commands"))
        except ValueError as error:
            raise fields.error("commands", f"cannot be split into words ({error})", "close the quotation") from error
    if not words:
        raise fields.error("commands", "an empty command", "remove it or write `- VERB --option VALUE`")
    return words
