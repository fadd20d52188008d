"""What every task and worker on Ray does first, asks for and hands back."""

from collections.abc import Iterator
from contextlib import contextmanager


class WorkerError(Exception):
    """An error on its way from a worker to the driver, behind which Ray Data finds no message to
    write advice of its own into."""

    def __init__(self, cause: Exception, *notes: str) -> None:
        super().__init__(cause, *notes)
        self.cause = cause


@contextmanager
def handing_on_errors() -> Iterator[None]:
    """Around what Ray Data calls in a worker: the driver is told what the user can mend as it
    was raised."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise WorkerError(error) from error
