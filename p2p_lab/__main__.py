"""The command line: `p2p_lab lab | lessons | edit | invert | web | showcase | doctor | cache`.

Each command is a file of `p2p_lab.commands` with two functions: `add(parsers)` says its options,
`run(given)` does it. What goes wrong for a reason that a user can mend is one sentence on stderr
and exit code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from p2p_lab import __version__

COMMANDS = ("lab", "lessons", "edit", "invert", "web", "showcase", "doctor", "cache")
PASSES_ON = ("lab",)  # what it does not know itself goes to JupyterLab


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every command."""
    return _build()[0]


def _build() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and each command's own by its name."""
    parser = argparse.ArgumentParser(
        prog="p2p_lab",
        description="Prompt-to-Prompt image editing with cross-attention control, in Jupyter.",
    )
    parser.add_argument("--version", action="version", version=f"p2p_lab {__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"p2p_lab.commands.{name}").add(parsers)
    return parser, parsers.choices


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return a command and its options, which may stand before, between and behind its words."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser, commands = _build()
    if not words or words[0] not in commands:
        return parser.parse_args(words)
    name = words[0]
    options, unknown = commands[name].parse_known_intermixed_args(words[1:])
    if unknown and name not in PASSES_ON:
        commands[name].error(f"unrecognized arguments: {' '.join(unknown)}")
    options.command, options.unknown = name, unknown
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 well, 1 found something wrong, 2 bad input."""
    options = parse(argv)
    with warnings.catch_warnings():
        _plain_warnings(options.command)
        return _run(options)


def _plain_warnings(command: str) -> None:
    """Print each warning once and in a line of its own, without the source line that gave it."""
    warnings.filterwarnings("once", category=UserWarning, append=True)
    warnings.showwarning = lambda message, *_: print(
        f"p2p_lab {command}: {message}", file=sys.stderr
    )


def _run(options: argparse.Namespace) -> int:
    try:
        code: int = import_module(f"p2p_lab.commands.{options.command}").run(options)
    except KeyboardInterrupt:
        print("p2p_lab: stopped; nothing was written.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"p2p_lab {options.command}: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
