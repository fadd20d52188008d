"""The page and the picture of one finetune."""

from html.parser import HTMLParser

from PIL import Image

from memlm.results.scores import SetScore, TrialResult
from memlm.results.trial_report import SHOWN_ANSWERS, draw_scores, write_trial_report


def a_result(**answers: list) -> TrialResult:
    def sets(learned: float, nats: float) -> dict[str, SetScore]:
        return {
            "new_facts": SetScore(task="new_facts@1", measure="exact_match", chance=0.0, items=(learned, 0.0)),
            "text": SetScore(task="text@1", measure="nats_per_token", chance=0.0, items=(nats,)),
        }

    return TrialResult(
        key="k",
        method="sparse_memory",
        hyperparameters={"optimizer.learning_rate": 2.0},
        seed=3,
        start=sets(0.0, 3.5),
        end=sets(1.0, 3.75),
        extra={},
        answers=answers,
    )


def answered(number: int, before: str, after: str) -> dict:
    return {"id": str(number), "question": f"Who is {number}?", "accepted": ["Ann"], "before": before, "after": after}


class Cells(HTMLParser):
    """The text of each cell, and the tags there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.inside = False
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")
        self.inside = tag == "td"

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


def test_the_page_shows_scores_and_answers_changed_ones_first(tmp_path):
    answers = [answered(number, "Bob", "Bob") for number in range(SHOWN_ANSWERS)] + [answered(777, "Bob", "Ann")]
    write_trial_report(a_result(new_facts=answers), tmp_path / "report.html", heading="smoke: sparse_memory lr2")
    page = Cells((tmp_path / "report.html").read_text())
    assert page.cells[:5] == ["new_facts", "new_facts@1", "exact_match", "0.000", "0.500"]
    first = page.cells.index("Who is 777?")
    assert page.cells[first : first + 4] == ["Who is 777?", "Ann", "Bob", "Ann"]
    assert first < page.cells.index("Who is 0?") and f"Who is {SHOWN_ANSWERS - 1}?" not in page.cells
    assert "1 more are in scores.json." in (tmp_path / "report.html").read_text()


def test_a_models_answers_are_escaped_on_the_page(tmp_path):
    write_trial_report(
        a_result(known=[answered(1, "<script>x</script>", "a\u202eb\x00")]), tmp_path / "r.html", heading="r"
    )
    text = (tmp_path / "r.html").read_text()
    page = Cells(text)
    assert "script" not in page.tags and "<script>x</script>" in page.cells
    assert "\u202e" not in text and "\x00" not in text and "a\\u202eb\\u0000" in page.cells


def test_the_picture_has_a_bar_for_each_set_before_and_after(tmp_path):
    draw_scores(a_result(), tmp_path / "scores.png")
    with Image.open(tmp_path / "scores.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0xB9, 0xC2, 0xCC), (0x1F, 0x5F, 0xD0)} <= colors
