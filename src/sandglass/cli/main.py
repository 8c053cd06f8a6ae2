"""The command line. Subcommands parse their arguments and print results; the modules that they call do the work."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    UnknownCommandError,
    UnusedCliTokensError,
)

from sandglass.cli.conformance import conformance
from sandglass.cli.deploy import all_of, deploy
from sandglass.cli.kits import collect
from sandglass.cli.measure import benchmark, evaluate
from sandglass.cli.output import close_progress, fail, is_terminal
from sandglass.cli.quantize import quantize, sensitivity
from sandglass.cli.runtime import inspect, predict, tune
from sandglass.cli.system import discard_output, escape_unprintable, fix_of, flush, refuse_other_encodings
from sandglass.cli.terminal import Screen
from sandglass.cli.zoo import demo, doctor, fetch, models
from sandglass.core.errors import InputError, SandglassError
from sandglass.core.files import run_folder

MAKE, MEASURE, LOOK = (
    Group.create_ordered(name) for name in ("Make artifacts", "Measure artifacts", "Models, runtimes and shell")
)
COMMANDS = {
    MAKE: (quantize, sensitivity, demo),
    MEASURE: (evaluate, benchmark, inspect, tune, predict, collect),
    LOOK: (models, fetch, doctor, conformance),
}


WIDEST = 1000  # characters of a line of help without a terminal, so that each option is one line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit code.

    0 is success, and 2 an error, with a message on standard error. 130 means that the command was interrupted or
    terminated, and 141 that the reader of its output has closed the pipe, as `| head` does.
    """
    escape_unprintable()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except CycloptsError as error:
        return fail(*_explain(error))
    except SandglassError as error:
        return fail(error.message, error.fix)
    except BrokenPipeError:
        discard_output()
        return 141
    except OSError as error:  # for example a full disk: any write may raise it
        return fail(str(error), fix_of(error))
    except KeyboardInterrupt:
        return fail("interrupted; run the same command again to continue", code=130)
    finally:
        close_progress()
        signal.signal(signal.SIGTERM, before)


def _run(arguments: Sequence[str]) -> int:
    try:
        refuse_other_encodings(arguments)
        if not arguments:
            raise InputError("the command is missing", "see `sandglass --help`")
        with run_folder():
            return int(app()(list(arguments)) or 0)
    finally:
        flush()


def _explain(error: CycloptsError) -> tuple[str, str]:
    """The message and the fix of a usage error."""
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword} may be given only once", "run the command once for each value"
    if isinstance(error, UnknownCommandError) and error.app is not None and error.unused_tokens:
        known = ", ".join(name for name in error.app if not name.startswith("-"))
        return f"unknown command {error.unused_tokens[0]!r}", f"known commands: {known}"
    return _message(error), f"see `{' '.join(('sandglass', *(error.command_chain or ())))} --help`"


def _message(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {error.unused_tokens[0]!r}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        argument, typed = error.argument, error.keyword or error.argument.tokens
        name = argument.name if argument.name.startswith("-") else argument.parameter.metavar
        return f"{error.keyword or name} {'needs a value' if typed else 'is missing'}"
    text = " ".join(str(error).split()).removesuffix(".")
    return text[:1].lower() + text[1:]


class _Terminated(KeyboardInterrupt):
    """SIGTERM as an interruption.

    It is a subclass because of `python -m`: if KeyboardInterrupt itself passes through generated code, such as that of
    a dataclass, the interpreter remembers it and ends by SIGINT, whatever `main` returns.
    """


def _terminate(*_: object) -> None:
    """Raise an exception, so that every `finally` runs and temporary folders are removed."""
    raise _Terminated


def app() -> App:
    """The application with all subcommands. Its options are derived from the arguments of the functions."""
    terminal = is_terminal(sys.stdout)
    root = App(
        name="sandglass",
        help="Deploy trained vision models to runtimes in fp32, fp16 and int8, and measure their accuracy and speed.",
        help_format="plaintext",
        help_formatter="default" if terminal else "plain",
        console=Screen() if terminal else Screen(width=WIDEST),
        version=_version,
        default_parameter=Parameter(negative=(), show_default=False),
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
        verbose=False,
        result_action="return_value",
    )
    deployment = App(name="deploy", default_command=deploy, group=MAKE)
    deployment.command(all_of)
    root.command(deployment)
    for group, functions in COMMANDS.items():
        for function in functions:
            root.command(function, group=group)
    root.register_install_completion_command(
        group=LOOK, help="Install completion of commands, options and names for bash, zsh or fish."
    )
    return root


def _version() -> str:
    from sandglass.core import host

    return host.own_version()
