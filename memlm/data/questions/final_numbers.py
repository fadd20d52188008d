"""The number at the end of a worked solution, by GSM8K's own definition, for gold solutions and for
a model's texts.

Source: https://github.com/openai/grade-school-math, grade_school_math/dataset.py.
"""

import re

MARK = "####"
FINAL_NUMBER = re.compile(r"#### (\-?[0-9\.\,]+)")


def final_number(solution: str) -> str:
    """The final number of a solution, without commas; empty if it has none, which counts as
    wrong."""
    found = FINAL_NUMBER.search(solution)
    return found[1].strip().replace(",", "") if found else ""


def flaw_of(solution: str) -> str:
    """The reason why no answer can match the final number of this gold solution; empty if one
    can."""
    _, mark, after = solution.rpartition(MARK)
    number, written = final_number(solution), after.strip().replace(",", "")
    if not mark:
        return f"the solution has no {MARK}, which must precede the final number"
    if number != written or not _is_number(number) or number.endswith("."):
        return f"the solution ends in {mark + after.rstrip()[:40]!r}, in which the set's scorer finds {number or 'no number'!r}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
