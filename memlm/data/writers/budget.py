"""The budget of requests and tokens that a run may spend on an endpoint."""

import threading

from memlm.data.writers.interface import WriterError


class BudgetSpent(WriterError):
    """The budget that the user set is used up."""


class Budget:
    """Requests and tokens of one run; 0 means no limit. Threads may share it."""

    def __init__(self, *, max_requests: int, max_tokens: int) -> None:
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.num_requests = self.num_tokens = 0
        self._lock = threading.Lock()

    def take_request(self) -> None:
        """Count a request before it is sent. Raises BudgetSpent if the budget is used up."""
        with self._lock:
            for name, used in (("max_requests", self.num_requests), ("max_tokens", self.num_tokens)):
                allowed = getattr(self, name)
                if allowed and used >= allowed:
                    raise BudgetSpent(
                        f"the budget is spent: writer.endpoint.{name} is {allowed}, and {used} are used; finished work is kept, "
                        "so run the same command again to continue with a new budget, or raise it"
                    )
            self.num_requests += 1

    def add_tokens(self, num_tokens: int) -> None:
        with self._lock:
            self.num_tokens += num_tokens

    def used(self) -> dict[str, int]:
        with self._lock:
            return {"num_requests": self.num_requests, "num_tokens": self.num_tokens}
