"""Captioned pictures with exact masks: a small synthetic world.

A `Scene` is what is in a picture, in numbers. `render` draws it, `caption` says it,
`parse` reads a caption back, `sample_scene` makes one up. The room is a leaf: it knows
nothing of models, prompts or edits.
"""

from p2p_lab.scenes.art import CorruptAtlas
from p2p_lab.scenes.grammar import Caption, Phrase, caption, parse
from p2p_lab.scenes.render import Pictures, render
from p2p_lab.scenes.scene import Scene, Thing, held_out, sample_scene, scene_pairs
from p2p_lab.scenes.vocabulary import FULL, SMALL, WORLDS, World, nearest

__all__ = [
    "FULL",
    "SMALL",
    "WORLDS",
    "Caption",
    "CorruptAtlas",
    "Phrase",
    "Pictures",
    "Scene",
    "Thing",
    "World",
    "caption",
    "held_out",
    "nearest",
    "parse",
    "render",
    "sample_scene",
    "scene_pairs",
]
