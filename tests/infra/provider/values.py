"""What AWS would answer: ids, ARNs and data sources, made up in AWS's own form.

Policies are judged on ARNs, so those of the types that policies name are exact; the rest are
plausible. Zones, instance types and where they are offered come from the tables in moto, which
are copies of EC2's own answers.
"""

import fnmatch
import functools
import gzip
import json
import os
import re
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ACCOUNT = "123456789012"
Values = dict[str, Any]

# Of a resource: its id, from its arguments. `{new}` is 17 hex digits, `{uuid}` a UUID, anything
# else an argument.
IDS = {
    "aws_autoscaling_group": "{name}",
    "aws_cloudwatch_log_group": "{name}",
    "aws_db_instance": "db-{NEW}",
    "aws_db_parameter_group": "{name}",
    "aws_db_subnet_group": "{name}",
    "aws_ebs_volume": "vol-{new}",
    "aws_ec2_capacity_reservation": "cr-{new}",
    "aws_eip": "eipalloc-{new}",
    "aws_flow_log": "fl-{new}",
    "aws_iam_instance_profile": "{name}",
    "aws_iam_policy": "{arn}",
    "aws_iam_role": "{name}",
    "aws_iam_role_policy": "{role}:{name}",
    "aws_instance": "i-{new}",
    "aws_internet_gateway": "igw-{new}",
    "aws_kms_alias": "{name}",
    "aws_kms_key": "{uuid}",
    "aws_launch_template": "lt-{new}",
    "aws_lb": "{arn}",
    "aws_lb_listener": "{arn}",
    "aws_lb_target_group": "{arn}",
    "aws_nat_gateway": "nat-{new}",
    "aws_network_acl": "acl-{new}",
    "aws_placement_group": "{name}",
    "aws_route_table": "rtb-{new}",
    "aws_s3_bucket": "{bucket}",
    "aws_secretsmanager_secret": "{arn}",
    "aws_security_group": "sg-{new}",
    "aws_sns_topic": "{arn}",
    "aws_subnet": "subnet-{new}",
    "aws_vpc": "vpc-{new}",
    "aws_vpc_endpoint": "vpce-{new}",
    "aws_vpc_security_group_egress_rule": "sgr-{new}",
    "aws_vpc_security_group_ingress_rule": "sgr-{new}",
}
# Of a resource: the part of its ARN after `arn:aws:`.
ARNS = {
    "aws_acm_certificate": "acm:{region}:{account}:certificate/{uuid}",
    "aws_autoscaling_group": "autoscaling:{region}:{account}:autoScalingGroup:{uuid}:autoScalingGroupName/{name}",
    "aws_cloudwatch_log_group": "logs:{region}:{account}:log-group:{name}",
    "aws_cloudwatch_metric_alarm": "cloudwatch:{region}:{account}:alarm:{alarm_name}",
    "aws_db_instance": "rds:{region}:{account}:db:{identifier}",
    "aws_ecr_repository": "ecr:{region}:{account}:repository/{name}",
    "aws_ecs_cluster": "ecs:{region}:{account}:cluster/{name}",
    "aws_ecs_task_definition": "ecs:{region}:{account}:task-definition/{family}:1",
    "aws_iam_instance_profile": "iam::{account}:instance-profile/{name}",
    "aws_iam_policy": "iam::{account}:policy/{name}",
    "aws_iam_role": "iam::{account}:role/{name}",
    "aws_instance": "ec2:{region}:{account}:instance/{id}",
    "aws_kms_alias": "kms:{region}:{account}:{name}",
    "aws_kms_key": "kms:{region}:{account}:key/{id}",
    "aws_launch_template": "ec2:{region}:{account}:launch-template/{id}",
    "aws_lb": "elasticloadbalancing:{region}:{account}:loadbalancer/app/{name}/{new}",
    "aws_lb_listener": "elasticloadbalancing:{region}:{account}:listener/app/stub/{new}",
    "aws_lb_target_group": "elasticloadbalancing:{region}:{account}:targetgroup/{name}/{new}",
    "aws_placement_group": "ec2:{region}:{account}:placement-group/{name}",
    "aws_s3_bucket": "s3:::{bucket}",
    "aws_secretsmanager_secret": "secretsmanager:{region}:{account}:secret:{name}-Stub01",
    "aws_security_group": "ec2:{region}:{account}:security-group/{id}",
    "aws_sns_topic": "sns:{region}:{account}:{name}",
    "aws_subnet": "ec2:{region}:{account}:subnet/{id}",
    "aws_vpc": "ec2:{region}:{account}:vpc/{id}",
}
# Of any resource: a computed attribute of this name.
NAMED: dict[str, Any] = {
    "account_id": ACCOUNT,
    "address": "{identifier}.stub.{region}.rds.amazonaws.com",
    "bucket_domain_name": "{bucket}.s3.amazonaws.com",
    "bucket_regional_domain_name": "{bucket}.s3.{region}.amazonaws.com",
    "dns_name": "{name}-{new}.{region}.elb.amazonaws.com",
    "endpoint": "{identifier}.stub.{region}.rds.amazonaws.com:5432",
    "has_secret_string_wo": True,
    "key_id": "{id}",
    "latest_version": 1,
    "default_version": 1,
    "owner_id": ACCOUNT,
    "port": 5432,
    "prefix_list_id": "pl-63a5400a",
    "repository_url": f"{ACCOUNT}.dkr.ecr.{{region}}.amazonaws.com/{{name}}",
    "resource_id": "db-{NEW}",
    "revision": 1,
    "version": 1,
}


def computed(type_name: str, name: str, kind: Any, known: Values, region: str) -> Any:
    """A value for a computed attribute; `known` are the arguments and what is already made up."""
    if name == "region":
        return region
    if name == "id" and type_name in IDS:
        return _format(IDS[type_name], type_name, known, region)
    if name == "arn":
        default = type_name.split("_")[1] + ":{region}:{account}:" + type_name + "/{id}"
        return "arn:aws:" + _format(ARNS.get(type_name, default), type_name, known, region)
    if name == "name" and kind == "string":
        return (known.get("name_prefix") or "terraform-") + _new()
    if name == "master_user_secret" and known.get("manage_master_user_password"):
        secret = f"arn:aws:secretsmanager:{region}:{ACCOUNT}:secret:rds!db-{uuid.uuid4()}-Stub01"
        key = known.get("master_user_secret_kms_key_id")
        return [{"kms_key_id": key, "secret_arn": secret, "secret_status": "active"}]
    if name in NAMED and (isinstance(NAMED[name], str) == (kind == "string")):
        value = NAMED[name]
        return _format(value, type_name, known, region) if isinstance(value, str) else value
    return _plain(name, kind)


def _plain(name: str, kind: Any) -> Any:
    if kind == "string":
        return f"{name.replace('_', '-')}-{_new()}"
    if kind in ("number", "bool"):
        return 0 if kind == "number" else False
    if kind[0] == "object":
        return {inner: _plain(inner, of) for inner, of in kind[1].items()}
    return {} if kind[0] == "map" else []


def _format(template: str, type_name: str, known: Values, region: str) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match[1]
        made = {"new": _new(), "NEW": _new().upper(), "uuid": str(uuid.uuid4()), "account": ACCOUNT, "region": region}
        if name in made:
            return made[name]
        if not isinstance(known.get(name), str):
            known[name] = computed(type_name, name, "string", known, region)
        return str(known[name])

    return re.sub(r"\{(\w+)\}", replace, template)


def _new() -> str:
    return uuid.uuid4().hex[:17]


# Data sources
# ------------------------------------------------------------------------------------------


class NotFound(Exception):
    """The object that a data source asks for does not exist."""


def read_data(type_name: str, config: Values, region: str) -> Values:
    """The answer of a data source; missing attributes are generated like a resource's computed
    attributes."""
    return DATA[type_name](config, region) if type_name in DATA else {}


def _zones(config: Values, region: str) -> Values:
    zones = [zone for zone in _zone_names(region) if zone not in (config.get("exclude_names") or ())]
    return {"id": region, "names": zones, "zone_ids": [f"{zone}-id" for zone in zones], "group_names": [region]}


def _offerings(config: Values, region: str) -> Values:
    by = config.get("location_type") or "region"
    wanted = {f["name"]: f["values"] for f in config.get("filter") or ()}
    pairs = {(o["InstanceType"], region if by == "region" else o["Location"]) for o in _offered(region)}

    def fits(value: str, name: str) -> bool:
        return name not in wanted or any(fnmatch.fnmatchcase(value, pattern) for pattern in wanted[name])

    found = sorted((kind, place) for kind, place in pairs if fits(kind, "instance-type") and fits(place, "location"))
    return {
        "id": region,
        "instance_types": [kind for kind, _ in found],
        "locations": [place for _, place in found],
        "location_types": [by] * len(found),
    }


def _instance_type(config: Values, region: str) -> Values:
    name = config["instance_type"]
    if not any(offer["InstanceType"] == name for offer in _offered(region)):
        raise NotFound(f"InvalidInstanceType: the instance type {name!r} does not exist in {region}")
    it = _table("instance_types.json.gz")[name]
    network, gpus = it["NetworkInfo"], it.get("GpuInfo", {})
    return {
        "id": name,
        "default_vcpus": it["VCpuInfo"]["DefaultVCpus"],
        "default_cores": it["VCpuInfo"].get("DefaultCores"),
        "memory_size": it["MemoryInfo"]["SizeInMiB"],
        "efa_supported": network["EfaSupported"],
        "efa_maximum_interfaces": network.get("EfaInfo", {}).get("MaximumEfaInterfaces", 0),
        "maximum_network_cards": network["MaximumNetworkCards"],
        "maximum_network_interfaces": network["MaximumNetworkInterfaces"],
        "network_performance": network["NetworkPerformance"],
        "supported_architectures": it["ProcessorInfo"]["SupportedArchitectures"],
        "supported_usages_classes": it["SupportedUsageClasses"],
        "supported_placement_strategies": it["PlacementGroupInfo"]["SupportedStrategies"],
        "total_gpu_memory": gpus.get("TotalGpuMemoryInMiB", 0),
        "gpus": [
            {
                "count": g["Count"],
                "manufacturer": g["Manufacturer"],
                "memory_size": g["MemoryInfo"]["SizeInMiB"],
                "name": g["Name"],
            }
            for g in gpus.get("Gpus", [])
        ],
        "current_generation": it["CurrentGeneration"],
        "hypervisor": it.get("Hypervisor"),
    }


@functools.cache
def _offered(region: str) -> list[dict[str, str]]:
    return list(_table(f"instance_type_offerings/availability-zone/{region}.json.gz"))


def _zone_names(region: str) -> list[str]:
    return sorted(
        {offer["Location"] for offer in _offered(region) if re.fullmatch(rf"{region}[a-z]", offer["Location"])}
    )


@functools.cache
def _table(name: str) -> Any:
    path = Path(os.environ["MEMLM_MOTO"]) / "ec2" / "resources" / name
    if not path.exists():
        raise NotFound(f"there is no such region: {name} is not among EC2's tables")
    return json.loads(gzip.decompress(path.read_bytes()))


def _policy_document(config: Values, region: str) -> Values:
    """The policy's JSON, merged and shortened as the real data source does it."""
    statements: list[Values] = []
    for source in config.get("source_policy_documents") or ():
        statements += json.loads(source).get("Statement", [])
    statements += [_statement(statement) for statement in config.get("statement") or ()]
    for source in config.get("override_policy_documents") or ():
        for statement in json.loads(source).get("Statement", []):
            sid = statement.get("Sid")
            statements = [kept for kept in statements if not sid or kept.get("Sid") != sid] + [statement]
    sids = [statement["Sid"] for statement in statements if statement.get("Sid")]
    if len(sids) != len(set(sids)):
        raise NotFound(f"duplicate Sid in a policy document: {sorted(sids)}")
    document: Values = {"Version": config.get("version") or "2012-10-17"}
    if config.get("policy_id"):
        document["Id"] = config["policy_id"]
    document["Statement"] = statements
    text = json.dumps(document, indent=2)
    return {
        "json": text,
        "minified_json": json.dumps(document, separators=(",", ":")),
        "id": str(zlib.crc32(text.encode())),
    }


def _statement(block: Values) -> Values:
    made: Values = {"Sid": block["sid"]} if block.get("sid") else {}
    made["Effect"] = block.get("effect") or "Allow"
    for argument, key in (("actions", "Action"), ("not_actions", "NotAction")):
        if block.get(argument):
            made[key] = _one_or_list(block[argument])
    for argument, key in (("resources", "Resource"), ("not_resources", "NotResource")):
        if block.get(argument):
            made[key] = _variables(_one_or_list(block[argument]))
    for argument, key in (("principals", "Principal"), ("not_principals", "NotPrincipal")):
        if block.get(argument):
            made[key] = _principals(block[argument])
    for condition in block.get("condition") or ():
        of_test = made.setdefault("Condition", {}).setdefault(condition["test"], {})
        of_test[condition["variable"]] = _variables(_one_or_list(condition["values"]))
    return made


def _principals(blocks: list[Values]) -> Any:
    if any(block["type"] == "*" for block in blocks):
        return "*"
    merged: dict[str, list[str]] = {}
    for block in blocks:
        merged.setdefault(block["type"], []).extend(block["identifiers"])
    return {kind: _one_or_list(identifiers) for kind, identifiers in merged.items()}


def _one_or_list(values: list[str]) -> Any:
    return values[0] if len(values) == 1 else sorted(values, reverse=True)


def _variables(value: Any) -> Any:
    if isinstance(value, list):
        return [_variables(one) for one in value]
    return value.replace("&{", "${")


def _image(config: Values, region: str) -> Values:
    return {"id": "ami-0abcdef1234567890", "image_id": "ami-0abcdef1234567890", "architecture": "x86_64"}


def _parameter(config: Values, region: str) -> Values:
    value = "ami-0abcdef1234567890" if "ami" in config["name"] else "stub"
    return {"id": config["name"], "value": value, "insecure_value": value, "type": "String", "version": 1}


def _endpoint_service(config: Values, region: str) -> Values:
    name = config.get("service_name") or f"com.amazonaws.{region}.{config.get('service')}"
    return {"service_name": name, "availability_zones": _zone_names(region)}


DATA: dict[str, Callable[[Values, str], Values]] = {
    "aws_ami": _image,
    "aws_availability_zones": _zones,
    "aws_caller_identity": lambda _, region: {
        "id": ACCOUNT,
        "account_id": ACCOUNT,
        "arn": f"arn:aws:iam::{ACCOUNT}:user/stub",
        "user_id": "AIDASTUB",
    },
    "aws_ec2_instance_type": _instance_type,
    "aws_ec2_instance_type_offerings": _offerings,
    "aws_ec2_managed_prefix_list": lambda config, _: {"id": "pl-63a5400a", "name": config.get("name")},
    "aws_iam_policy_document": _policy_document,
    "aws_partition": lambda _, region: {
        "id": "aws",
        "partition": "aws",
        "dns_suffix": "amazonaws.com",
        "reverse_dns_prefix": "com.amazonaws",
    },
    "aws_prefix_list": lambda config, _: {"id": "pl-63a5400a", "name": config.get("name")},
    "aws_region": lambda _, region: {"id": region, "name": region, "region": region, "description": region},
    "aws_service_principal": lambda config, _: {
        "name": f"{config.get('service_name')}.amazonaws.com",
        "id": f"{config.get('service_name')}.amazonaws.com",
    },
    "aws_ssm_parameter": _parameter,
    "aws_vpc_endpoint_service": _endpoint_service,
}
