"""The number that a worked solution ends in, by GSM8K's own definition, for its gold answers and
for what a model writes alike.

Source: https://github.com/openai/grade-school-math, grade_school_math/dataset.py.
"""

import re

MARK = "####"
FINAL_NUMBER = re.compile(r"#### (\-?[0-9\.\,]+)")


def final_number(solution: str) -> str:
    """The number that a solution ends in, without commas; empty if it has none, which is wrong."""
    found = FINAL_NUMBER.search(solution)
    return found[1].strip().replace(",", "") if found else ""


def flaw_of(solution: str) -> str:
    """Why no answer to this gold solution can be right by the number it ends in; empty if one
    can."""
    _, mark, after = solution.rpartition(MARK)
    number, written = final_number(solution), after.strip().replace(",", "")
    if not mark:
        return f"the solution has no {MARK}, which stands before the final number"
    if number != written or not _is_number(number) or number.endswith("."):
        return f"the solution ends in {mark + after.rstrip()[:40]!r}, of which the set's scorer reads {number or 'no number'!r}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
