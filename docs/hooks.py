"""Pages that are generated from the code when the documentation is built."""

from __future__ import annotations

import argparse
from typing import Any

from cloudsen12_cube.cli.parser import make_parser

_MARK = "<!-- the commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark in a page with the reference of all commands."""
    return markdown.replace(_MARK, commands()) if _MARK in markdown else markdown


def commands() -> str:
    """Return the description and a table of arguments for each command."""
    parser = make_parser()
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return "\n\n".join(_command(name, sub) for name, sub in actions[0].choices.items())


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    usage = parser.format_usage().removeprefix("usage: ").replace("\n       ", "\n").rstrip()
    rows = [f"| {_name(action)} | {_help(parser, action)} |" for action in parser._actions if action.dest != "help"]
    text = (parser.description or "").strip()
    table = ["| argument | meaning |", "|---|---|", *rows]
    return "\n".join([f"## {name}", "", f"{text[:1].upper()}{text[1:]}.", "", "```text", usage, "```", "", *table])


def _name(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(action.choices) if action.choices else "")
    names = ", ".join(action.option_strings) or str(value or action.dest)
    takes = f" {value}" if action.option_strings and action.nargs != 0 else ""
    return f"`{names}{takes}`".replace("|", "\\|")


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    if not action.help:
        return ""
    return (action.help % {**vars(action), "prog": parser.prog}).replace("|", "\\|")
