"""Packages outside the core, and the extras that install them. `pip install memlm` brings the core:
model, slots, methods, evaluation and patches."""

from collections.abc import Iterator
from contextlib import contextmanager

EXTRA_OF = {
    **dict.fromkeys(("ray", "deepspeed", "mlflow", "boto3", "botocore", "datasets", "optuna"), "cluster"),
    "lm_eval": "lm-eval",
    "gguf": "gguf",
}
"""Extra for each package, by the name under which the package is imported."""


class MissingExtra(ValueError):
    """A feature needs an extra that is not installed."""


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Raise MissingExtra, with the command that installs the extra, if an import in the block
    fails. `what` names the feature for people."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_extra(error, what)
        if missing is None:
            raise
        raise missing from error


def missing_extra(error: ModuleNotFoundError, what: str) -> MissingExtra | None:
    """Error for a missing module of an extra; None for any other module, whose absence is a bug."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF:
        return None
    return MissingExtra(
        f"{what} needs {package}, which is not installed; install it with: pip install 'memlm[{EXTRA_OF[package]}]'"
    )
