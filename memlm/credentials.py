"""Keys, tokens and passwords: read from the environment, and kept out of output, errors and
files."""

import os
import re
import unicodedata
from urllib.parse import SplitResult, quote, quote_plus, urlsplit

AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
MLFLOW = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
OLD_NAMES = ("AWS_SECURITY_TOKEN", "HUGGING_FACE_HUB_TOKEN")
VARIABLES = (*AWS, *MLFLOW, *HUB, "RAY_AUTH_TOKEN", "OPENAI_API_KEY")
"""Environment variables with credentials that memlm or a library reads."""

HIDDEN = "***"
"""Replaces a value from the environment."""
CUT = "..."
"""Replaces a part of an address."""
_PATHS = ("sqlite", "file")
"""Schemes that usually name no server: their paths may contain '@' and a question mark."""
_NAMED_WITH_AT = ("hf", "s3")
"""Schemes whose paths may contain an '@': a commit on the hub, an object's key."""
_ADDRESS = re.compile(r'(?<![\w/.~-])(?:[A-Za-z][A-Za-z0-9+.-]*:)?//(?:[^\s/:@]{1,100}:[^\s/@]{1,200}@)?[^\s"<>`]+')
_WITHOUT_SCHEME = re.compile(r'(?<![\w@/:.+~-])[\w.+~-]{1,200}:(?!//)[^\s"<>`]{1,2000}@[^\s"<>`]+')
_QUERY = re.compile(r"\?[\w.~%-]+=[^\s\"'<>)]*")
"""Query of an address without its server, as in an HTTP client's errors."""
_NAMED = re.compile(
    r"(?<![\w/-])(password|passwd|pwd|secret|token|api_?key|access_?key|access_token|secret_?key)=[^\s\"'<>&;,)]+",
    re.IGNORECASE,
)
"""Secret with its name, as database drivers and clients write it, also outside a query: `host=h
password=p`, `https://host/x;token=t`."""
_PUNCTUATION = ".,;:!)]}'"
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")
_SHORTEST = 8
"""Shortest value that is hidden. Shorter ones are test values, and hiding them would garble
messages."""

_read: set[str] = set()
"""Variables with other names that were read as credentials, such as the one that
writer.endpoint.api_key_variable names."""


class CredentialError(ValueError):
    """An environment variable has a value that cannot be a key, token or password. The message
    names the variable, never its value."""


class PublicError(ValueError):
    """Error whose message is safe to print and log: secrets are removed, whatever a server or a
    library put into it."""

    def __init__(self, *texts: object) -> None:
        super().__init__(*(without_secrets(text) if isinstance(text, str) else text for text in texts))


def read_credential(variable: str) -> str:
    """Value without the surrounding white space that files and here-documents leave; "" if unset.

    Raises CredentialError for control characters and invisible characters: no server accepts them,
    and clients would print them in their errors.
    """
    _read.add(variable)
    value = os.environ.get(variable, "").strip()
    if any(unicodedata.category(character)[0] == "C" or character in "\u2028\u2029" for character in value):
        raise CredentialError(
            f"the environment variable {variable} contains a line break, a control character or an invisible character, which no key, token "
            "or password has; set it again, to the value alone"
        )
    return value


def read_key(variable: str) -> str:
    """Credential that is sent in a header, so it must also be ASCII."""
    value = read_credential(variable)
    if not value.isascii():
        raise CredentialError(
            f"the environment variable {variable} contains a character that is not ASCII, such as a typographic quote, which no key has; "
            "set it again, to the value alone"
        )
    return value


def strip_credentials(*variables: str) -> None:
    """Check credentials that a library reads from the environment by itself, and strip the white
    space around them there."""
    for variable in variables:
        if variable in os.environ and os.environ[variable] != (value := read_credential(variable)):
            os.environ[variable] = value


def redacted(address: str) -> str:
    """Address without user name, password and query, safe to print. Paths are returned unchanged.

    A password may itself contain '/', '@' or a question mark: if an address can be read in two
    ways, both possible passwords are hidden.
    """
    if "://" not in address and not address.startswith("//"):
        return _WITHOUT_SCHEME.sub(_without_user, address)
    try:
        parts = urlsplit(address)
    except ValueError:  # for example brackets that hold no IPv6 address
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
    """Whether the '@' of an address cannot end a password, because a whole host and no ':' stand
    before it."""
    if "@" in parts.netloc or ":" in parts.netloc:
        return False
    return parts.scheme in _NAMED_WITH_AT or "." in parts.netloc or parts.netloc == "localhost"


def has_password(address: str) -> bool:
    """Whether an address contains a user name, a password or a query that may contain one; such an
    address must never be stored or logged."""
    return redacted(address) != address


def without_secrets(text: str) -> str:
    """Text with every address redacted and every secret hidden: credentials of this process's
    environment, and anything that looks like an AWS key id or a hub token."""
    for value in _values():
        text = text.replace(value, HIDDEN)
    text = _ADDRESS.sub(_redacted_in_text, text)
    text = _QUERY.sub(f"?{CUT}", _WITHOUT_SCHEME.sub(_without_user, text))
    text = _NAMED.sub(rf"\1={CUT}", text)
    return _HUB_TOKEN.sub("(token)", _KEY_ID.sub("(key)", text))


def _redacted_in_text(found: re.Match[str]) -> str:
    """Redacted address, followed by the sentence's punctuation unchanged."""
    address = found[0].rstrip(_PUNCTUATION)
    return redacted(address) + found[0][len(address) :]


def _without_user(found: re.Match[str]) -> str:
    return f"{CUT}@{found[0].rpartition('@')[2]}"


def _values() -> list[str]:
    """All spellings of the environment's credentials in a text, longest first. User names are not
    secret."""
    variables = {*VARIABLES, *_read} - {"MLFLOW_TRACKING_USERNAME"}
    values = {os.environ.get(variable, "").strip() for variable in variables}
    spelled = {
        form
        for value in values
        for form in (value, value.encode("unicode_escape").decode(), quote(value, safe=""), quote_plus(value))
    }
    return sorted((value for value in spelled if len(value) >= _SHORTEST), key=len, reverse=True)
