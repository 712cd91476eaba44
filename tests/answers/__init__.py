"""Answers to the exercises, one file per notebook, named like its checks.

RIGHT is {exercise: [answers]}, right ones in other styles. WRONG is {exercise: {words: answer}}, words that the check
says, only for what the generated mistakes do not reach: clues, probes, errors. A wrong answer may be written as the
edits of the right one, {old: new}. For an exercise that takes two answers, `Several` holds them.
"""


class Several(tuple):
    """The answers to an exercise that takes more than one."""
