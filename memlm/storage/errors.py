"""The errors of storage."""

from memlm.credentials import redacted, without_secrets

REMAKE = "Move it away and run its stage again."


class StorageError(ValueError):
    """What storage refuses or cannot do: which field, its value, the rule, the remedy."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        value, rule = without_secrets(redacted(str(value))), without_secrets(rule)
        super().__init__(field, value, rule, remedy)  # all four, so that it survives pickling between processes
        self.field, self.value, self.rule, self.remedy = field, value, rule, remedy

    def __str__(self) -> str:
        return f"{self.field} {self.value}: {self.rule}. {self.remedy}"


class DamagedArtifact(StorageError):
    """The bytes are not those that were written. An older artifact may still be whole."""


class LeaseHeld(StorageError):
    """Somebody else may write there now."""


class LeaseLost(StorageError):
    """We no longer may: the lease ran out and another has taken over, with a higher epoch."""
