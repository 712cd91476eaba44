"""Answers to the exercises, right and wrong, one file for each notebook: what tests/test_checks.py tries.

`RIGHT` maps an exercise to answers that must pass, each in another style than the solution in the notebook; `WRONG`
maps it to pairs of an answer and words of the diagnosis that it must get (alternatives between bars). An exercise that
takes several arguments has its answers as a tuple in `Several`.
"""


class Several(tuple):
    """The arguments of a check that takes more than one."""
