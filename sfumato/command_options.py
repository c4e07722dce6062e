"""How options of the command are spelled in its help: names of values in place of types, no default None."""

from __future__ import annotations

from typing import Annotated, Any

import tyro


def option(value: str, *aliases: str, default: str = "") -> Any:
    """An option whose value is called `value`; `default` is shown where the program has None."""
    hint = f"(default: {default})" if default else _hint
    return tyro.conf.arg(metavar=value, aliases=aliases or None, help_behavior_hint=hint)


def _hint(default: str) -> str:
    """What the help says of a default."""
    return "" if default in ("", "None", "False") else f"(default: {default})"


Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
Integer = Annotated[int, option("N")]
Number = Annotated[float, option("X")]
OptionalInteger = Annotated[int | None, option("N")]
OptionalNumber = Annotated[float | None, option("X")]
Model = Annotated[str, option("NAME")]
OptionalModel = Annotated[str | None, option("NAME")]
