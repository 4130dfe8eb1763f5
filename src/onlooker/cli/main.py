"""The `onlooker` command: which commands there are, and how a failure ends.

A command's module is imported when the command is used, so that `onlooker --help` and the hooks of an agent never wait
for a database driver or a web server.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import NoReturn

import click

from onlooker import __version__
from onlooker.domain.errors import InvalidInput, Misconfigured, OnlookerError

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130

EXIT_CODES: Mapping[type[OnlookerError], int] = {Misconfigured: WRONG_USE, InvalidInput: WRONG_USE}
"""Every other error of ours is 1: the command was right, and what it needs is not."""

COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("process:serve", "Run the server in the foreground."),
    "server": ("process:server", "Run the server in the background."),
    "worker": ("process:worker", "Run a worker apart from the server."),
    "install": ("install:install", "Let an agent tell Onlooker of its work, and ask it."),
    "exclude": ("install:exclude", "Tell Onlooker nothing of what happens in a folder and all below it."),
    "keys": ("accounts:keys", "Create, list and revoke API keys."),
    "projects": ("accounts:projects", "Create and list projects."),
    "search": ("search:search", "Find observations."),
    "context": ("context:context", "Show what a new session in a project is told."),
    "feedback": ("feedback:feedback", "Say what a note is worth, or list the notes that are hidden."),
    "forget": ("forget:forget", "Remove notes and the events that they were made from, for good."),
    "mcp": ("mcp:mcp", "Serve the Model Context Protocol over standard input and output."),
    "jobs": ("jobs:jobs", "List, show, retry, cancel and resume generation jobs."),
    "usage": ("usage:usage", "Show tokens, calls and cost by day, project and model, and how far each cap is used."),
    "reindex": ("reindex:reindex", "Make the search data of stored observations anew."),
    "modes": ("modes:modes", "List and check modes: what is watched and noted."),
    "import": ("transcripts:import_group", "Bring in what agents wrote down before."),
    "export": ("archive:export", "Write everything that projects have as JSON lines."),
    "watch": ("watch:watch", "Follow transcripts of Claude Code and Codex while they are written."),
    "doctor": ("doctor:doctor", "Say what is set, what is reachable and what to do."),
    "demo": ("demo:demo", "Watch a recorded coding session turn into observations."),
}
"""Name → where the command is, and its line in `onlooker --help`."""


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(f"onlooker.cli.{module}"), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above names commands only
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    epilog="Example: onlooker serve",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show where a failure was raised.")
def cli(*, debug: bool) -> None:
    """Onlooker watches coding agents work and remembers what they saw."""


def main() -> NoReturn:
    """Run the command line. A failure is one line on stderr; exit code 2 for usage and settings, 1 for the rest."""
    arguments = sys.argv[1:]
    try:
        code = cli.main(arguments, prog_name="onlooker", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough of it. What is still buffered must not fail again at exit.
        sys.stdout = None
        sys.exit(FAILED)
    except Exception as error:
        if arguments[:1] == ["--debug"]:
            raise
        click.echo(f"onlooker: {_line(error)}", err=True)
        sys.exit(_exit_code(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _leaf(error: BaseException) -> BaseException:
    """The first error of a group that is one of ours, else its first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_leaf(each) for each in error.exceptions]
    return next((each for each in leaves if isinstance(each, OnlookerError)), leaves[0])


def _line(error: BaseException) -> str:
    """What went wrong and what to do, on one line."""
    error = _leaf(error)
    if isinstance(error, click.UsageError):
        asked = error.ctx.command_path if error.ctx else "onlooker"
        text = f"{error.format_message()} See {asked} --help"
    elif isinstance(error, click.Abort):
        text = "stopped"
    elif isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, InvalidInput):
        text = "; ".join([str(error), *error.issues])
    elif isinstance(error, OnlookerError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        text = f"a defect of Onlooker ({type(error).__name__}); `onlooker --debug …` shows where"
    return " ".join(text.split())


def _exit_code(error: BaseException) -> int:
    error = _leaf(error)
    if isinstance(error, click.Abort):
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        return error.exit_code
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), FAILED)


if __name__ == "__main__":
    main()
