"""Convert the rows of each public set to questions, with one function per layout: a row as stored
in the set -> a question, or a multiple choice.

A row that does not fit raises DoesNotFit with the reason, or KeyError or TypeError if a field is
missing or of the wrong type; the reader adds the place.
"""

import ast
import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from memlm.data.config import FieldsConfig
from memlm.data.questions.final_numbers import final_number, flaw_of
from memlm.data.questions.records import MultipleChoice, Question, Record, id_of
from memlm.data.questions.sources import Row

RELATION_IN_NAME = re.compile(r"(?:^|/)(P\d+)\.[^/]*$")
"""The official EntityQuestions files hold one relation each: P106.dev.json."""
UNLABELLED = "<unk>"
"""Placeholder for the answer in TriviaQA's test split."""
BRACKETS = re.compile(r"\[.*?\]")
MAX_WHOLE_FLOAT = 2**53
"""Limit beyond which a float does not represent every integer."""


class DoesNotFit(ValueError):
    """The row is not a question of this layout."""


def _triviaqa(row: Row, fields: FieldsConfig) -> Record:
    answer = row.values["answer"]
    value = answer["value"]
    if value == UNLABELLED:
        raise DoesNotFit(f"a question without answers ({value}), as in the test split. Use the validation split.")
    aliases = [] if answer["aliases"] is None else _texts(answer["aliases"], "answer.aliases")
    answers = [value, *aliases]
    return _question(row, "triviaqa", answers, id=row.values.get("question_id"))


def _nq_open(row: Row, fields: FieldsConfig) -> Record:
    return _question(row, "nq_open", _texts(row.values["answer"], "answer"))


def _entityquestions(row: Row, fields: FieldsConfig) -> Record:
    named = RELATION_IN_NAME.search(row.source)
    relation = row.values.get("relation", named[1] if named else "")
    return _question(row, "entityquestions", _texts(row.values["answers"], "answers"), relation=relation)


def _gsm8k(row: Row, fields: FieldsConfig) -> Record:
    # The worked solution ends in "#### 1,234"; the set's own scorer compares the number without
    # its commas.
    solution = row.values["answer"]
    if not isinstance(solution, str):
        raise DoesNotFit(f"the answer is {_shown(solution)}, not a worked solution. Repair or remove this line.")
    if flaw := flaw_of(solution):
        raise DoesNotFit(
            f"{flaw}, so that no answer can be right. Write the bare number after the mark and one space, such as '#### 18'."
        )
    return _question(row, "gsm8k", [final_number(solution)], solution=solution)


def _simpleqa(row: Row, fields: FieldsConfig) -> Record:
    """The CSV file of the set's authors (metadata, problem, answer), or rows with separate fields
    (question, answer, answer_type)."""
    values = row.values
    if "problem" not in values:
        return _question(row, "simpleqa", [values["answer"]], relation=values.get("answer_type", ""))
    try:
        kind = ast.literal_eval(values["metadata"])["answer_type"]  # a Python dict as text
    except (ValueError, SyntaxError) as error:
        raise DoesNotFit("metadata is not a Python dict as text. Repair or remove this line.") from error
    return _question(row, "simpleqa", [values["answer"]], question=values["problem"], relation=kind)


def _hellaswag(row: Row, fields: FieldsConfig) -> Record:
    """Original rows are cleaned as in lm-evaluation-harness's task; rows with a `query` are clean
    already."""
    values = row.values
    if "query" in values:
        return _choices(row, "hellaswag", values["query"], values["choices"], values["gold"], id=values["ind"])
    # The second half of a context begins a sentence. `capitalize` also converts the rest to lower
    # case, as the original task does.
    query = f"{values['activity_label']}: {values['ctx_a']} {values['ctx_b'].capitalize()}"
    endings = [clean_hellaswag(ending) for ending in _texts(values["endings"], "endings")]
    return _choices(row, "hellaswag", clean_hellaswag(query), endings, values["label"], id=values["ind"])


def _fields(row: Row, fields: FieldsConfig) -> Record:
    """Rows of any other form, converted by the config's field mapping."""
    question, id = _at(row, fields.question), _at(row, fields.id) if fields.id else None
    if fields.choices:
        return _choices(row, "fields", question, _at(row, fields.choices), _at(row, fields.gold), id=id)
    answers = [answer for path in fields.answers for answer in _answers_at(row, path, fields.answer_separator)]
    optional = {
        name: _at(row, path) for name, path in (("relation", fields.relation), ("solution", fields.solution)) if path
    }
    return _question(row, "fields", answers, question=question, id=id, **optional)


def clean_hellaswag(text: str) -> str:
    """The text without WikiHow's marks: a title ends the sentence before it, other marks in
    brackets are removed, and double spaces are replaced once."""
    marked = text.strip().replace(" [title]", ". ")
    # Only up to the last closing bracket of a line: after it, the regular expression would search
    # in vain to the end of the line from every opening bracket.
    lines = (line.rpartition("]") for line in marked.split("\n"))
    return "\n".join(BRACKETS.sub("", head + closing) + tail for head, closing, tail in lines).replace("  ", " ")


def _question(
    row: Row,
    layout: str,
    answers: list[Any],
    *,
    id: Any = None,
    question: Any = None,
    relation: Any = None,
    solution: Any = "",
) -> Question:
    question = row.values["question"] if question is None else question
    relation = row.values.get("relation") if relation is None else relation
    if not isinstance(question, str) or not question.strip():
        raise DoesNotFit(f"the question is {question!r}, not a text. Repair or remove this line.")
    given = ["" if answer is None else answer for answer in answers]
    if not all(isinstance(answer, str) for answer in given):
        raise DoesNotFit(f"the answers are not a list of texts: {_shown(answers)}. Repair or remove this line.")
    if not any(answer.strip() for answer in given):
        raise DoesNotFit(f"a question without answers: {_shown(answers)}. Repair or remove this line.")
    if not isinstance(solution, str):
        raise DoesNotFit(f"the solution is {solution!r}, not a text. Repair or remove this line.")
    return Question(
        id=_id(row, layout, id),
        question=question,
        answers=tuple(dict.fromkeys(given)),
        relation="" if relation is None else str(relation),
        solution=solution,
    )


def _choices(row: Row, layout: str, query: Any, choices: Any, gold: Any, *, id: Any) -> MultipleChoice:
    if not isinstance(query, str) or not query.strip():
        raise DoesNotFit(f"the query is {query!r}, not a text. Repair or remove this line.")
    choices = _texts(choices, "choices")
    if len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise DoesNotFit(f"choices is {choices!r}, not a list of at least two texts. Repair or remove this line.")
    if gold == "":
        raise DoesNotFit("no right choice is given, as in the test split. Use the validation split.")
    gold = int(gold) if isinstance(gold, float) and gold.is_integer() else gold
    if isinstance(gold, bool) or not str(gold).isdecimal() or int(gold) >= len(choices):
        raise DoesNotFit(
            f"the right choice is {gold!r}, not an index of one of {len(choices)} choices, from 0. Repair or remove this line."
        )
    return MultipleChoice(id=_id(row, layout, id), query=query, choices=tuple(choices), gold=int(gold))


def _id(row: Row, layout: str, id: Any) -> str:
    """The set's own id, or else layout and line. In a table, a missing id is an empty cell or
    NaN."""
    own = row.values.get("id") if id is None else id
    return f"{layout}:{row.line}" if own is None or own == "" or own != own else id_of(own)


def _texts(values: Any, field: str) -> list[Any]:
    if isinstance(values, str):
        raise DoesNotFit(
            f"{field} is one text, {values[:60]!r}, not a list. Repair this line, or use the layout 'fields' with an answer_separator."
        )
    if isinstance(values, dict):  # otherwise its keys would become answers
        raise DoesNotFit(f"{field} is a mapping, {_shown(values)}, not a list of texts. Name the file's own layout.")
    if not isinstance(values, list | tuple):
        raise DoesNotFit(f"{field} is {_shown(values)}, not a list of texts. Repair or remove this line.")
    return list(values)


def _at(row: Row, path: str) -> Any:
    """The value at a dotted path. A field whose own name contains dots takes precedence."""
    value: Any = row.values
    if path in value:
        return value[path]
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            known = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else f"a {type(value).__name__}"
            raise DoesNotFit(f"no field {path!r} (there: {known}). Name the record's own fields in `fields`.")
        value = value[name]
    return value


def _answers_at(row: Row, path: str, separator: str) -> list[Any]:
    value = _at(row, path)
    if isinstance(value, dict):
        raise DoesNotFit(f"{path} is a mapping, {_shown(value)}. Name the field in it, such as {path}.value.")
    if isinstance(value, list | tuple):
        return [answer_text(each, path) for each in value]
    if not isinstance(value, str):
        return [answer_text(value, path)]
    if separator == "json":
        try:
            return [answer_text(each, path) for each in _texts(json.loads(value), path)]
        except (json.JSONDecodeError, RecursionError) as error:
            raise DoesNotFit(
                f"{path} is {value[:60]!r}, not a JSON list as text. Repair or remove this line."
            ) from error
    if separator:
        return [part.strip() for part in value.split(separator)]
    if value.startswith("[") and value.endswith("]"):
        raise DoesNotFit(
            f"{path} is a list written as one text, {value[:60]!r}. Set fields.answer_separator to 'json', or to the separator between answers."
        )
    return [value]


def answer_text(value: Any, path: str) -> str | None:
    """One answer as the text that a model would write; None for null."""
    if isinstance(value, bool):
        raise DoesNotFit(
            f"{path} is {_shown(value)}, a truth value and not a text. Write the word that counts as right, such as yes or no."
        )
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise DoesNotFit(f"{path} is {value}, which is not an answer. Repair or remove this line.")
    if isinstance(value, float | Decimal) and -MAX_WHOLE_FLOAT < value == int(value) < MAX_WHOLE_FLOAT:
        return str(int(value))  # a column with missing values stores 1990 as 1990.0
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime) and value.time() == time():
        return str(value.date())  # a table may store a day as its midnight
    if isinstance(value, int | float | date):
        return str(value)
    if value is None or isinstance(value, str):
        return value
    raise DoesNotFit(f"{path} holds {_shown(value)}, not a text. Repair or remove this line.")


def _shown(value: Any) -> str:
    """A value as JSON, shortened."""
    return json.dumps(value, ensure_ascii=False, default=repr)[:60]


LAYOUTS: dict[str, Callable[[Row, FieldsConfig], Record]] = {
    "triviaqa": _triviaqa,
    "nq_open": _nq_open,
    "entityquestions": _entityquestions,
    "gsm8k": _gsm8k,
    "hellaswag": _hellaswag,
    "simpleqa": _simpleqa,
    "fields": _fields,
}
