"""Permissions in an applied environment: IAM's decisions on its policies, for requests that must
and must not pass.

What pipelines touch is named by memlm itself (memlm/artifacts.py, memlm/run.py), so a key that
moves there and not in the policies is found.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from memlm import artifacts
from memlm.cli import parse
from memlm.config import Config
from memlm.run import Run, run_of
from memlm.storage import MANIFEST, join
from tests.infra.frame import Outcome, Row
from tests.infra.iam import Decision, Request, decide, may_ever
from tests.infra.stack import ENVIRONMENTS, Resource, Stack, applied

ACCOUNT, REGION = "123456789012", "us-east-1"
EC2 = f"arn:aws:ec2:{REGION}:{ACCOUNT}"
TLS = {"aws:SecureTransport": "true", "s3:TlsVersion": "1.3"}
NEVER_OF_A_WORKER = ("ec2:*", "iam:*", "sts:*", "autoscaling:*", "organizations:*", "rds:*", "ssm:*", "ssmmessages:*")
NEVER_OF_A_HEAD = (
    *("iam:Create*", "iam:Put*", "iam:Attach*", "iam:Update*", "iam:Delete*", "iam:Add*", "iam:Set*", "sts:*"),
    *("ec2:Authorize*", "ec2:Modify*", "ec2:CreateLaunchTemplate*", "ec2:Delete*", "ec2:Associate*", "ec2:Import*"),
    *(
        "ec2:CreateSecurityGroup",
        "ec2:CreateRoute*",
        "ec2:CreateInternetGateway",
        "ec2:CreateNatGateway",
        "ec2:Attach*",
    ),
    *("ec2:RunScheduledInstances", "ec2:Request*", "organizations:*", "rds:*", "ssm:Send*", "ssm:Start*"),
)
NEVER_OF_BOTH = (
    *(
        "s3:DeleteBucket*",
        "s3:DeleteObjectVersion*",
        "s3:PutBucket*",
        "s3:PutLifecycle*",
        "s3:PutEncryption*",
        "s3:Bypass*",
    ),
    *("s3:PutObjectAcl", "s3:PutObjectRetention", "s3:CreateBucket", "kms:ScheduleKeyDeletion", "kms:PutKeyPolicy"),
    *("kms:Disable*", "secretsmanager:Put*", "secretsmanager:Update*", "secretsmanager:Delete*", "logs:Delete*"),
)


@dataclass(frozen=True)
class Expectation:
    what: str
    allowed: bool
    found: bool
    why: str

    @property
    def met(self) -> bool:
        return self.allowed == self.found


@dataclass(frozen=True)
class Access:
    """Roles of a cluster, and the guarded resources of its applied environment."""

    stack: Stack
    cluster: str  # memlm-dev-main

    def _role(self, kind: str) -> dict[str, Any]:
        found = [r.values for r in self.stack.of("aws_iam_role") if r.values["name"] == f"{self.cluster}-{kind}"]
        assert len(found) == 1, f"{len(found)} roles are {self.cluster}-{kind}"
        return found[0]

    def arn(self, kind: str) -> str:
        return str(self._role(kind)["arn"])

    def policies(self, kind: str) -> list[str]:
        """Inline and attached policies. One of AWS's own, whose text isn't here, is an error."""
        name = self._role(kind)["name"]
        inline = [p.values["policy"] for p in self.stack.of("aws_iam_role_policy") if p.values["role"] == name]
        own = {p.values["arn"]: p.values["policy"] for p in self.stack.of("aws_iam_policy")}
        attached = [
            own[a.values["policy_arn"]]
            for a in self.stack.of("aws_iam_role_policy_attachment")
            if a.values["role"] == name
        ]
        return [*inline, *attached]

    def decide(self, kind: str, action: str, resource: str, **context: str) -> Decision:
        asked = Request(action, resource, context, self.arn(kind))
        return decide(self.policies(kind), asked, resource=self._guards(resource))

    def decide_s3(self, kind: str, action: str, resource: str, context: dict[str, str] | None = None) -> Decision:
        asked = Request(action, resource, {**TLS, **(context or {})}, self.arn(kind))
        return decide(self.policies(kind), asked, resource=self._guards(resource))

    def _guards(self, resource: str) -> list[str]:
        """Policies of the requested bucket or key."""
        if resource.startswith("arn:aws:s3:::"):
            bucket = resource.removeprefix("arn:aws:s3:::").partition("/")[0]
            return [p.values["policy"] for p in self.stack.of("aws_s3_bucket_policy") if p.values["bucket"] == bucket]
        return [k.values["policy"] for k in self.stack.of("aws_kms_key") if k.values["arn"] == resource]

    def bucket(self, purpose: str) -> str:
        names = [b.values["bucket"] for b in self.stack.of("aws_s3_bucket") if f"-{purpose}-" in b.values["bucket"]]
        assert len(names) == 1, f"{len(names)} buckets are for {purpose}"
        return str(names[0])

    @cached_property
    def storage(self) -> str:
        """The pipelines' --storage, from the environment's own output."""
        told = next(text for text in _texts(self.stack.outputs["commands"]) if "MEMLM_STORAGE=" in text)
        return told.partition("MEMLM_STORAGE=")[2].split()[0]

    @cached_property
    def config(self) -> Config:
        return parse("", ["smoke", "--storage", self.storage, "--tracking", "off", "--writer.model", "any"])

    @cached_property
    def run(self) -> Run:
        return run_of(self.config)

    def templates(self) -> dict[str, Resource]:
        return {t.values["name"]: t for t in self.stack.of("aws_launch_template")}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def expectations(stack: Stack) -> list[Expectation]:
    found: list[Expectation] = []
    for cluster in clusters(stack):
        access = Access(stack, cluster)
        for of_one in (_never, _data, _commits, _launches, _machines, _secrets, _sessions):
            found += [replace(e, what=f"{cluster}: {e.what}") for e in of_one(access)]
    return found


def clusters(stack: Stack) -> list[str]:
    """Names of the node types in Ray."""
    tags = [{tag["key"]: tag["value"] for tag in g.values["tag"]} for g in stack.of("aws_autoscaling_group")]
    return sorted(of_one["ray-cluster-name"] for of_one in tags if "ray-cluster-name" in of_one)


def _expect(what: str, allowed: bool, decision: Decision) -> Expectation:
    return Expectation(what, allowed, bool(decision), decision.reason)


def _never(access: Access) -> Iterator[Expectation]:
    """Patterns of requests that must be denied in every context."""
    for kind, patterns in (
        ("worker", (*NEVER_OF_A_WORKER, *NEVER_OF_BOTH)),
        ("head", (*NEVER_OF_A_HEAD, *NEVER_OF_BOTH)),
    ):
        for pattern in patterns:
            by = may_ever(access.policies(kind), pattern)
            yield Expectation(f"a {kind} may {pattern}", False, by is not None, json.dumps(by))
    corpus, artifacts, logs = (f"arn:aws:s3:::{access.bucket(b)}" for b in ("corpus", "artifacts", "logs"))
    for kind in ("head", "worker"):
        for action, resource in (
            *((action, f"{corpus}*") for action in ("s3:Put*", "s3:Delete*", "s3:Restore*", "s3:Replicate*")),
            ("s3:*", f"{artifacts}*"),
            ("s3:*", f"{logs}*"),
            ("kms:*", f"arn:aws:kms:{REGION}:000000000000:key/*"),
            ("s3:*", "arn:aws:s3:::somebody-elses-*"),
        ):
            by = may_ever(access.policies(kind), action, resource)
            yield Expectation(f"a {kind} may {action} on {resource}", False, by is not None, json.dumps(by))


def _data(access: Access) -> Iterator[Expectation]:
    run, config, corpus = access.run, access.config, f"arn:aws:s3:::{access.bucket('corpus')}"
    counts = artifacts.counts(config)
    made = (
        artifacts.corpus(config),
        artifacts.checkpoint(config, "memory"),
        counts,
        artifacts.learned(config, {}),
        artifacts.questions(config),
        artifacts.tokenizer(config),
    )
    kept = [*(each.uri for each in made), run.trials]
    statements = artifacts.statements(config, revision="a1", prompts=())
    passing = [
        *(run.training_states("memory"), counts.units, run.counting_attempts, run.packing_attempts),
        *(statements.units, f"{run.uri}/documents-partial", join(run.uri, "ray", "sweep-1")),
    ]
    for kind in ("head", "worker"):
        yield _expect(f"{kind} reads the corpus", True, access.decide_s3(kind, "s3:GetObject", f"{corpus}/a.jsonl.zst"))
        yield _expect(f"{kind} lists the corpus", True, access.decide_s3(kind, "s3:ListBucket", corpus))
        for uri in [*kept, *passing]:
            there = _arn(f"{uri}/model.safetensors")
            yield _expect(f"{kind} reads {uri}", True, access.decide_s3(kind, "s3:GetObject", there))
            yield _expect(f"{kind} writes {uri}", True, access.decide_s3(kind, "s3:PutObject", there))
        for uri in kept:
            for name in ("model.safetensors", MANIFEST):
                decision = access.decide_s3(kind, "s3:DeleteObject", _arn(f"{uri}/{name}"))
                yield _expect(f"{kind} deletes {uri}/{name}", False, decision)
        for uri in passing:
            for name in ("", f"/{MANIFEST}", "/7/state.safetensors"):  # all that storage.delete asks for
                decision = access.decide_s3(kind, "s3:DeleteObject", _arn(f"{uri}{name}"))
                yield _expect(f"{kind} removes {uri}{name}, which it made on its way", True, decision)
        elsewhere = _arn(access.storage.rpartition("/")[0] + "/somebody-else/run/checkpoint-memory/model.safetensors")
        for action in ("s3:GetObject", "s3:PutObject"):
            decision = access.decide_s3(kind, action, elsewhere)
            yield _expect(f"{kind} {action} under another prefix", False, decision)
        listed = {"s3:prefix": access.storage.rpartition("/")[2] + "/smoke/"}
        bucket = _arn(access.storage.rpartition("/")[0])
        yield _expect(f"{kind} lists its prefix", True, access.decide_s3(kind, "s3:ListBucket", bucket, listed))
        other = {"s3:prefix": "somebody-else/"}
        yield _expect(f"{kind} lists another", False, access.decide_s3(kind, "s3:ListBucket", bucket, other))


def _arn(uri: str) -> str:
    return uri.replace("s3://", "arn:aws:s3:::")


def _commits(access: Access) -> Iterator[Expectation]:
    """Requests that the bucket's own policy refuses, whatever the role allows."""
    checkpoint = artifacts.checkpoint(access.config, "memory").uri
    manifest = _arn(f"{checkpoint}/{MANIFEST}")
    lease = _arn(f"{access.run.pretraining_lease('memory')}/0000000001.json")
    plain = _arn(f"{checkpoint}/model.safetensors")
    creates = {"s3:ObjectCreationOperation": "true"}
    for what, key in (("a manifest", manifest), ("a lease", lease)):
        for condition in ("s3:if-none-match", "s3:if-match"):
            decision = access.decide_s3("worker", "s3:PutObject", key, {**creates, condition: "*"})
            yield _expect(f"{what} is written with {condition}", True, decision)
        decision = access.decide_s3("worker", "s3:PutObject", key, creates)
        yield _expect(f"{what} is written over whatever is there", False, decision)
    parts = {"s3:ObjectCreationOperation": "false"}
    yield _expect("a part of a large manifest", True, access.decide_s3("worker", "s3:PutObject", manifest, parts))
    for what, context in (
        ("without TLS", {"aws:SecureTransport": "false"}),
        ("by TLS 1.1", {"s3:TlsVersion": "1.1"}),
        ("with S3's own key", {"s3:x-amz-server-side-encryption": "AES256"}),
        (
            "with somebody else's key",
            {
                "s3:x-amz-server-side-encryption": "aws:kms",
                "s3:x-amz-server-side-encryption-aws-kms-key-id": f"arn:aws:kms:{REGION}:000000000000:key/1",
            },
        ),
    ):
        decision = access.decide_s3("worker", "s3:PutObject", plain, {**creates, **context})
        yield _expect(f"an object is written {what}", False, decision)
    for bucket in access.stack.of("aws_s3_bucket"):
        anyone = Request("s3:GetObject", f"{bucket.values['arn']}/x", TLS, "arn:aws:iam::000000000000:role/stranger")
        decision = decide([], anyone, resource=access._guards(anyone.resource))
        yield _expect(f"a stranger reads {bucket.values['bucket']}", False, decision)


@dataclass(frozen=True)
class _Launch:
    """What Ray's autoscaler asks of EC2 to have a worker, and who pays attention to which part."""

    template: str
    subnet: str
    group: str
    image: str
    role: str
    cluster: str
    type: str
    tokens: str = "required"
    encrypted: str = "true"
    public: str | None = None

    def requests(self) -> Iterator[tuple[str, str, dict[str, str]]]:
        tag = {"aws:RequestTag/ray-cluster-name": self.cluster} if self.cluster else {}
        common = {"ec2:LaunchTemplate": self.template} if self.template else {}
        instance = {**common, **tag, "ec2:MetadataHttpTokens": self.tokens, "ec2:InstanceType": self.type}
        yield "ec2:RunInstances", f"{EC2}:instance/*", instance
        yield "ec2:RunInstances", f"{EC2}:volume/*", {**common, "ec2:Encrypted": self.encrypted}
        public = {} if self.public is None else {"ec2:AssociatePublicIpAddress": self.public}
        yield "ec2:RunInstances", f"{EC2}:network-interface/*", {**common, **public}
        for resource in (self.template, self.subnet, self.group, self.image):
            if resource:
                yield "ec2:RunInstances", resource, common
        yield "ec2:CreateTags", f"{EC2}:instance/*", {**tag, "ec2:CreateAction": "RunInstances"}
        yield "iam:PassRole", self.role, {"iam:PassedToService": "ec2.amazonaws.com"}


def _launches(access: Access) -> Iterator[Expectation]:
    templates = access.templates()
    mine = [t for n, t in templates.items() if n.startswith(f"{access.cluster}-") and n != f"{access.cluster}-head"]
    workers = {t.values["name"]: t for t in mine}
    group = next(
        g.values["arn"] for g in access.stack.of("aws_security_group") if g.values["name"] == f"{access.cluster}-nodes"
    )
    subnets = [s.values["arn"] for s in access.stack.of("aws_subnet")]
    first = next(iter(workers.values())).values
    good = _Launch(
        template=first["arn"],
        subnet=subnets[0],
        group=group,
        image=f"arn:aws:ec2:{REGION}::image/{first['image_id']}",
        role=access.arn("worker"),
        cluster=access.cluster,
        type=first["instance_type"],
    )

    def may(kind: str, launch: _Launch) -> Decision:
        for action, resource, context in launch.requests():
            decision = access.decide(kind, action, resource, **context)
            if not decision:
                return replace(decision, reason=f"{action} on {resource}: {decision.reason}")
        return Decision(True, "allowed")

    for name, template in workers.items():
        of_it = replace(good, template=template.values["arn"], type=template.values["instance_type"])
        yield _expect(f"the head launches {name}", True, may("head", of_it))
    for subnet in subnets:
        yield _expect(f"the head launches in {subnet}", True, may("head", replace(good, subnet=subnet)))
    other = f"{EC2}:launch-template/lt-0000000000000000f"
    for what, launch in (
        ("of another cluster", replace(good, cluster="somebody-elses")),
        ("without the cluster's tag", replace(good, cluster="")),
        ("from another launch template", replace(good, template=other)),
        ("from no launch template", replace(good, template="")),
        ("of a type that no pool has", replace(good, type="u7in-32tb.224xlarge")),
        ("that answers IMDSv1", replace(good, tokens="optional")),
        ("with an open disk", replace(good, encrypted="false")),
        ("with a public address", replace(good, public="true")),
        ("in another subnet", replace(good, subnet=f"{EC2}:subnet/subnet-0000000000000000f")),
        ("in another security group", replace(good, group=f"{EC2}:security-group/sg-0000000000000000f")),
        ("from another image", replace(good, image=f"arn:aws:ec2:{REGION}::image/ami-0000000000000000f")),
        ("with the head's role", replace(good, role=access.arn("head"))),
        ("with an administrator's role", replace(good, role=f"arn:aws:iam::{ACCOUNT}:role/Administrator")),
    ):
        yield _expect(f"the head launches a machine {what}", False, may("head", launch))
    yield _expect("a worker launches a worker", False, may("worker", good))


def _machines(access: Access) -> Iterator[Expectation]:
    instance = f"{EC2}:instance/i-0123456789abcdef0"
    own, others = ({"aws:ResourceTag/ray-cluster-name": name} for name in (access.cluster, "somebody-elses"))
    ends = "ec2:TerminateInstances"
    yield _expect("the head ends its workers", True, access.decide("head", ends, instance, **own))
    yield _expect("the head ends another cluster's", False, access.decide("head", ends, instance, **others))
    yield _expect("the head ends a machine without tags", False, access.decide("head", ends, instance))
    yield _expect("a worker ends its neighbour", False, access.decide("worker", ends, instance, **own))
    status = {"aws:TagKeys": "ray-node-status"}
    name = {"aws:TagKeys": "ray-cluster-name"}
    tags = "ec2:CreateTags"
    yield _expect("the head tags its workers", True, access.decide("head", tags, instance, **own, **status))
    yield _expect("the head takes over others'", False, access.decide("head", tags, instance, **others, **status))
    yield _expect("the head renames a cluster's machines", False, access.decide("head", tags, instance, **own, **name))
    yield _expect("the head sees instances", True, access.decide("head", "ec2:DescribeInstances", "*"))
    passed = {"iam:PassedToService": "lambda.amazonaws.com"}
    yield _expect(
        "the head gives the workers' role to a function",
        False,
        access.decide("head", "iam:PassRole", access.arn("worker"), **passed),
    )
    for kind in ("head", "worker"):
        role = access._role(kind)
        for service, allowed in (("ec2.amazonaws.com", True), ("lambda.amazonaws.com", False)):
            asked = Request("sts:AssumeRole", role["arn"], {}, service)
            decision = decide([], asked, resource=[role["assume_role_policy"]])
            yield _expect(f"{service} takes the role {kind}", allowed, decision)
        stranger = Request("sts:AssumeRole", role["arn"], {}, "arn:aws:iam::000000000000:root")
        yield _expect(
            f"a stranger takes the role {kind}", False, decide([], stranger, resource=[role["assume_role_policy"]])
        )


def _secrets(access: Access) -> Iterator[Expectation]:
    gets = "secretsmanager:GetSecretValue"
    token = next(
        s.values
        for s in access.stack.of("aws_secretsmanager_secret")
        if s.values["name"] == f"{access.cluster}/ray-token"
    )
    via = {"kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com"}
    foreign = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:payroll-abcdef"
    for kind in ("head", "worker"):
        yield _expect(f"{kind} reads the token", True, access.decide(kind, gets, token["arn"]))
        yield _expect(f"{kind} reads another secret", False, access.decide(kind, gets, foreign))
        key = token["kms_key_id"]
        yield _expect(f"{kind} opens the token's key", True, access.decide(kind, "kms:Decrypt", key, **via))
        yield _expect(f"{kind} opens it for itself", False, access.decide(kind, "kms:Decrypt", key))
        other = {"kms:ViaService": f"ssm.{REGION}.amazonaws.com"}
        yield _expect(
            f"{kind} opens it through another service", False, access.decide(kind, "kms:Decrypt", key, **other)
        )


def _sessions(access: Access) -> Iterator[Expectation]:
    """Sessions of people, which take the right to the machine and the right to the document."""
    (policy,) = (
        p.values["policy"]
        for p in access.stack.of("aws_iam_policy")
        if p.values["name"] == f"{access.cluster}-operator"
    )
    head, worker, other = (
        {"ssm:resourceTag/ray-cluster-name": cluster, "ssm:resourceTag/ray-node-type": kind}
        for cluster, kind in ((access.cluster, "head"), (access.cluster, "worker"), ("somebody-elses", "head"))
    )

    def opens(tags: dict[str, str], document: str, check: str = "true") -> Decision:
        checked = {"ssm:SessionDocumentAccessCheck": check}
        machine = decide(
            [policy], Request("ssm:StartSession", f"{EC2}:instance/i-0123456789abcdef0", {**tags, **checked})
        )
        there = decide([policy], Request("ssm:StartSession", document, checked))
        return there if machine else machine

    forwarding = f"arn:aws:ssm:{REGION}::document/AWS-StartPortForwardingSession"
    shell = f"arn:aws:ssm:{REGION}:{ACCOUNT}:document/SSM-SessionManagerRunShell"
    yield _expect("an operator forwards a port of the head", True, opens(head, forwarding))
    yield _expect("an operator forwards a port of a worker", False, opens(worker, forwarding))
    yield _expect("an operator forwards a port of another cluster", False, opens(other, forwarding))
    yield _expect("an operator opens a shell", False, opens(head, shell))
    yield _expect("an operator opens a shell by naming no document", False, opens(head, forwarding, check="false"))


def _run() -> Outcome:
    found = {name: expectations(applied(name)) for name in ENVIRONMENTS}
    everything = [expectation for of_one in found.values() for expectation in of_one]
    wrong = [
        f"{name}: {e.what}: {'must' if e.allowed else 'must not'}, but {e.why}"
        for name, of_one in found.items()
        for e in of_one
        if not e.met
    ]
    allowed = sum(e.allowed for e in everything)
    return Outcome(
        ok=not wrong and allowed > 0 and len(everything) >= 100,
        measured=f"{len(everything)} requests decided in {len(found)} environments, {len(wrong)} of them wrongly",
        details={"must_pass": allowed, "must_not_pass": len(everything) - allowed, "wrong": wrong},
    )


ROWS = [
    Row(
        name="iam",
        bar="every request of at least 100 is decided as it must be: no ec2:*, iam:* or deletion of data for a worker",
        run=_run,
        seconds=40,
    )
]
