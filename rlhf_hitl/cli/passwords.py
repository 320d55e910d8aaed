"""Where a password comes from: made here and printed once, typed, or read from stdin. It is never an argument.

Every user of a machine can read the arguments of every program (`ps`).
"""

from __future__ import annotations

import secrets
import sys
from typing import Annotated

import typer

from rlhf_hitl.errors import BadInput

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from stdin, as one line. For programs.")
]
AskPassword = Annotated[
    bool, typer.Option("--ask-password", help="Ask for the password on the terminal, twice. It is not shown.")
]


def take_password(from_stdin: bool, ask: bool) -> tuple[str, bool]:
    """Return the password of a command, and whether it was made here and has to be shown.

    Raises:
        BadInput: both ways are asked for, stdin has no line, or what was typed differs the second time.
    """
    if from_stdin and ask:
        raise BadInput("--password-stdin with --ask-password", expected="one of them", fix="leave one out")
    if from_stdin:
        line = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
        if not line:
            raise BadInput("--password-stdin", expected="a password on stdin", fix="write it there, as one line")
        return line, False
    if ask:
        typed = typer.prompt("Password", hide_input=True, err=True)
        if typer.prompt("The same again", hide_input=True, err=True) != typed:
            raise BadInput("password", expected="the same both times", fix="type it again")
        return typed, False
    return generate_password(), True


def generate_password() -> str:
    """Return a random password of 70 bits that is easy to read out."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(3))
