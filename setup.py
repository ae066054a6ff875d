"""Put the lessons into the wheel; all else is said in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class WithLessons(build_py):
    """Copy `notebooks/` to `p2p_lab/lessons/` of what is built; a checkout has them beside it."""

    def run(self) -> None:
        """Build as always, then add the lessons."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "p2p_lab" / "lessons"
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            shutil.copyfile(path, target / path.name)


setup(cmdclass={"build_py": WithLessons})
