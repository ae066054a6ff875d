"""What the commands that train have in common: bad options and failures end in one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from p2p_lab.models import ModelError
from p2p_lab.training.checkpoint import ResumeError


@contextmanager
def refusing(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the command with status 2 if a setting is refused; for what comes before any work."""
    try:
        yield
    except (ValueError, OSError) as error:
        parser.error(str(error))


@contextmanager
def failing(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the command in a sentence if the work cannot begin (status 2) or go on (status 1)."""
    try:
        yield
    except (ResumeError, ModelError) as error:
        parser.error(str(error))
    except (FloatingPointError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
