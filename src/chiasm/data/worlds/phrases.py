"""How scenes' questions are worded: training's wordings, and others that only test questions use.

`train`, `val` and `unseen` draw from the first tuple of a `Phrases`, `test` from the second, so that a test question
is never worded as any question that was trained on. The words themselves overlap: what is held out is the phrase.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrases:
    """Wordings of one question: those that training sees, and those held out for the test split."""

    seen: tuple[str, ...]
    held_out: tuple[str, ...]

    def pick(self, rng: random.Random, split: str, **values: str) -> str:
        """One wording of a split, filled in."""
        return rng.choice(self.held_out if split == "test" else self.seen).format(**values)


DESCRIBE = Phrases(
    ("Describe the picture.", "Describe the image briefly.", "Write a short caption.", "What does the picture show?"),
    ("Describe what the picture shows.", "Write a short caption of the image."),
)
NAMING = Phrases(
    ("What is in the picture?", "What is this?", "What do you see?", "Name the object."),
    ("What object do you see in the picture?", "Name what is in the picture."),
)
NAMING_AT = Phrases(
    ("What is {where}?", "What is {where} of the picture?", "What do you see {where}?"),
    ("Which object is {where}?", "What object do you see {where} of the picture?"),
)
POSITION = Phrases(
    ("Where is the {name}?", "Where is the {name} in the picture?", "Where do you see the {name}?"),
    ("In which part of the picture is the {name}?", "Where in the picture do you see the {name}?"),
)
COUNTING = Phrases(
    ("How many {names} are there?", "How many {names} do you see?", "Count the {names}."),
    ("How many {names} are in the picture?", "How many {names} do you see here?"),
)
COLOUR = Phrases(
    ("What colour is the {name}?", "What color is the {name}?", "Which colour does the {name} have?"),
    ("What is the colour of the {name}?", "Which color is the {name}?"),
)
COLOURED = Phrases(
    ("What is {colour}?", "Which object is {colour}?", "Name the {colour} object."),
    ("Which thing is {colour}?", "What do you see that is {colour}?"),
)
SIZE = Phrases(
    ("Is the {name} big or small?", "Is the {name} small or big?", "What size is the {name}, big or small?"),
    ("Is this {name} big or small?", "Which size does the {name} have, small or big?"),
)
LARGER = Phrases(
    ("Which is {larger}, the {a} or the {b}?", "What is {larger}, the {a} or the {b}?"),
    ("Which one is {larger}: the {a} or the {b}?", "Which of the two is {larger}, the {a} or the {b}?"),
)
RELATION = Phrases(
    ("Is the {a} {relation} the {b}?", "Is the {a} {relation} the {b} in the picture?"),
    ("Do you see the {a} {relation} the {b}?", "Is there the {a} {relation} the {b}?"),
)
MORE = Phrases(
    ("Are there more {a} than {b}?", "Do you see more {a} than {b}?"),
    ("Are more {a} than {b} in the picture?", "Does the picture show more {a} than {b}?"),
)
YES_NO = Phrases(
    ("Is there {a_name}?", "Is there {a_name} in the picture?", "Do you see {a_name}?"),
    ("Does the picture show {a_name}?", "Do you see {a_name} here?"),
)
NO_NAME = Phrases(
    ("Is there no {name}?", "Is there no {name} in the picture?", "Do you see no {name}?"),
    ("Does the picture show no {name}?", "Is no {name} in the picture?"),
)
MISSING = Phrases(
    ("Which of these is not in the picture: {a}, {b} or {c}?", "What is not there: {a}, {b} or {c}?"),
    ("Which one is not there: {a}, {b} or {c}?", "Which of these do you not see: {a}, {b} or {c}?"),
)
NOT_COLOURED = Phrases(
    ("What is not {colour}?", "Which object is not {colour}?", "Name the object that is not {colour}."),
    ("Which thing is not {colour}?", "What do you see that is not {colour}?"),
)
LOCATE = Phrases(
    ("Locate the {phrase}.", "Give the box of the {phrase}.", "Where exactly is the {phrase}?"),
    ("Give the exact box of the {phrase}.", "Locate the {phrase} in the picture."),
)
POINT = Phrases(
    ("Point to the {phrase}.", "Point at the {phrase}.", "Show where the {phrase} is."),
    ("Point to the {phrase} in the picture.", "Show the {phrase}."),
)
POINT_ALL = Phrases(
    ("Point to all {names}.", "Point at every one of the {names}.", "Show where the {names} are."),
    ("Point to all {names} in the picture.", "Show all {names}."),
)
READ = Phrases(
    ("What does the sign say?", "Read the text.", "What is written in the picture?", "What word is written here?"),
    ("Read the sign in the picture.", "What does the text say?"),
)
READ_AT = Phrases(
    ("What is written {where}?", "Read the text {where}.", "What does the sign {where} say?"),
    ("Read what is written {where}.", "What does the text {where} say?"),
)
CHART_VALUE = Phrases(
    ("What is the value of {name}?", "What is the value for {name}?", "How much is {name}?"),
    ("Which value does {name} have?", "What value is shown for {name}?"),
)
CHART_EXTREME = Phrases(
    ("Which has the {most} value?", "What has the {most} value?", "Which one is the {most}?"),
    ("Which of them has the {most} value?", "What is the {most} one in the chart?"),
)
PAIR = Phrases(
    ('Is it true of the two pictures: "{statement}"?', 'True or false: "{statement}"'),
    ('Is this true or false: "{statement}"', 'Is the statement true of the two pictures: "{statement}"?'),
)
ODD = Phrases(
    ("Which picture is different from the others?", "Which picture does not belong?", "Find the odd one out."),
    ("Which of the pictures is different?", "Which picture is the odd one out?"),
)
ENTAIL = Phrases(
    ('Does the picture entail this: "{statement}"?', 'Entailment, neutral or contradiction: "{statement}"'),
    ('Is it entailment, neutral or contradiction: "{statement}"', 'What does the picture say of this: "{statement}"?'),
)
NAMED = Phrases(
    ("Is this a {a} or a {b}?", "What is this, a {a} or a {b}?"),
    ("Which is this, a {a} or a {b}?", "Is it a {a} or a {b}?"),
)
FIRST = Phrases(
    ("What appears {first}?", "Which object appears {first} in the video?", "What do you see {first}?"),
    ("Which object do you see {first}?", "What appears {first} in the video?"),
)
WHEN = Phrases(
    ("When is the {phrase} in the video?", "When do you see the {phrase}?", "Find the {phrase} in the video."),
    ("When in the video do you see the {phrase}?", "When is the {phrase} there?"),
)
BEFORE = Phrases(
    ("Does the {a} appear before the {b}?", "Do you see the {a} before the {b}?"),
    ("In the video, does the {a} appear before the {b}?", "Is the {a} there before the {b}?"),
)
APPEARING = Phrases(
    ("How many objects appear in the video?", "How many things do you see in the video?"),
    ("How many objects do you see in the video?", "Count the objects in the video."),
)
MOVING = Phrases(
    ("Which way does the {name} move?", "In which direction does the {name} move?"),
    ("Where does the {name} move to?", "Which direction does the {name} move in?"),
)

EVERY: dict[str, Phrases] = {name: value for name, value in list(globals().items()) if isinstance(value, Phrases)}
