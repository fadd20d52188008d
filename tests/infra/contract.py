"""Promises that hold for every applied environment, whatever its HCL looks like: one function per
promise, which yields the violations.

The .tftest.hcl look at modules from inside, with values made for the test; this looks at whole
environments from outside.
"""

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterator

from tests.infra.iam import Request, decide
from tests.infra.stack import ENVIRONMENTS, SECRET, Resource, Stack

Promise = Callable[[Stack], Iterator[str]]
OPEN = {"0.0.0.0/0", "::/0"}
DESCRIBED = re.compile(
    r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}"
)  # characters that EC2 accepts in security groups and rules
ACCOUNT, STRANGER = "123456789012", "000000000000"


def no_way_in_or_out(stack: Stack) -> Iterator[str]:
    """No security group, route or load balancer opens the network."""
    for rule in stack.of(
        "aws_vpc_security_group_ingress_rule", "aws_vpc_security_group_egress_rule", "aws_security_group_rule"
    ):
        if OPEN & {rule.values.get("cidr_ipv4"), rule.values.get("cidr_ipv6"), *(rule.values.get("cidr_blocks") or ())}:
            yield f"{rule.address} is open to everybody"
        first, last = rule.values.get("from_port"), rule.values.get("to_port")
        if "ingress" in rule.type and first is not None and first <= 22 <= last:
            yield f"{rule.address} opens SSH"
    for group in stack.of("aws_security_group", "aws_default_security_group"):
        for block in [*(group.values.get("ingress") or ()), *(group.values.get("egress") or ())]:
            if OPEN & {*(block.get("cidr_blocks") or ()), *(block.get("ipv6_cidr_blocks") or ())}:
                yield f"{group.address} is open to everybody"
    for way in stack.of(
        "aws_internet_gateway",
        "aws_nat_gateway",
        "aws_eip",
        "aws_vpc_peering_connection",
        "aws_egress_only_internet_gateway",
    ):
        yield f"{way.address} leads out of the network"
    for balancer in stack.of("aws_lb"):
        if balancer.values.get("internal") is not True:
            yield f"{balancer.address} can be reached from outside"
    for subnet in stack.of("aws_subnet"):
        if subnet.values.get("map_public_ip_on_launch"):
            yield f"{subnet.address} gives public addresses"
    if not stack.of("aws_default_security_group"):
        yield "the default security group of the VPC is left open"


def descriptions_are_taken(stack: Stack) -> Iterator[str]:
    """EC2 refuses a security group or rule because of one character, long after the plan."""
    for found in stack.of(
        "aws_security_group", "aws_vpc_security_group_ingress_rule", "aws_vpc_security_group_egress_rule"
    ):
        inside = [*(found.values.get("ingress") or ()), *(found.values.get("egress") or ())]
        for text in [found.values["description"], *(block["description"] for block in inside)]:
            if text and not DESCRIBED.fullmatch(text):
                yield f"{found.address} is described as {text!r}, which EC2 does not take"


def endpoints_lead_home(stack: Stack) -> Iterator[str]:
    """Through the endpoints only this account acts, and in S3 only on its own buckets: stolen
    data has no way out."""
    for endpoint in stack.of("aws_vpc_endpoint"):
        policy, of_s3 = endpoint.values["policy"], endpoint.values["service_name"].endswith(".s3")
        for principal, resource, allowed in (
            (ACCOUNT, ACCOUNT, True),
            (STRANGER, ACCOUNT, False),
            *([(ACCOUNT, STRANGER, False)] if of_s3 else []),
        ):
            context = {"aws:PrincipalAccount": principal, "aws:ResourceAccount": resource}
            asked = Request("s3:PutObject", "arn:aws:s3:::any/key", context, f"arn:aws:iam::{principal}:role/any")
            if bool(decide([], asked, resource=[policy])) is not allowed:
                yield f"{endpoint.address} {'refuses' if allowed else 'lets'} {principal} act on what is {resource}'s"


def machines_are_closed(stack: Stack) -> Iterator[str]:
    """IMDSv2 one hop away, no key pair, no public address, encrypted disks, ended when they
    power off."""
    for template in stack.of("aws_launch_template"):
        values, (metadata,) = template.values, template.values["metadata_options"] or ({},)
        if metadata.get("http_tokens") != "required" or metadata.get("http_put_response_hop_limit") != 1:
            yield f"{template.address} answers metadata without a token or to more than one hop"
        if values.get("key_name"):
            yield f"{template.address} has a key pair"
        for card in values["network_interfaces"]:
            if card.get("associate_public_ip_address") != "false":
                yield f"{template.address} may get a public address"
        disks = [disk["ebs"][0] for disk in values["block_device_mappings"]]
        if not disks or not all(disk["encrypted"] == "true" and disk["kms_key_id"] for disk in disks):
            yield f"{template.address} has a disk without a key of ours"
        if values.get("instance_initiated_shutdown_behavior") != "terminate":
            yield f"{template.address} stays when it powers off"
        if not values.get("image_id", "").startswith("ami-"):
            yield f"{template.address} names no image"


def disks_hold_the_image(stack: Stack) -> Iterator[str]:
    """EC2 launches nothing on a disk smaller than the one that the image was made on."""
    recipe = (stack.folder.parents[1] / "image/main.tf").read_text()
    (least,) = map(int, re.findall(r"volume_size += (\d+)", recipe))
    for template in stack.of("aws_launch_template"):
        for disk in template.values["block_device_mappings"]:
            if disk["ebs"][0]["volume_size"] < least:
                yield f"{template.address} has a disk of {disk['ebs'][0]['volume_size']} GiB for an image of {least}"


def efa_has_its_traffic(stack: Stack) -> Iterator[str]:
    """Cards of one type in one subnet and placement group, and all traffic within the group both
    ways."""
    templates = [t for t in stack.of("aws_launch_template") if t.values["network_interfaces"]]
    groups = [g.values["id"] for g in stack.of("aws_security_group") if g.values["name"].endswith("-nodes")]
    for nodes, direction in ((nodes, direction) for nodes in groups for direction in ("ingress", "egress")):
        if not any(
            rule.values["security_group_id"] == rule.values["referenced_security_group_id"] == nodes
            and rule.values["ip_protocol"] == "-1"
            for rule in stack.of(f"aws_vpc_security_group_{direction}_rule")
        ):
            yield f"nodes cannot talk to each other: no {direction} of all traffic within {nodes}, which EFA needs"
    for template in templates:
        cards = template.values["network_interfaces"]
        if sorted(card["network_card_index"] for card in cards) != list(range(len(cards))):
            yield f"{template.address}: its interfaces are not one for each network card"
        if {card["interface_type"] for card in cards} - {"efa", "efa-only"} or cards[0]["interface_type"] != "efa":
            yield f"{template.address}: its interfaces are not EFA's"
        if len({card["subnet_id"] for card in cards}) != 1 or any(
            set(card["security_groups"]) - set(groups) for card in cards
        ):
            yield f"{template.address}: its cards are in several subnets, or in another security group"
        reserved = [market["market_type"] for market in template.values["instance_market_options"]] == [
            "capacity-block"
        ]
        if (
            not template.values["placement"] and not reserved
        ):  # machines of a capacity block are close to each other already
            yield f"{template.address} has EFA and no placement group"


def data_is_kept(stack: Stack) -> Iterator[str]:
    """Rotating keys of our own, no public bucket, versions, TLS, and a database that is hard to
    lose."""
    for key in stack.of("aws_kms_key"):
        for statement in json.loads(key.values["policy"])["Statement"]:
            if statement["Effect"] == "Allow" and statement["Principal"] in ("*", {"AWS": "*"}):
                yield f"{key.address} is everybody's"
        if not key.values["enable_key_rotation"] or (key.values["deletion_window_in_days"] or 30) < 7:
            yield f"{key.address} is not rotated, or gone within days"
    buckets = {b.values["id"]: b for b in stack.of("aws_s3_bucket")}
    for kind, what in (
        ("aws_s3_bucket_public_access_block", "public access block"),
        ("aws_s3_bucket_versioning", "versions"),
        ("aws_s3_bucket_server_side_encryption_configuration", "encryption"),
        ("aws_s3_bucket_policy", "policy"),
        ("aws_s3_bucket_ownership_controls", "ownership controls"),
        ("aws_s3_bucket_lifecycle_configuration", "lifecycle"),
    ):
        for name in buckets.keys() - {r.values["bucket"] for r in stack.of(kind)}:
            yield f"{buckets[name].address} has no {what}"
    logged = {logging.values["bucket"] for logging in stack.of("aws_s3_bucket_logging")}
    for name in (name for name in buckets if "-logs-" not in name and name not in logged):
        yield f"{buckets[name].address} keeps no access log"
    for block in stack.of("aws_s3_bucket_public_access_block"):
        if not all(block.values[name] for name in block.values if name.startswith(("block_", "ignore_", "restrict_"))):
            yield f"{block.address} leaves a way to make the bucket public"
    for versions in stack.of("aws_s3_bucket_versioning"):
        if versions.values["versioning_configuration"][0]["status"] != "Enabled":
            yield f"{versions.address} keeps no versions"
    for encryption in stack.of("aws_s3_bucket_server_side_encryption_configuration"):
        rule = encryption.values["rule"][0]["apply_server_side_encryption_by_default"][0]
        if rule["sse_algorithm"] != "aws:kms" and "-logs-" not in encryption.values["bucket"]:
            yield f"{encryption.address} encrypts with no key of ours"
    for lifecycle in stack.of("aws_s3_bucket_lifecycle_configuration"):
        if not any(rule["abort_incomplete_multipart_upload"] for rule in lifecycle.values["rule"]):
            yield f"{lifecycle.address} keeps unfinished uploads for ever"
    for policy in stack.of("aws_s3_bucket_policy"):
        for statement in json.loads(policy.values["policy"])["Statement"]:
            if statement["Effect"] == "Allow" and statement["Principal"] in ("*", {"AWS": "*"}):
                yield f"{policy.address} lets everybody in"
    for group in stack.of("aws_cloudwatch_log_group"):
        if not group.values["kms_key_id"] or not group.values["retention_in_days"]:
            yield f"{group.address} has no key of ours, or keeps logs for ever"
    for secret in stack.of("aws_secretsmanager_secret"):
        if not secret.values["kms_key_id"]:
            yield f"{secret.address} has no key of ours"


def the_database_is_kept(stack: Stack) -> Iterator[str]:
    for database in stack.of("aws_db_instance"):
        values = database.values
        if values.get("publicly_accessible"):
            yield f"{database.address} can be reached from outside"
        if not values.get("storage_encrypted") or not values.get("kms_key_id"):
            yield f"{database.address} has a disk without a key of ours"
        if not values.get("iam_database_authentication_enabled"):
            yield f"{database.address} does not take IAM's word for who connects"
        if (values.get("backup_retention_period") or 0) < 7:
            yield f"{database.address} is backed up for less than a week"
        if stack.name == "prod" and not (values.get("deletion_protection") and not values.get("skip_final_snapshot")):
            yield f"{database.address} can be deleted without a trace"
        groups = {group.values["name"] for group in stack.of("aws_cloudwatch_log_group")}
        for log in values["enabled_cloudwatch_logs_exports"]:
            if f"/aws/rds/instance/{values['identifier']}/{log}" not in groups:
                yield f"{database.address} leaves its log {log} to a log group that RDS makes"
        if values.get("password"):
            yield f"{database.address} has its password in the state"
    for listener in stack.of("aws_lb_listener"):
        if listener.values["protocol"] != "HTTPS" or "TLS13" not in (listener.values["ssl_policy"] or ""):
            yield f"{listener.address} speaks something else than TLS 1.3 and 1.2"
    if stack.name == "prod":
        for bucket in stack.of("aws_s3_bucket"):
            if bucket.values["force_destroy"]:
                yield f"{bucket.address} is deleted with what is in it"
        for balancer in stack.of("aws_lb"):
            if not balancer.values["enable_deletion_protection"]:
                yield f"{balancer.address} can be deleted by a slip"


def mlflow_asks_who_comes(stack: Stack) -> Iterator[str]:
    """Passwords, one name, TLS to its database; its own password from Secrets Manager."""
    servers = [t for t in stack.of("aws_launch_template") if "mlflow server" in user_data(t)]
    if len(servers) != 1:
        yield f"there are {len(servers)} servers of MLflow"
    for server in servers:
        script = user_data(server)
        if "--app-name basic-auth" not in script or not re.search(
            r"^admin_password=\$\(secret '[^']+'\)$", script, re.MULTILINE
        ):
            yield f"{server.address} lets everybody in"
        if not re.search(r"--allowed-hosts '[^'*]*[a-z]", script):
            yield f"{server.address} answers to any name"
        if "sslmode=verify-full" not in script or "--ssl-certfile" not in script:
            yield f"{server.address} speaks without TLS"
    for group in stack.of("aws_db_parameter_group"):
        if {"name": "rds.force_ssl", "value": "1"} not in [
            {"name": p["name"], "value": p["value"]} for p in group.values["parameter"]
        ]:
            yield f"{group.address} takes connections without TLS"


def secrets_stay_secret(stack: Stack) -> Iterator[str]:
    """Secrets are in no state, output, user-data or policy."""
    if SECRET in stack.state:
        yield "a secret is in the state"
    for template in stack.of("aws_launch_template"):
        script = user_data(template)
        if SECRET in script or re.search(r"(AUTH_TOKEN|SECRET_ACCESS_KEY|PASSWORD)=(?!\$)\S", script):
            yield f"{template.address} has a secret in its user-data"
    if SECRET in json.dumps(stack.outputs):
        yield "a secret is in an output"


def boot_scripts_are_sound(stack: Stack) -> Iterator[str]:
    """Boot scripts parse, end at an error, fit into EC2's limit, and install nothing."""
    for template in stack.of("aws_launch_template"):
        script = user_data(template)
        where = f"{template.address}: its boot script"
        parsed = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        if not script.startswith("#!/bin/bash\n") or parsed.returncode:
            yield f"{where} does not parse: {parsed.stderr}"
        if len(script.encode()) > 16384:
            yield f"{where} is longer than the 16384 bytes that EC2 takes"
        if re.search(r"pip3? install|curl[^\n]*\| *(ba)?sh|\b(yum|apt|apt-get|dnf) ", script):
            yield f"{where} installs something"
        if "\nset -euo pipefail\n" not in script:
            yield f"{where} goes on after an error"


def ray_is_closed(stack: Stack) -> Iterator[str]:
    """Token authentication, the dashboard on loopback, nothing on every address, metadata by
    token alone."""
    for template in ray_templates(stack):
        script = user_data(template)
        where = f"{template.address}: its boot script"
        if not re.search(r"^export .*RAY_AUTH_MODE=token.*RAY_AUTH_TOKEN_PATH=", script, re.MULTILINE):
            yield f"{where} starts Ray without token authentication"
        if "X-aws-ec2-metadata-token" not in script:
            yield f"{where} asks for metadata without a token"
        if "0.0.0.0" in script:
            yield f"{where} listens everywhere"
        if "--head" in script and "--dashboard-host=127.0.0.1" not in script:
            yield f"{where} shows the dashboard to others"
        if "--head" in script and not ("--autoscaling-config=" in script and "available_node_types" in script):
            yield f"{where} starts a head that launches no workers"
        if not re.search(r"^install -m 0600 .*token'?$", script, re.MULTILINE):
            yield f"{where} lets others read the token"


def ray_templates(stack: Stack) -> list[Resource]:
    return [t for t in stack.of("aws_launch_template") if "ray start" in user_data(t)]


def somebody_is_told(stack: Stack) -> Iterator[str]:
    """Flow logs, alarms and a budget."""
    for kind, what in (
        ("aws_flow_log", "flow log"),
        ("aws_cloudwatch_metric_alarm", "alarm"),
        ("aws_budgets_budget", "budget"),
        ("aws_sns_topic", "topic for alarms"),
    ):
        if not stack.of(kind):
            yield f"there is no {what}"
    for topic in stack.of("aws_sns_topic"):
        if not topic.values["kms_master_key_id"]:
            yield f"{topic.address} has no key of ours"
    for alarm in stack.of("aws_cloudwatch_metric_alarm"):
        if not alarm.values["alarm_actions"]:
            yield f"{alarm.address} tells nobody"


def the_budget_counts_this_environment(stack: Stack) -> Iterator[str]:
    """Environments share one bill, so each counts by its own tag, which everything made for it or
    launched by it carries."""
    tagged = [(r.address, r.values["tags_all"]) for r in stack.resources if "tags_all" in r.values]
    for group in stack.of("aws_autoscaling_group"):
        tagged.append((group.address, {tag["key"]: tag["value"] for tag in group.values["tag"]}))
    for template in stack.of("aws_launch_template"):
        tagged += [(template.address, launched["tags"]) for launched in template.values["tag_specifications"]]
    for budget in stack.of("aws_budgets_budget"):
        counted = [value for cost in budget.values["cost_filter"] for value in cost["values"]]
        if counted != [f"user:stack$memlm-{stack.name}"]:
            yield f"{budget.address} counts {counted}, which is not this environment alone"
    for address, tags in tagged:
        if tags.get("stack") != f"memlm-{stack.name}":
            yield f"{address} is in no budget: its tags are {tags}"


def machines_boot_when_their_ways_are_there(stack: Stack) -> Iterator[str]:
    """A group launches as soon as it is made: after the endpoints, and after the rules of its
    own module and of the network's."""
    resources = json.loads(stack.state)["resources"]
    address = {
        id(r): ".".join([*re.findall(r"module\.\w+", r.get("module", "")), r["type"], r["name"]]) for r in resources
    }
    for group in (r for r in resources if r["type"] == "aws_autoscaling_group"):
        own = address[id(group)].rpartition(".aws_")[0]
        needed = {
            address[id(r)]
            for r in resources
            if r["type"].startswith(("aws_vpc_endpoint", "aws_vpc_security_group_"))
            and address[id(r)].rpartition(".aws_")[0] in (own, "module.platform.module.network")
        }
        for instance in group["instances"]:
            for missing in sorted(needed - set(instance["dependencies"])):
                yield f"{address[id(group)]} does not wait for {missing}"


def each_cluster_has_one_head(stack: Stack) -> Iterator[str]:
    heads = []
    for group in stack.of("aws_autoscaling_group"):
        values = group.values
        if (values["min_size"], values["max_size"]) != (1, 1):
            yield f"{group.address} is not a group of one"
        tags = {tag["key"]: tag["value"] for tag in values["tag"] if tag["propagate_at_launch"]}
        if tags.get("ray-node-type") == tags.get("ray-user-node-type") == "head":
            heads.append(tags.get("ray-cluster-name"))
    wanted = [f"memlm-{stack.name}-{cluster}" for cluster in ENVIRONMENTS.get(stack.name, ())]
    if sorted(map(str, heads)) != sorted(wanted):
        yield f"Ray would know the heads of {heads}, not of {wanted}"


PROMISES: list[Promise] = [
    no_way_in_or_out,
    descriptions_are_taken,
    endpoints_lead_home,
    machines_are_closed,
    disks_hold_the_image,
    efa_has_its_traffic,
    data_is_kept,
    the_database_is_kept,
    mlflow_asks_who_comes,
    secrets_stay_secret,
    boot_scripts_are_sound,
    ray_is_closed,
    somebody_is_told,
    the_budget_counts_this_environment,
    machines_boot_when_their_ways_are_there,
    each_cluster_has_one_head,
]


def broken(stack: Stack) -> list[str]:
    return [f"{promise.__name__}: {what}" for promise in PROMISES for what in promise(stack)]


def user_data(template: Resource) -> str:
    return base64.b64decode(template.values["user_data"]).decode()
