"""The errors of storage."""

from memlm.credentials import redacted, without_secrets

REMAKE = "Move it away and run its stage again."


class StorageError(ValueError):
    """A request that storage refuses or cannot fulfil: the field, its value, the rule, the
    remedy."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        value, rule = without_secrets(redacted(str(value))), without_secrets(rule)
        super().__init__(field, value, rule, remedy)  # all four, so that it survives pickling between processes
        self.field, self.value, self.rule, self.remedy = field, value, rule, remedy

    def __str__(self) -> str:
        return f"{self.field} {self.value}: {self.rule}. {self.remedy}"


class DamagedArtifact(StorageError):
    """Bytes that differ from those that were written. An older artifact may still be intact."""


class LeaseHeld(StorageError):
    """Somebody else may be writing there now."""


class LeaseLost(StorageError):
    """We may no longer write: the lease expired and another holder took over, with a higher
    epoch."""
