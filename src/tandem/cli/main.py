"""The `tandem` command. A command imports what it needs when it runs, so that the others start fast."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import tandem
from tandem.errors import InvalidSpecError, TandemError

INTERRUPTED = 130
# typer hides its copy of click; this is click's UsageError.
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]


class Commands(TyperGroup):
    """Turns errors into one line each and the exit status of the contract."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except InvalidSpecError as error:
            _show(ctx, error, [str(fault) for fault in error.errors])
            raise typer.Exit(error.exit_status) from None
        except TandemError as error:
            _show(ctx, error, [str(error)])
            raise typer.Exit(error.exit_status) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except USAGE_ERROR as error:
            said = error.format_message() if hasattr(error, "format_message") else str(error)
            inner = getattr(error, "ctx", None)
            command = inner.command_path if inner else "tandem"
            print(f"error: {said.rstrip('.')} (see `{command} --help`)", file=sys.stderr)
            raise typer.Exit(2) from None
        except BrokenPipeError:
            # `tandem logs … | head`: whoever read has seen enough. Python would complain while it shuts down.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None


def _show(ctx: Any, error: TandemError, lines: list[str]) -> None:
    if ctx.params.get("debug"):
        import traceback

        traceback.print_exception(error)
    for line in lines:
        print(f"error: {' '.join(line.split())}", file=sys.stderr)


app = typer.Typer(
    cls=Commands,
    name="tandem",
    help="Fine-tuning and retrieval in tandem, on one Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Rich's help takes a third of the 0.3 s that help may take.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(tandem.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tuning and retrieval in tandem, on one Ray cluster."""


def _register() -> None:
    from tandem.cli import (
        cluster_commands,
        compare_commands,
        index_commands,
        job_commands,
        job_views,
        key_commands,
        model_commands,
        report_commands,
        serve_commands,
        spec_commands,
    )

    modules = (cluster_commands, spec_commands, job_commands, job_views, index_commands, serve_commands)
    for module in (*modules, model_commands, compare_commands, report_commands, key_commands):
        module.register(app)


_register()


def main() -> None:
    """The entry point of the `tandem` script."""
    app()


if __name__ == "__main__":
    main()
