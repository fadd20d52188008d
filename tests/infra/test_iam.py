"""The evaluator, compared with IAM's documentation and with itself."""

import itertools
import random
import re
from typing import Any

import pytest

from tests.infra.iam import Request, _contains, _overlap, decide, may_ever

BUCKET = "arn:aws:s3:::data"
ROLE = "arn:aws:iam::123456789012:role/worker"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1"


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(action: Any = "*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action: Any = "*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return allow(action, resource, **more) | {"Effect": "Deny"}


@pytest.mark.parametrize(
    ("action", "resource", "asked", "of", "allowed"),
    [
        ("s3:GetObject", f"{BUCKET}/*", "s3:GetObject", f"{BUCKET}/a/b", True),
        ("s3:getobject", f"{BUCKET}/*", "s3:GetObject", f"{BUCKET}/a", True),  # actions in any case
        ("s3:Get*", f"{BUCKET}/*", "s3:PutObject", f"{BUCKET}/a", False),
        ("s3:*", f"{BUCKET}/*", "s3:ListBucket", BUCKET, False),  # the bucket isn't its objects
        ("s3:*", f"{BUCKET}*", "s3:GetObject", f"{BUCKET}-other/a", True),
        ("*", "arn:aws:s3:::DATA/*", "s3:GetObject", f"{BUCKET}/a", False),  # resources in their case
        ("ec2:*", "arn:aws:ec2:*:*:instance/*", "ec2:RunInstances", "arn:aws:ec2:us-east-1:1:instance/i-1", True),
        ("ec2:*", "arn:aws:ec2:*:instance/*", "ec2:RunInstances", "arn:aws:ec2:us-east-1:1:instance/i-1", False),
        ("s3:Get?bject", f"{BUCKET}/?", "s3:GetObject", f"{BUCKET}/ab", False),
    ],
)
def test_patterns(action: str, resource: str, asked: str, of: str, allowed: bool) -> None:
    assert bool(decide([policy(allow(action, resource))], Request(asked, of))) is allowed


def test_a_deny_wins_in_any_order() -> None:
    for statements in itertools.permutations([allow(), deny("s3:Delete*"), allow("s3:*")]):
        assert decide([policy(*statements)], Request("s3:DeleteObject", BUCKET)).reason == "explicit deny"
        assert decide([policy(*statements)], Request("s3:GetObject", BUCKET))


def test_not_action_and_not_resource() -> None:
    most = policy({"Effect": "Allow", "NotAction": "iam:*", "NotResource": f"{BUCKET}/secret/*"})
    assert decide([most], Request("ec2:RunInstances", f"{BUCKET}/a"))
    assert not decide([most], Request("iam:PassRole", f"{BUCKET}/a"))
    assert not decide([most], Request("s3:GetObject", f"{BUCKET}/secret/a"))
    assert may_ever([most], "ec2:*") and not may_ever([most], "iam:*") and may_ever([most], "*")


@pytest.mark.parametrize(
    ("condition", "context", "holds"),
    [
        ({"StringEquals": {"k": "a"}}, {"k": "a"}, True),
        ({"StringEquals": {"k": "a"}}, {"k": "A"}, False),
        ({"StringEquals": {"K": "a"}}, {"k": "a"}, True),  # keys in any case
        ({"StringEquals": {"k": ["a", "b"]}}, {"k": "b"}, True),  # any of the values
        ({"StringEquals": {"k": "a", "l": "b"}}, {"k": "a"}, False),  # all of the keys
        ({"StringEquals": {"k": "a"}, "Bool": {"l": "true"}}, {"k": "a", "l": "false"}, False),  # all of the operators
        ({"StringEquals": {"k": "a"}}, {}, False),
        ({"StringEqualsIfExists": {"k": "a"}}, {}, True),
        ({"StringEqualsIfExists": {"k": "a"}}, {"k": "b"}, False),
        ({"StringNotEquals": {"k": "a"}}, {}, True),  # a missing key is not equal
        ({"StringNotEquals": {"k": ["a", "b"]}}, {"k": "b"}, False),  # none of the values
        ({"StringNotEquals": {"k": ["a", "b"]}}, {"k": "c"}, True),
        ({"StringLike": {"k": "a*"}}, {"k": "abc"}, True),
        ({"StringNotLike": {"k": "a*"}}, {"k": "abc"}, False),
        ({"StringEqualsIgnoreCase": {"k": "AB"}}, {"k": "ab"}, True),
        ({"Bool": {"k": "true"}}, {"k": True}, True),
        ({"Bool": {"k": "false"}}, {}, False),
        ({"BoolIfExists": {"k": "false"}}, {}, True),
        ({"Null": {"k": "true"}}, {}, True),
        ({"Null": {"k": "false"}}, {}, False),
        ({"Null": {"k": "false"}}, {"k": "x"}, True),
        ({"ArnLike": {"k": "arn:aws:iam::*:role/a*"}}, {"k": "arn:aws:iam::1:role/ab"}, True),
        ({"ArnEquals": {"k": "arn:aws:iam::*:role/a*"}}, {"k": "arn:aws:sts::1:role/ab"}, False),
        ({"IpAddress": {"k": "10.0.0.0/8"}}, {"k": "10.1.2.3"}, True),
        ({"NotIpAddress": {"k": "10.0.0.0/8"}}, {"k": "10.1.2.3"}, False),
        ({"NumericLessThan": {"k": "10"}}, {"k": "9"}, True),
        ({"NumericLessThan": {"k": "10"}}, {"k": "10"}, False),
        ({"NumericGreaterThanEquals": {"k": "10"}}, {"k": "10"}, True),
        ({"DateLessThan": {"k": "2026-01-01T00:00:00Z"}}, {"k": "2025-01-01T00:00:00Z"}, True),
        ({"ForAllValues:StringEquals": {"k": ["a", "b"]}}, {"k": ["a", "b"]}, True),
        ({"ForAllValues:StringEquals": {"k": ["a", "b"]}}, {"k": ["a", "c"]}, False),
        ({"ForAllValues:StringEquals": {"k": ["a", "b"]}}, {}, True),  # the well-known trap
        ({"ForAnyValue:StringEquals": {"k": ["a", "b"]}}, {"k": ["c", "b"]}, True),
        ({"ForAnyValue:StringEquals": {"k": ["a", "b"]}}, {}, False),
        ({"StringEquals": {"k": "${aws:PrincipalTag/t}"}}, {"k": "x", "aws:PrincipalTag/t": "x"}, True),
        (
            {"StringEquals": {"k": "${aws:PrincipalTag/t}"}},
            {"k": "x"},
            False,
        ),  # a variable without value matches nothing
    ],
)
def test_conditions(condition: Any, context: Any, holds: bool) -> None:
    asked = Request("s3:GetObject", BUCKET, context)
    assert bool(decide([policy(allow(Condition=condition))], asked)) is holds


def test_unknown_elements_are_an_error() -> None:
    with pytest.raises(ValueError, match="operator 'StringSortOf'"):
        decide([policy(allow(Condition={"StringSortOf": {"k": "a"}}))], Request("s3:GetObject", BUCKET, {"k": "a"}))
    with pytest.raises(ValueError, match="Actions"):
        decide([policy({"Effect": "Allow", "Actions": "*", "Resource": "*"})], Request("s3:GetObject", BUCKET))
    with pytest.raises(ValueError, match="Effect"):
        decide([policy({"Effect": "allow", "Action": "*", "Resource": "*"})], Request("s3:GetObject", BUCKET))


def test_policy_variables_in_resources() -> None:
    home = policy(allow("s3:*", f"{BUCKET}/${{aws:PrincipalTag/team}}/*"))
    assert decide([home], Request("s3:GetObject", f"{BUCKET}/red/a", {"aws:PrincipalTag/team": "red"}))
    assert not decide([home], Request("s3:GetObject", f"{BUCKET}/blue/a", {"aws:PrincipalTag/team": "red"}))
    assert not decide([home], Request("s3:GetObject", f"{BUCKET}/red/a"))
    literal = policy(allow("s3:*", f"{BUCKET}/${{*}}"))
    assert decide([literal], Request("s3:GetObject", f"{BUCKET}/*"))
    assert not decide([literal], Request("s3:GetObject", f"{BUCKET}/a"))


def test_a_boundary_limits_a_policy() -> None:
    asked = Request("ec2:RunInstances", "*")
    assert decide([policy(allow())], asked, boundary=policy(allow("s3:*"))).reason == "outside the boundary"
    assert decide([policy(allow())], asked, boundary=policy(allow("ec2:*")))
    assert decide([policy()], asked, boundary=policy(allow("ec2:*"))).reason == "no allow"


def test_a_buckets_policy() -> None:
    tls = deny("s3:*", [BUCKET, f"{BUCKET}/*"], Principal="*", Condition={"Bool": {"aws:SecureTransport": "false"}})
    reader = policy(allow("s3:GetObject", f"{BUCKET}/*"))
    for secure, allowed in (("true", True), ("false", False)):
        asked = Request("s3:GetObject", f"{BUCKET}/a", {"aws:SecureTransport": secure}, ROLE)
        assert bool(decide([reader], asked, resource=[policy(tls)])) is allowed
    asked = Request("s3:PutObject", f"{BUCKET}/a", {}, ROLE)
    given = allow("s3:PutObject", f"{BUCKET}/*", Principal={"AWS": ROLE})
    assert decide([reader], asked, resource=[policy(given)])
    other = given | {"Principal": {"AWS": "arn:aws:iam::123456789012:role/other"}}
    assert not decide([reader], asked, resource=[policy(other)])
    account = given | {"Principal": {"AWS": "arn:aws:iam::123456789012:root"}}
    assert not decide([reader], asked, resource=[policy(account)])  # leaves it to the account's policies


def test_a_keys_policy_must_delegate_to_the_account() -> None:
    user, asked = policy(allow("kms:Decrypt", KEY)), Request("kms:Decrypt", KEY, {}, ROLE)
    account = allow("kms:*", "*", Principal={"AWS": "arn:aws:iam::123456789012:root"})
    service = allow("kms:*", "*", Principal={"Service": "logs.us-east-1.amazonaws.com"})
    assert decide([user], asked, resource=[policy(account)])
    assert not decide([user], asked, resource=[policy(service)])
    assert not decide([policy()], asked, resource=[policy(account)])


def test_may_ever_sees_through_wildcards() -> None:
    sly = policy(allow("e*2:Run?nstances", "arn:aws:ec2:*"))
    assert may_ever([sly], "ec2:*") and not may_ever([sly], "iam:*")
    assert not may_ever([policy(allow("ec2messages:*"))], "ec2:*")
    assert not may_ever([policy(allow(), deny("ec2:*"))], "ec2:RunInstances")
    halfway = deny("ec2:*", Condition={"Bool": {"aws:MultiFactorAuthPresent": "false"}})
    assert may_ever([policy(allow(), halfway)], "ec2:RunInstances")  # there is a context in which it may
    assert not may_ever([policy(allow("s3:*", f"{BUCKET}/*"))], "s3:Delete*", "arn:aws:s3:::other*")


def test_overlap_and_contains_agree_with_brute_force() -> None:
    texts = ["".join(t) for n in range(5) for t in itertools.product("ab", repeat=n)]
    patterns = ["".join(t) for n in range(4) for t in itertools.product("ab*?", repeat=n)]
    fit = {p: {t for t in texts if re.fullmatch(p.replace("*", ".*").replace("?", "."), t)} for p in patterns}
    for one, other in random.Random(0).sample(list(itertools.product(patterns, repeat=2)), 3000):
        if "*" not in one + other or len(one) + len(other) <= 4:  # otherwise longer texts might be needed
            assert _overlap(one, other) == bool(fit[one] & fit[other]), (one, other)
        if _contains(one, other):
            assert fit[other] <= fit[one], (one, other)


def test_an_allowed_request_may_ever_be_allowed() -> None:
    """Random policies: where a request is allowed, may_ever must not say never."""
    rng = random.Random(1)
    actions, resources = ["s3:Get", "s3:Put", "ec2:Run"], [BUCKET, f"{BUCKET}/a", "arn:aws:ec2:r:1:instance/i"]
    allowed = 0
    for _ in range(2000):
        made = []
        for _ in range(rng.randint(1, 4)):
            statement = rng.choice([allow, allow, deny])(
                rng.choice([*actions, "s3:*", "*", "ec2:R?n"]), rng.choice([*resources, f"{BUCKET}/*", "*"])
            )
            if rng.random() < 0.3:
                statement["NotAction"] = statement.pop("Action")
            if rng.random() < 0.2:
                statement["NotResource"] = statement.pop("Resource")
            made.append(statement)
        asked = Request(rng.choice(actions), rng.choice(resources))
        if decide([policy(*made)], asked):
            allowed += 1
            assert may_ever([policy(*made)], asked.action, asked.resource), made
            assert may_ever([policy(*made)], "*"), made
    assert allowed > 300
