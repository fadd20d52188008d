"""What `pip install memlm` leaves out, and the extra that brings it. The core is model, slots,
methods, evaluation and patches."""

from collections.abc import Iterator
from contextlib import contextmanager

EXTRA_OF = {
    **dict.fromkeys(("ray", "deepspeed", "mlflow", "boto3", "botocore", "datasets", "optuna"), "cluster"),
    "lm_eval": "lm-eval",
}
"""By the name that is imported."""


class MissingExtra(ValueError):
    """Something was asked for that an extra brings, and the extra is not installed."""


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Around imports of what an extra brings. `what` names, for people, what asks for it. Raises
    MissingExtra with the command that installs the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_extra(error, what)
        if missing is None:
            raise
        raise missing from error


def missing_extra(error: ModuleNotFoundError, what: str) -> MissingExtra | None:
    """The error to tell where a module of an extra is missing; None for any other module, whose
    absence is a fault."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF:
        return None
    return MissingExtra(
        f"{what} needs {package}, which is not installed; install it with: pip install 'memlm[{EXTRA_OF[package]}]'"
    )
