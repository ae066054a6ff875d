"""A reader of pictures: which objects, which attributes, where, when, in what weather and style.

The judge is a small network trained on scenes that the generator never saw. It scores edits
("a dog, no cat, everything else as before"), finds masks, and suggests a prompt for a picture;
no generator is ever trained on what it says. The room is a leaf beside `scenes`.
"""

from p2p_lab.judge.labels import Labels
from p2p_lab.judge.reading import Judge, JudgeError, captioner_of, load_judge
from p2p_lab.judge.verdict import Finding, Verdict, Wanted

__all__ = [
    "Finding",
    "Judge",
    "JudgeError",
    "Labels",
    "Verdict",
    "Wanted",
    "captioner_of",
    "load_judge",
]
