"""Keys, tokens and passwords: how they are read from the environment, and how they are kept out
of what is printed, raised and stored."""

import os
import re
import unicodedata
from urllib.parse import SplitResult, quote, quote_plus, urlsplit

AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
MLFLOW = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
OLD_NAMES = ("AWS_SECURITY_TOKEN", "HUGGING_FACE_HUB_TOKEN")
VARIABLES = (*AWS, *MLFLOW, *HUB, "RAY_AUTH_TOKEN", "OPENAI_API_KEY")
"""The environment variables with credentials that memlm, or a library in its place, reads."""

HIDDEN = "***"
"""In place of a value of the environment."""
CUT = "..."
"""In place of a part of an address."""
_PATHS = ("sqlite", "file")
"""Schemes that most often name no server: then an '@' or a '?' belongs to the path."""
_NAMED_WITH_AT = ("hf", "s3")
"""Schemes whose paths may hold an '@': a commit on the hub, an object's key."""
_ADDRESS = re.compile(r'(?<![\w/.~-])(?:[A-Za-z][A-Za-z0-9+.-]*:)?//(?:[^\s/:@]{1,100}:[^\s/@]{1,200}@)?[^\s"<>`]+')
_WITHOUT_SCHEME = re.compile(r'(?<![\w@/:.+~-])[\w.+~-]{1,200}:(?!//)[^\s"<>`]{1,2000}@[^\s"<>`]+')
_QUERY = re.compile(r"\?[\w.~%-]+=[^\s\"'<>)]*")
"""The query of an address without its server, as an HTTP client's errors name it."""
_NAMED = re.compile(
    r"(?<![\w/-])(password|passwd|pwd|secret|token|api_?key|access_?key|access_token|secret_?key)=[^\s\"'<>&;,)]+",
    re.IGNORECASE,
)
"""As a database's driver or a client names it, outside of a query too: `host=h password=p`,
`https://host/x;token=t`."""
_PUNCTUATION = ".,;:!)]}'"
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")
_SHORTEST = 8
"""A value shorter than this is a word of a test, and hiding it would garble messages."""

_read: set[str] = set()
"""Variables of other names that were read as credentials, as writer.endpoint.api_key_variable
names them."""


class CredentialError(ValueError):
    """A variable of the environment holds what no key, token or password can be. Names the
    variable, never its value."""


class PublicError(ValueError):
    """An error that people read and logs keep: its texts are without secrets, whatever a server
    or a library put into them."""

    def __init__(self, *texts: object) -> None:
        super().__init__(*(without_secrets(text) if isinstance(text, str) else text for text in texts))


def read_credential(variable: str) -> str:
    """The value without white space around it, which files and here-documents leave; "" if it is
    not set.

    Raises CredentialError for control characters and invisible ones: no server accepts them, and
    clients would print them in their errors.
    """
    _read.add(variable)
    value = os.environ.get(variable, "").strip()
    if any(unicodedata.category(character)[0] == "C" or character in "\u2028\u2029" for character in value):
        raise CredentialError(
            f"the environment variable {variable} holds a line break, a control character or an invisible one, which no key, token or "
            "password has; set it again, to the value alone"
        )
    return value


def read_key(variable: str) -> str:
    """A credential that is sent in a header: it must be ASCII too."""
    value = read_credential(variable)
    if not value.isascii():
        raise CredentialError(
            f"the environment variable {variable} holds a character that is not ASCII, such as a typographic quote, which no key has; "
            "set it again, to the value alone"
        )
    return value


def tidy(*variables: str) -> None:
    """Check credentials that a library reads from the environment by itself, and leave them
    there without white space around them."""
    for variable in variables:
        if variable in os.environ and os.environ[variable] != (value := read_credential(variable)):
            os.environ[variable] = value


def redacted(address: str) -> str:
    """An address as it may be printed: without user name and password, and without its query.
    Paths come back as they are.

    A password may itself hold '/', '?' or '@': where it may be read in two ways, what either
    would hide is hidden.
    """
    if "://" not in address and not address.startswith("//"):
        return _WITHOUT_SCHEME.sub(_without_user, address)
    try:
        parts = urlsplit(address)
    except ValueError:  # such as brackets that are no IPv6 address
        return f"{address.partition('//')[0]}//{CUT}"
    if parts.scheme in _PATHS and not parts.netloc:
        return address
    start, _, rest = address.partition("//")
    place, mark, extra = re.fullmatch(r"([^?#]*)([?#]?)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    if "@" in extra:
        return f"{start}//{CUT}"
    if "@" in place and not _is_in_path(parts):
        place = f"{CUT}@{place.rpartition('@')[2]}"
    if parts.scheme not in _NAMED_WITH_AT:
        place = _NAMED.sub(rf"\1={CUT}", place)
    if "=" in extra or (mark == "?" and parts.scheme not in _NAMED_WITH_AT):
        extra = CUT
    return f"{start}//{place}{mark}{extra}"


def _is_in_path(parts: SplitResult) -> bool:
    """Whether the '@' of an address cannot end a password: there is a whole host before it, and
    no ':'."""
    if "@" in parts.netloc or ":" in parts.netloc:
        return False
    return parts.scheme in _NAMED_WITH_AT or "." in parts.netloc or parts.netloc == "localhost"


def has_password(address: str) -> bool:
    """Whether an address holds a user name or password, or a query that may, so that it must be
    stored and logged nowhere."""
    return redacted(address) != address


def without_secrets(text: str) -> str:
    """A text for people, in which every address is redacted, and keys and tokens are hidden:
    those that this process has read or may read from its environment, and whatever looks like an
    id of AWS or a token of the hub."""
    for value in _values():
        text = text.replace(value, HIDDEN)
    text = _ADDRESS.sub(_redacted_in_text, text)
    text = _QUERY.sub(f"?{CUT}", _WITHOUT_SCHEME.sub(_without_user, text))
    text = _NAMED.sub(rf"\1={CUT}", text)
    return _HUB_TOKEN.sub("(token)", _KEY_ID.sub("(key)", text))


def _redacted_in_text(found: re.Match[str]) -> str:
    """The address, and the punctuation of the sentence that follows it."""
    address = found[0].rstrip(_PUNCTUATION)
    return redacted(address) + found[0][len(address) :]


def _without_user(found: re.Match[str]) -> str:
    return f"{CUT}@{found[0].rpartition('@')[2]}"


def _values() -> list[str]:
    """What the environment's credentials may look like in a text, the longest first. User names
    are no secret."""
    variables = {*VARIABLES, *_read} - {"MLFLOW_TRACKING_USERNAME"}
    values = {os.environ.get(variable, "").strip() for variable in variables}
    spelled = {
        form
        for value in values
        for form in (value, value.encode("unicode_escape").decode(), quote(value, safe=""), quote_plus(value))
    }
    return sorted((value for value in spelled if len(value) >= _SHORTEST), key=len, reverse=True)
