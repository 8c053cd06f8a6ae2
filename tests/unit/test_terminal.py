"""Output on a terminal, and what pipes, JSON and shells get in its place."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from artifacts import write_null

from sandglass.cli.main import main
from sandglass.cli.options import Output
from sandglass.cli.output import INTERVAL, Progress, show

LONG = "a-name-that-is-much-longer-than-any-column-of-a-narrow-terminal-could-be"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOW = f"""
from sandglass.cli.options import Output
from sandglass.cli.output import show
rows = [{{"model": {LONG!r}, "backend": "null", "ms": "1.25"}}, {{"model": "b", "why": "[bold]no[/bold]"}}]
show(Output(), rows, "end")
"""
COUNT = """
from sandglass.cli.output import Progress, close_progress, say
progress = Progress("evaluate out/artifact", "samples")
for done in range(4):
    progress(done, 4)
    if done == 2:
        say("a line above the bar")
close_progress()
"""


def on_terminal(columns: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code of a Python process on a terminal of so many columns, and everything that it showed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    surroundings = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    surroundings |= {"TERM": "xterm", **environment}
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=slave, stdout=slave, stderr=slave, env=surroundings
    ) as run:
        os.close(slave)
        shown = b""
        while part := _read(master):
            shown += part
    os.close(master)
    return run.returncode, shown.decode()


def _read(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.parametrize("columns", [30, 60, 120])
def test_table_fits_and_loses_nothing(columns: int) -> None:
    """Long names are folded, a narrow terminal gets a list of fields, and what looks like markup is text."""
    code, shown = on_terminal(columns, "-c", SHOW)
    lines = ESCAPE.sub("", shown).splitlines()
    assert code == 0
    assert max(map(len, lines)) <= columns
    joined = re.sub(r"\s", "", "".join(lines))
    assert "1.25" in joined
    assert "[bold]no[/bold]" in joined
    assert set(LONG) - {"-"} <= set(joined)
    assert LONG in joined or columns == 60


def test_markdown_where_it_is_piped(capsys: pytest.CaptureFixture[str]) -> None:
    """Tables and paragraphs, with an empty line between them."""
    show(Output(), [{"a": "x", "ms": "1"}], "end")
    assert capsys.readouterr().out == "| a   |  ms |\n| --- | --: |\n| x   |   1 |\n\nend\n"


def test_error_is_a_panel_with_the_fix() -> None:
    """A border around it; a path that is longer than a line is not broken by the border."""
    code, shown = on_terminal(80, "-m", "sandglass", "evaluate", "nothing", "--dataset", "synthetic-people")
    text = ESCAPE.sub("", shown)
    assert code == 2
    assert "╭─ sandglass ─" in text
    assert "nothing does not exist" in text
    assert "check the path" in text
    folder = "/" + "folder" * 20
    code, shown = on_terminal(80, "-m", "sandglass", "evaluate", folder, "--dataset", "synthetic-people", NO_COLOR="1")
    assert code == 2
    assert f"there is no {folder}\r\n" in ESCAPE.sub("", shown)


def test_no_color_is_respected() -> None:
    """Colors where nothing forbids them, and none with NO_COLOR."""
    command = ("-m", "sandglass", "nothing")
    assert "\x1b[31m" in on_terminal(80, *command)[1]
    assert "\x1b[31m" not in on_terminal(80, *command, NO_COLOR="1")[1]


def test_bar_on_a_terminal() -> None:
    """It counts, lines are printed above it, and the cursor is shown again at the end."""
    code, shown = on_terminal(80, "-c", COUNT)
    assert code == 0
    assert "evaluate out/artifact" in shown
    assert "3 of 4 samples" in shown
    assert "a line above the bar" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A line now and then, with the time left by the pace of this run."""
    now = 0.0
    progress = Progress("evaluate", "samples", clock=lambda: now)
    for done in (100, 110, 120, 130):
        progress(done, 200)
        now += INTERVAL / 2
    assert capsys.readouterr().err.splitlines() == ["evaluate: 120 of 200 samples (about 40 s left)"]


def test_json_on_standard_output_is_all_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json -` prints JSON in place of tables; another option is not taken as the file."""
    folder = str(write_null(tmp_path / "artifact"))
    for command in (["models"], ["doctor"], ["inspect", folder], ["benchmark", folder, "--seconds", "0.1"]):
        assert main([*command, "--json", "-"]) == 0
        assert json.loads(capsys.readouterr().out)
    assert main(["models", "--json", "--ema"]) == 2
    assert "'--ema' looks like an option" in capsys.readouterr().err


@pytest.mark.parametrize(("shell", "file"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_completion_is_installed(shell: str, file: str, tmp_path: Path) -> None:
    """The shell's own file names the completion, which knows commands, options and their values."""
    environment = {**os.environ, "HOME": str(tmp_path), "SHELL": f"/bin/{shell}"}
    command = [sys.executable, "-m", "sandglass", "--install-completion", "--shell", shell]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert (tmp_path / file).is_file()
    scripts = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert all(word in scripts for word in ("--min-int8-share", "all-of", "synthetic-people"))
