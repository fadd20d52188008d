"""Decisions of IAM on policies as Terraform renders them, computed without AWS.

`decide` answers one request as AWS would: an explicit deny wins, then a boundary must allow,
then the identity's or (in one account) the resource's policy. `may_ever` answers for whole
patterns whether any request of this kind could be allowed in any context. It errs on the side of
yes, so a no is certain.

Sources: "Policy evaluation logic", "IAM JSON policy elements: Condition operators" and "... with
multiple context keys or values" in the IAM user guide. An operator or an element that isn't
known here is an error, never a guess.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Context = Mapping[str, str | Sequence[str]]
_ELEMENTS = {
    "Sid",
    "Effect",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
    "Principal",
    "NotPrincipal",
}


@dataclass(frozen=True)
class Request:
    action: str  # ec2:RunInstances
    resource: str  # its ARN
    context: Context = field(default_factory=dict)  # aws:RequestTag/ray-cluster-name -> memlm
    principal: str = ""  # the role's ARN, for the resource's policies


@dataclass(frozen=True)
class Decision:
    allowed: bool
    reason: str  # explicit deny, no allow, outside the boundary, allowed
    statement: Mapping[str, Any] | None = None  # statement that decided

    def __bool__(self) -> bool:
        return self.allowed


def statements(policy: str | Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Parse a policy. Raises ValueError if it isn't one that can be judged here."""
    document = json.loads(policy) if isinstance(policy, str) else policy
    found = _listed(document["Statement"])
    for statement in found:
        if unknown := set(statement) - _ELEMENTS:
            raise ValueError(f"elements that IAM doesn't know: {sorted(unknown)} in {statement}")
        if statement.get("Effect") not in ("Allow", "Deny"):
            raise ValueError(f"Effect is {statement.get('Effect')!r} in {statement}")
        if ("Action" in statement) == ("NotAction" in statement):
            raise ValueError(f"exactly one of Action and NotAction is needed in {statement}")
    return found


def decide(
    identity: Sequence[str | Mapping[str, Any]],
    request: Request,
    *,
    resource: Sequence[str | Mapping[str, Any]] = (),
    boundary: str | Mapping[str, Any] | None = None,
) -> Decision:
    """Decide a request. `identity` are the policies of the role, `resource` those of the bucket or
    key acted on."""
    of_identity = [s for policy in identity for s in statements(policy)]
    of_resource = [s for policy in resource for s in statements(policy) if _reach(s, request.principal)]
    of_boundary = statements(boundary) if boundary is not None else []
    for statement in [*of_identity, *of_resource, *of_boundary]:
        if statement["Effect"] == "Deny" and _matches(statement, request):
            return Decision(False, "explicit deny", statement)
    named = [s for s in of_resource if _reach(s, request.principal) == "named"]
    delegated = not request.action.startswith("kms:") or any(_allows(s, request) for s in of_resource)
    for statement in [*named, *(of_identity if delegated else ())]:
        if _allows(statement, request):
            inside = boundary is None or any(_allows(s, request) for s in of_boundary)
            return Decision(inside, "allowed" if inside else "outside the boundary", statement)
    return Decision(False, "no allow")


def may_ever(identity: Sequence[str | Mapping[str, Any]], action: str, resource: str = "*") -> Mapping[str, Any] | None:
    """The first statement that could allow some action of this pattern on some resource of that
    one, in some context."""
    everything = [s for policy in identity for s in statements(policy)]
    denied = [s for s in everything if s["Effect"] == "Deny" and not s.get("Condition")]
    if any(_covers(s, action, resource) for s in denied):
        return None
    for statement in everything:
        if statement["Effect"] == "Allow" and _could_match(statement, action, resource):
            return statement
    return None


def _allows(statement: Mapping[str, Any], request: Request) -> bool:
    return statement["Effect"] == "Allow" and _matches(statement, request)


def _matches(statement: Mapping[str, Any], request: Request) -> bool:
    return (
        _action_matches(statement, request.action)
        and _resource_matches(statement, request)
        and all(
            _condition_holds(operator, key, _listed(values), request.context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _action_matches(statement: Mapping[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        return not any(_glob(pattern.lower(), action.lower()) for pattern in _listed(statement["NotAction"]))
    return any(_glob(pattern.lower(), action.lower()) for pattern in _listed(statement["Action"]))


def _resource_matches(statement: Mapping[str, Any], request: Request) -> bool:
    def any_of(patterns: Any) -> bool:
        filled = (_fill(pattern, request.context) for pattern in _listed(patterns))
        return any(pattern is not None and _arn_glob(pattern, request.resource) for pattern in filled)

    if "NotResource" in statement:
        return not any_of(statement["NotResource"])
    return any_of(statement["Resource"]) if "Resource" in statement else "AssumeRole" in request.action


def _reach(statement: Mapping[str, Any], principal: str) -> str:
    """How a resource's statement reaches the principal: "named"; "account", whose own policies
    then decide; or ""."""
    if "NotPrincipal" in statement:
        return "" if _names(statement["NotPrincipal"], principal) else "named"
    return _names(statement["Principal"], principal)


def _names(named: Any, principal: str) -> str:
    account = principal.split(":")[4] if principal.startswith("arn:") else None
    values = [named] if named == "*" else [value for listed in named.values() for value in _listed(listed)]
    if "*" in values or principal in values:
        return "named"
    return "account" if account and {account, f"arn:aws:iam::{account}:root"} & set(values) else ""


# Conditions
# ------------------------------------------------------------------------------------------


def _condition_holds(operator: str, key: str, wanted: list[str], context: Context) -> bool:
    quantifier, _, name = operator.rpartition(":")
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    given = _lookup(context, key)
    if name == "Null":
        return (given is None) == (str(wanted[0]).lower() == "true")
    negated = "Not" in name
    compare = _OPERATORS.get(name.replace("Not", ""))
    if compare is None:
        raise ValueError(f"condition operator {operator!r} is not known here")
    if given is None:
        return if_exists or (negated if quantifier == "" else quantifier == "ForAllValues")
    patterns = [filled for value in wanted if (filled := _fill(str(value), context)) is not None]

    def fits(value: str) -> bool:
        return any(compare(pattern, value) for pattern in patterns) != negated

    if quantifier == "":
        return fits(given[0]) if len(given) == 1 else all(map(fits, given)) if negated else any(map(fits, given))
    return all(map(fits, given)) if quantifier == "ForAllValues" else any(map(fits, given))


def _lookup(context: Context, key: str) -> list[str] | None:
    """The values of a context key, whose case does not matter."""
    for name, value in context.items():
        if name.lower() == key.lower():
            return [str(one).lower() if isinstance(one, bool) else str(one) for one in _listed(value)]
    return None


def _numeric(test: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    return lambda wanted, given: test(float(given), float(wanted))


def _dated(test: Callable[[datetime, datetime], bool]) -> Callable[[str, str], bool]:
    return lambda wanted, given: test(datetime.fromisoformat(given), datetime.fromisoformat(wanted))


def _address(wanted: str, given: str) -> bool:
    return ipaddress.ip_address(given) in ipaddress.ip_network(wanted, strict=False)


_OPERATORS: dict[str, Callable[[str, str], bool]] = {  # (what the policy wants, what the request has)
    "StringEquals": lambda wanted, given: wanted == given,
    "StringEqualsIgnoreCase": lambda wanted, given: wanted.lower() == given.lower(),
    "StringLike": lambda wanted, given: _glob(wanted, given),
    "ArnEquals": lambda wanted, given: _arn_glob(wanted, given),
    "ArnLike": lambda wanted, given: _arn_glob(wanted, given),
    "Bool": lambda wanted, given: wanted.lower() == given.lower(),
    "IpAddress": _address,
    "NumericEquals": _numeric(lambda given, wanted: given == wanted),
    "NumericLessThan": _numeric(lambda given, wanted: given < wanted),
    "NumericLessThanEquals": _numeric(lambda given, wanted: given <= wanted),
    "NumericGreaterThan": _numeric(lambda given, wanted: given > wanted),
    "NumericGreaterThanEquals": _numeric(lambda given, wanted: given >= wanted),
    "DateEquals": _dated(lambda given, wanted: given == wanted),
    "DateLessThan": _dated(lambda given, wanted: given < wanted),
    "DateLessThanEquals": _dated(lambda given, wanted: given <= wanted),
    "DateGreaterThan": _dated(lambda given, wanted: given > wanted),
    "DateGreaterThanEquals": _dated(lambda given, wanted: given >= wanted),
}


# Patterns
# ------------------------------------------------------------------------------------------


def _fill(pattern: str, context: Context) -> str | None:
    """The pattern with its policy variables; None when one has no value, and the pattern then
    matches nothing."""
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        name, _, default = match[1].partition(",")
        if name in ("*", "?", "$"):
            return {"*": "\ue000", "?": "\ue001", "$": "$"}[name]  # literal ones
        given = _lookup(context, name.strip())
        if given is None and not default:
            missing = True
        return given[0] if given is not None else default.strip(" '")

    filled = re.sub(r"\$\{([^}]*)\}", value, pattern)
    return None if missing else filled


def _glob(pattern: str, text: str) -> bool:
    parts = {"*": ".*", "?": ".", "\ue000": r"\*", "\ue001": r"\?"}
    return re.fullmatch("".join(parts.get(c, re.escape(c)) for c in pattern), text, re.DOTALL) is not None


def _arn_glob(pattern: str, arn: str) -> bool:
    """A wildcard doesn't reach over a colon, but for the last part, the resource's own."""
    if pattern == "*":
        return True
    wanted, given = pattern.split(":", 5), arn.split(":", 5)
    return len(wanted) == len(given) == 6 and all(map(_glob, wanted, given))


def _could_match(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    if "NotAction" in statement:
        actions = not any(_contains(pattern.lower(), action.lower()) for pattern in _listed(statement["NotAction"]))
    else:
        actions = any(_overlap(pattern.lower(), action.lower()) for pattern in _listed(statement["Action"]))
    if "NotResource" in statement:
        return actions and not any(_contains(pattern, resource) for pattern in _listed(statement["NotResource"]))
    patterns = (re.sub(r"\$\{[^}]*\}", "*", pattern) for pattern in _listed(statement.get("Resource", "*")))
    return actions and any(_overlap(pattern, resource) for pattern in patterns)


def _covers(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    """Whether the pattern matches all of the texts."""
    if "Action" not in statement or "Resource" not in statement:
        return False
    actions = any(_contains(pattern.lower(), action.lower()) for pattern in _listed(statement["Action"]))
    return actions and any(_contains(pattern, resource) for pattern in _listed(statement["Resource"]))


def _contains(wide: str, narrow: str) -> bool:
    """Whether every text of `narrow` is one of `wide`; may say no where that is true, never yes
    where it isn't."""
    parts = {"*": ".*", "?": "[^*]"}  # a * in `narrow` is met by a * in `wide` alone
    return re.fullmatch("".join(parts.get(c, re.escape(c)) for c in wide), narrow) is not None


def _overlap(one: str, other: str) -> bool:
    """Whether some text fits both patterns."""
    reached = {(0, 0)}
    todo = [(0, 0)]
    while todo:
        i, j = todo.pop()
        if i == len(one) and j == len(other):
            return True
        for step in _steps(one, other, i, j):
            if step not in reached:
                reached.add(step)
                todo.append(step)
    return False


def _steps(one: str, other: str, i: int, j: int) -> Iterator[tuple[int, int]]:
    a, b = one[i : i + 1], other[j : j + 1]
    if a == "*":
        yield i + 1, j
        if b:
            yield i, j + 1
    if b == "*":
        yield i, j + 1
        if a:
            yield i + 1, j
    if a and b and "*" not in (a, b) and (a == b or "?" in (a, b)):
        yield i + 1, j + 1


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
