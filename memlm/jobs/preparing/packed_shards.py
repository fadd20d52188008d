"""Result of packing the shards of a corpus: their parts, an account of their lines, and the shards
left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memlm.data.corpus.accounting import Accounting, TooManyMalformed, total
from memlm.data.corpus.corpus import Part
from memlm.data.corpus.listing import Shard
from memlm.data.corpus.shards import ShardError
from memlm.jobs.on_ray.console import say
from memlm.run import RunError

MALFORMED_SHARE, QUARANTINED_SHARE = "malformed_share", "quarantined_share"
"""Details of a corpus artifact. Each has a limit in the config, whose name begins with max_."""
MALFORMED_LEFT_OUT = "malformed_share_left_out"
"""Detail: the smallest malformed share for which a shard was left out."""


@dataclass(frozen=True, kw_only=True)
class Poison:
    """Reason why a shard is left out."""

    reason: str
    malformed_share: float = 0.0
    """Share of malformed lines, if that is the reason."""


class PackedShards:
    """Parts and faults in the order of the shards, whatever the order of packing."""

    def __init__(self, shards: Sequence[Shard], *, limits: Mapping[str, float]) -> None:
        """`limits` has the keys MALFORMED_SHARE (share of each shard's lines) and QUARANTINED_SHARE
        (share of the shards)."""
        self.shards, self.limits = list(shards), dict(limits)
        self.num_documents = 0
        self._parts: dict[Shard, Part] = {}
        self._accounts: dict[Shard, Accounting] = {}
        self._poison: dict[Shard, Poison] = {}

    def add(self, shard: Shard, name: str, digest: str, details: Mapping[str, Any]) -> None:
        """Add the part of one shard, unless it was packed under a higher limit that it needs."""
        accounting = Accounting.from_json(details["accounting"])
        accounting.check(shard.uri)
        try:
            accounting.require_few_malformed(shard.uri, self.limits[MALFORMED_SHARE])
        except TooManyMalformed as error:
            self.leave_out(shard, Poison(reason=str(error), malformed_share=error.share))
            return
        self._accounts[shard] = accounting
        self._parts[shard] = Part(
            name=name, digest=digest, num_blocks=details["num_blocks"], num_documents=accounting.kept
        )
        self.num_documents += accounting.kept

    def leave_out(self, shard: Shard, poison: Poison) -> None:
        """Put a shard in quarantine. Raises ShardError if there are more than the limit allows."""
        self._poison[shard], reason = poison, poison.reason
        limit = self.limits[QUARANTINED_SHARE]
        if len(self._poison) <= limit * len(self.shards):
            say(f"quarantined: {reason}")
        elif len(self._poison) == 1:
            raise ShardError(reason)
        else:
            raise ShardError(
                f"{len(self._poison)} of {len(self.shards)} shards are in quarantine, more than corpus.max_quarantined_share ({limit:.3%}) "
                f"allows; the last: {reason}"
            )

    def parts_of(self, shards: Sequence[Shard]) -> list[Part]:
        """Parts of all shards outside quarantine. Raises ShardError if there is none."""
        parts = [self._parts[shard] for shard in shards if shard in self._parts]
        if not parts:
            raise ShardError(
                f"all {len(shards)} shards are in quarantine, the first because of this: {self._poison[shards[0]].reason}"
            )
        return parts

    def accounts(self) -> dict[str, Accounting]:
        """Accounts by shard, under names relative to the corpus's address if these are unique."""
        return {name: self._accounts[shard] for name, shard in self._named().items() if shard in self._accounts}

    def quarantined(self) -> dict[str, str]:
        """Reason why each shard was left out. The address in it is not part of a corpus's
        identity."""
        return {
            name: self._poison[shard].reason.replace(shard.uri, shard.name or shard.uri.rpartition("/")[2])
            for name, shard in self._named().items()
            if shard in self._poison
        }

    def shares(self) -> dict[str, float]:
        """Details that the limits are compared with when the corpus is reused."""
        shares = {
            MALFORMED_SHARE: max(accounting.malformed_share for accounting in self._accounts.values()),
            QUARANTINED_SHARE: len(self._poison) / len(self.shards),
        }
        malformed = [poison.malformed_share for poison in self._poison.values() if poison.malformed_share]
        return {**shares, **({MALFORMED_LEFT_OUT: min(malformed)} if malformed else {})}

    def report_accounts(self) -> None:
        """Say how much was read and left out, down to single lines."""
        whole = total(self.accounts())
        say(f"corpus: {len(self._parts)} shards, {whole}")
        for sample in whole.samples:
            say(f"left out: {sample}")
        if whole.num_malformed > len(whole.samples):
            say(f"left out: {whole.num_malformed - len(whole.samples)} more malformed lines")

    def _named(self) -> dict[str, Shard]:
        named: dict[str, Shard] = {}
        for index, shard in enumerate(self.shards):
            name = shard.name or shard.uri.rpartition("/")[2]
            named[name if name not in named else f"{name} ({index})"] = shard
        return named


def require_within_limits(uri: str, details: Mapping[str, Any], limits: Mapping[str, float]) -> None:
    """Raise RunError for a corpus made under looser limits, or without shards that the present
    limits allow."""
    for share, limit in limits.items():
        found = details.get(share, 0.0)
        if found > limit:
            raise RunError(
                f"{uri} was made with a {share} of {found:.3%}, and corpus.max_{share} is {limit:.3%} now; "
                "raise it, or give another --run-name, or move it away to make it again"
            )
    left_out = details.get(MALFORMED_LEFT_OUT)
    if left_out is not None and left_out <= limits[MALFORMED_SHARE]:
        raise RunError(
            f"{uri} was made without a shard with a {MALFORMED_SHARE} of {left_out:.3%}, and corpus.max_{MALFORMED_SHARE} is "
            f"{limits[MALFORMED_SHARE]:.3%} now; lower it, or give another --run-name, or move it away to make it again"
        )
