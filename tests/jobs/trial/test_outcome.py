"""What a finetune says about what was learned and lost."""

from memlm.jobs.trial.outcome import MAX_NAMED, MAX_SHOWN, outcome_lines
from memlm.results.scores import SetScore, TrialResult


def asked(number: int, before: str = "?", after: str = "Ann") -> dict:
    return {
        "id": f"{number}",
        "question": f"Who is {number}?",
        "accepted": ["Ann", "A."],
        "before": before,
        "after": after,
    }


def result_of(answers: list[dict], **extra: float) -> TrialResult:
    def sets(known: tuple[float, ...], nats: float) -> dict[str, SetScore]:
        return {
            "new_facts": SetScore(task="n@1", measure="exact_match", chance=0.0, items=(0.0,)),
            "known_facts": SetScore(task="k@1", measure="exact_match", chance=0.0, items=known),
            "text": SetScore(task="t@1", measure="nats_per_token", chance=0.0, items=(nats,)),
        }

    return TrialResult(
        key="k", method="m", hyperparameters={}, seed=0, extra=extra, answers={"new_facts": answers},
        start=sets((1.0, 1.0, 1.0, 1.0, 0.0), 3.0), end=sets((1.0, 1.0, 0.0, 1.0, 1.0), 3.03),
    )  # fmt: skip


def test_each_question_is_shown_with_its_answer():
    lines = list(outcome_lines(result_of([asked(1), asked(2, after="Bob"), asked(3, before="ann", after="")])))
    assert lines[1:4] == ["  yes Who is 1? Ann", "  no  Who is 2? Bob (not Ann)", "  no  Who is 3? (nothing) (not Ann)"]
    assert lines[4] == "learned: 1 of 3 are answered right, and 1 were before"
    assert lines[5] == "not learned: Who is 2?; Who is 3?"


def test_what_is_lost_counts_what_was_right_before():
    lines = list(outcome_lines(result_of([asked(1)], seconds=90.4, seconds_learning=60.0)))
    assert "lost of known_facts: 1 of 4 that were answered right before (25.0%)" in lines
    assert "lost of text: 3.000 -> 3.030 nats per token (+1.0%)" in lines
    assert lines[-1] == "time: 90 s, 60 s of it learning and the rest asking before and after"
    assert not any("not learned" in line for line in lines)


def test_of_many_facts_only_those_that_are_missing_are_named():
    number = MAX_SHOWN + 1
    lines = list(outcome_lines(result_of([asked(each, after="Bob") for each in range(number)])))
    assert lines[0] == f"learned: 0 of {number} are answered right, and 0 were before"
    assert lines[1].count("Who is") == MAX_NAMED and lines[1].endswith(f"; and {number - MAX_NAMED} more")
