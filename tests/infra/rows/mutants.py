"""Mutants of infra/, which its tests must catch: each is one plausible mistake in the HCL or a boot
script.

A mutant is applied to a copy. The module's .tftest.hcl look at it, then the promises
(contract.py) and the roles (least_privilege.py) of an environment that has it, then checkov,
until one objects. All must be caught; which caught which is in infra.json.
"""

import queue
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.infra.contract import broken
from tests.infra.frame import Outcome, Row
from tests.infra.offline import INFRA, Terraform, Unavailable, copy_infra, quick_terraform, terraform
from tests.infra.rows.checkov import check, unwaived
from tests.infra.rows.least_privilege import expectations
from tests.infra.stack import TerraformFailed, apply, run

AT_ONCE = 2
MUTANTS_AT_LEAST = 25
OPEN_RULE = """resource "aws_vpc_security_group_ingress_rule" "mutant" {{
  security_group_id = aws_security_group.{group}.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = {port}
  to_port           = {port}
}}

"""


class Unchanged(Exception):
    """A mutant whose place is missing or not unique, so that it would test nothing, or something
    else."""


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str  # below infra/
    old: str
    new: str
    environment: str = "dev"  # that is applied
    after: str = ""  # the old text is looked for behind this one

    @property
    def tests(self) -> str:
        """The module's test file."""
        return f"tests/{'nodes' if '/nodes/' in self.file else self.file.split('/')[1]}.tftest.hcl"

    def apply_to(self, text: str) -> str:
        """Blanks are taken as they come: `terraform fmt` moves them. Raises Unchanged."""
        start = 0
        if self.after:
            mark = re.search(_loose(self.after), text)
            if mark is None:
                raise Unchanged(f"{self.name}: {self.file} has no {self.after!r}")
            start = mark.end()
        places = list(re.finditer(_loose(self.old), text[start:]))
        if not places or (len(places) > 1 and not self.after):
            raise Unchanged(f"{self.name}: {self.file} has {self.old!r} {len(places)} times; say which by `after`")
        first, last = (start + end for end in places[0].span())
        mutated = text[:first] + self.new + text[last:]
        if mutated == text:
            raise Unchanged(f"{self.name}: the new text is the old one")
        return mutated


def _loose(text: str) -> str:
    return " +".join(map(re.escape, re.split(" +", text)))


CLUSTER, NODES, IAM = "modules/ray_cluster/main.tf", "modules/ray_cluster/nodes/main.tf", "modules/ray_cluster/iam.tf"
BOOT = "modules/ray_cluster/nodes/templates/node.sh.tftpl"
STORAGE, KEYS = "modules/storage/main.tf", "modules/storage/keys.tf"
NETWORK, MLFLOW = "modules/network/main.tf", "modules/mlflow/main.tf"
WATCH, ALARMS = "modules/observability/main.tf", "modules/observability/alarms.tf"

MUTANTS = [
    # Ways in and out
    Mutant("ssh_open_to_all", CLUSTER, "# --- The head ---\n", OPEN_RULE.format(group="nodes", port=22) + "# --- The head ---\n"),
    Mutant("dashboard_port_open", CLUSTER, "# --- The head ---\n", OPEN_RULE.format(group="nodes", port=8265) + "# --- The head ---\n"),
    Mutant("mlflow_open_to_all", MLFLOW, "# --- The database ---\n", OPEN_RULE.format(group="server", port=5000) + "# --- The database ---\n"),
    Mutant("endpoints_open_to_all", NETWORK, "cidr_ipv4         = var.cidr_block", 'cidr_ipv4         = "0.0.0.0/0"'),
    Mutant("nodes_reach_everything", CLUSTER, "referenced_security_group_id = var.network.endpoints_security_group_id", 'cidr_ipv4                    = "0.0.0.0/0"'),
    Mutant("default_group_left_open", NETWORK, 'resource "aws_default_security_group" "closed"', 'resource "aws_security_group" "closed"'),
    Mutant("subnets_public", NETWORK, "map_public_ip_on_launch = false", "map_public_ip_on_launch = true"),
    Mutant("internet_gateway", NETWORK, "# --- Ways to AWS services ---\n", 'resource "aws_internet_gateway" "mutant" {\n  vpc_id = aws_vpc.this.id\n}\n\n'),
    Mutant("efa_public_address", CLUSTER, 'associate_public_ip_address = "false"', 'associate_public_ip_address = "true"', environment="prod"),
    Mutant("s3_endpoint_for_anybodys_buckets", NETWORK, 'merge(local.as_this_account, { "aws:ResourceAccount" = local.account })', "local.as_this_account"),
    Mutant("endpoints_for_any_account", NETWORK, "Condition = { StringEquals = local.as_this_account }", 'Condition = { StringLike = { "aws:PrincipalAccount" = "*" } }'),
    Mutant("balancer_public", MLFLOW, "internal                   = true", "internal                   = false"),
    Mutant("balancer_without_tls", MLFLOW, 'protocol = "HTTPS"', 'protocol = "HTTP"', after='"aws_lb_listener"'),
    Mutant("balancer_old_tls", MLFLOW, "ELBSecurityPolicy-TLS13-1-2-2021-06", "ELBSecurityPolicy-2016-08"),
    Mutant("no_flow_log", NETWORK, 'resource "aws_flow_log" "all" {\n', 'resource "aws_flow_log" "all" {\n  count = 0\n'),
    Mutant("description_with_an_apostrophe", MLFLOW, '"Server of MLflow"', '"MLflow\'s server"', after='"aws_security_group" "server"'),
    # EFA
    Mutant("efa_without_egress", CLUSTER, 'ip_protocol                  = "-1"', 'ip_protocol                  = "tcp"\n  from_port                    = 6379\n  to_port                      = 6379', after='"to_nodes"'),
    Mutant("efa_without_ingress", CLUSTER, 'ip_protocol                  = "-1"', 'ip_protocol                  = "tcp"\n  from_port                    = 6379\n  to_port                      = 6379', after='"from_nodes"'),
    Mutant("efa_on_one_card", NODES, "for card in range(type.efa_cards) :", "for card in range(min(type.efa_cards, 1)) :", environment="prod"),
    Mutant("efa_placed_apart", CLUSTER, 'strategy = "cluster"', 'strategy = "spread"', environment="prod"),
    # Roles
    Mutant("worker_may_everything", IAM, 'Action   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]\n      Resource = ["${var.log_group.arn}:*"]', 'Action   = ["*"]\n      Resource = ["*"]'),
    Mutant("worker_may_what_the_head_may", IAM, "Statement = local.data_statements }", "Statement = concat(local.data_statements, local.launch_statements) }"),
    Mutant("head_passes_any_role", IAM, "Resource  = [aws_iam_role.worker.arn]", 'Resource  = ["*"]'),
    Mutant("role_passed_to_any_service", IAM, '"iam:PassedToService" = "ec2.amazonaws.com"', '"iam:PassedToService" = ["ec2.amazonaws.com", "lambda.amazonaws.com"]'),
    Mutant("launches_without_tag", IAM, 'merge(local.request_tag, { "ec2:MetadataHttpTokens" =', 'merge({ "ec2:MetadataHttpTokens" ='),
    Mutant("launches_with_imdsv1", IAM, '"ec2:MetadataHttpTokens" = "required", "ec2:InstanceType"', '"ec2:InstanceType"'),
    Mutant("launches_from_any_template", IAM, 'ArnEquals    = { "ec2:LaunchTemplate" = local.worker_template_arns }', 'ArnLike      = { "ec2:LaunchTemplate" = "*" }'),
    Mutant("launches_any_type", IAM, ', "ec2:InstanceType" = local.worker_types', ""),
    Mutant("launches_open_disks", IAM, 'Condition = { Bool = { "ec2:Encrypted" = "true" } }', 'Condition = { Bool = { "ec2:Encrypted" = ["true", "false"] } }'),
    Mutant("ends_any_machine", IAM, "Condition = { StringEquals = local.own_tag }", 'Condition = { StringLike = { "aws:ResourceTag/ray-cluster-name" = "*" } }'),
    Mutant("deletes_runs", IAM, 'Resource = [for key in local.passing_keys : "${local.runs}/${var.prefix}/${key}"]', 'Resource = ["${local.runs}/${var.prefix}/*"]'),
    Mutant("attempts_stay", IAM, '"*/blocks-attempts/*"', '"*/packs-attempts/*"'),
    Mutant("rays_files_stay", IAM, '"*/ray/*", ', ""),
    Mutant("writes_corpus", IAM, 'Action   = ["s3:GetObject", "s3:ListBucket"]', 'Action   = ["s3:GetObject", "s3:ListBucket", "s3:PutObject"]'),
    Mutant("reads_every_secret", IAM, "Resource = local.secret_arns", 'Resource = ["*"]'),
    Mutant("opens_keys_directly", IAM, 'Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${local.region}.amazonaws.com" } }', 'Condition = { StringLike = { "kms:ViaService" = "*" } }', after='Sid       = "SecretsKey"'),
    Mutant("anybody_takes_the_role", IAM, 'Principal = { Service = "ec2.amazonaws.com" }', 'Principal = { AWS = "*" }'),
    Mutant("commit_keys_moved", IAM, '"*/training-*"', '"*/trained-*"'),
    Mutant("shell_without_a_document", IAM, "Condition = merge(local.named_document, ", "Condition = merge("),
    Mutant("documents_unchecked", IAM, "        Condition = local.named_document\n", ""),
    # Machines
    Mutant("imdsv1_head", CLUSTER, 'http_tokens                 = "required"', 'http_tokens                 = "optional"', after='"aws_launch_template" "head"'),
    Mutant("imdsv1_worker", CLUSTER, 'http_tokens                 = "required"', 'http_tokens                 = "optional"', after='"aws_launch_template" "worker"'),
    Mutant("hop_limit_2", CLUSTER, "http_put_response_hop_limit = 1", "http_put_response_hop_limit = 2", after='"aws_launch_template" "worker"'),
    Mutant("disk_unencrypted", CLUSTER, "encrypted             = true", "encrypted             = false", after='"aws_launch_template" "worker"'),
    Mutant("disk_without_own_key", CLUSTER, '      kms_key_id            = var.storage.key_arns["volumes"]\n', "", after='"aws_launch_template" "head"'),
    Mutant("key_pair", CLUSTER, "  ebs_optimized                        = true\n", '  ebs_optimized                        = true\n  key_name                             = "debug"\n', after='"aws_launch_template" "head"'),
    Mutant("stays_when_powered_off", CLUSTER, 'instance_initiated_shutdown_behavior = "terminate"', 'instance_initiated_shutdown_behavior = "stop"', after='"aws_launch_template" "worker"'),
    Mutant("spot_requests_persist", CLUSTER, '"one-time"', '"persistent"'),
    Mutant("several_heads", CLUSTER, "max_size                  = 1", "max_size                  = 3"),
    Mutant("head_without_its_tags", CLUSTER, 'ray-node-type = "head"', 'ray-node-type = "worker"', after="head_tags = merge"),
    Mutant("heads_of_any_state_are_its_own", CLUSTER, 'ray-node-type = "head", memlm-state = terraform_data.state.input }', 'ray-node-type = "head" }'),
    Mutant("mark_that_no_plan_knows", CLUSTER, "input = plantimestamp()", "input = timestamp()"),
    Mutant("head_boots_without_its_network", CLUSTER, "aws_vpc_security_group_egress_rule.to_endpoints, aws_vpc", "aws_vpc", after="depends_on"),
    Mutant("server_boots_without_its_network", MLFLOW, "aws_vpc_security_group_egress_rule.server_to_endpoints, aws_vpc", "aws_vpc"),
    Mutant("disk_smaller_than_the_image", MLFLOW, "volume_size           = 80", "volume_size           = 60"),
    Mutant("image_larger_than_a_disk", "image/main.tf", "volume_size           = 80", "volume_size           = 120"),
    # Ray
    Mutant("dashboard_for_all", BOOT, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    Mutant("no_token_authentication", BOOT, "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=", "export RAY_AUTH_TOKEN_PATH="),
    Mutant("token_in_user_data", BOOT, "export RAY_AUTH_MODE=token", "export RAY_AUTH_TOKEN=swordfish RAY_AUTH_MODE=token"),
    Mutant("token_readable_by_all", BOOT, "install -m 0600", "install -m 0644", after="'${machine.home}/.mlflow'\n"),
    Mutant("metadata_without_token", BOOT, """-H "X-aws-ec2-metadata-token: $token" """, ""),
    Mutant("goes_on_after_errors", BOOT, "set -euo pipefail\n", "set -u\n"),
    Mutant("installs_at_boot", BOOT, "as_ray() {", "pip install ray\nas_ray() {"),
    Mutant("ray_wants_ssh", NODES, "disable_node_updaters       = true", "disable_node_updaters       = false"),
    Mutant("no_autoscaling", BOOT, "--autoscaling-config=", "--temp-dir="),
    # Data
    Mutant("tls_optional", STORAGE, '"aws:SecureTransport" = "false"', '"aws:SecureTransport" = "never"'),
    Mutant("old_tls", STORAGE, '"s3:TlsVersion" = "1.2"', '"s3:TlsVersion" = "1.0"'),
    Mutant("commits_overwrite", STORAGE, '"s3:if-none-match" = "true", "s3:if-match" = "true"', '"s3:if-none-match" = "false", "s3:if-match" = "true"'),
    Mutant("other_keys_taken", STORAGE, "ArnNotEquals = {", "ArnEquals = {"),
    Mutant("bucket_readable_by_all", STORAGE, "block_public_policy     = true", "block_public_policy     = false"),
    Mutant("acls_back", STORAGE, '"BucketOwnerEnforced"', '"ObjectWriter"'),
    Mutant("no_versions", STORAGE, 'status = "Enabled"', 'status = "Suspended"', after='"aws_s3_bucket_versioning"'),
    Mutant("s3s_own_key", STORAGE, 'sse_algorithm     = "aws:kms"\n      kms_master_key_id = aws_kms_key.this[each.key].arn', 'sse_algorithm = "AES256"'),
    Mutant("buckets_deleted_with_data", STORAGE, "force_destroy = !var.protected", "force_destroy = true", environment="prod"),
    Mutant("uploads_kept_for_ever", STORAGE, "abort_incomplete_multipart_upload {\n      days_after_initiation = 2\n    }", "expiration {\n      days = 3650\n    }", after='"aws_s3_bucket_lifecycle_configuration" "data"'),
    Mutant("keys_never_rotate", KEYS, "enable_key_rotation     = true", "enable_key_rotation     = false"),
    Mutant("key_for_everybody", KEYS, 'Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }', 'Principal = { AWS = "*" }'),
    Mutant("token_kept_in_state", CLUSTER, "secret_string_wo         = var.ray_token", "secret_string            = var.ray_token"),
    Mutant("token_without_own_key", CLUSTER, '  kms_key_id  = var.storage.key_arns["secrets"]\n', ""),
    Mutant("misspelt_argument", CLUSTER, "update_default_version               = true", "update_defualt_version               = true", after='"aws_launch_template" "worker"'),
    # MLflow
    Mutant("database_public", MLFLOW, "publicly_accessible    = false", "publicly_accessible    = true"),
    Mutant("database_unencrypted", MLFLOW, "storage_encrypted     = true", "storage_encrypted     = false"),
    Mutant("database_deleted_by_a_slip", MLFLOW, "deletion_protection       = var.protected", "deletion_protection       = false", environment="prod", after='"aws_db_instance"'),
    Mutant("database_by_password", MLFLOW, "iam_database_authentication_enabled = true", "iam_database_authentication_enabled = false"),
    Mutant("database_without_tls", MLFLOW, 'name  = "rds.force_ssl"\n    value = "1"', 'name  = "rds.force_ssl"\n    value = "0"'),
    Mutant("database_log_left_to_rds", MLFLOW, "keys(aws_cloudwatch_log_group.database)", 'concat(keys(aws_cloudwatch_log_group.database), ["iam-db-auth-error"])'),
    Mutant("database_logs_elsewhere", MLFLOW, "/aws/rds/instance/${var.name}/", "/${var.name}/database/"),
    Mutant("mlflow_without_passwords", "modules/mlflow/templates/server.sh.tftpl", "--app-name basic-auth ", ""),
    Mutant("mlflow_for_any_host", "modules/mlflow/templates/server.sh.tftpl", "--allowed-hosts '${hostname},${hostname}:*,localhost:5000'", "--allowed-hosts '*'"),
    # Notifications
    Mutant("logs_without_own_key", WATCH, "  kms_key_id        = var.logs_key_arn\n", ""),
    Mutant("alarms_that_nobody_hears", ALARMS, "alarm_actions       = [aws_sns_topic.alerts.arn]", "alarm_actions       = []"),
    Mutant("budget_of_all_environments", "modules/platform/main.tf", "stack = local.name }", "stack = var.project }"),
    Mutant("environment_without_its_tag", "envs/dev/versions.tf", ', stack = "memlm-dev"', ""),
    Mutant("budget_that_nobody_hears", WATCH, "subscriber_sns_topic_arns = [aws_sns_topic.alerts.arn]", "subscriber_sns_topic_arns = []"),
]  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    caught_by: dict[str, str]  # terraform, promises, roles, tests, checkov -> what it says


class Workshop:
    """A copy of infra/ that can be tested and applied again and again."""

    def __init__(self, folder: Path, by: Terraform) -> None:
        folder.mkdir()
        self.infra, self.by = copy_infra(folder), by
        run(self.infra, "init", "-no-color", "-backend=false", by=by)

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        file = self.infra / mutant.file
        text = file.read_text()
        file.write_text(mutant.apply_to(text))
        try:
            yield
        finally:
            file.write_text(text)
            for state in self.infra.rglob("terraform.tfstate*"):
                if state.is_file():
                    state.unlink()

    def judge(self, mutant: Mutant) -> Verdict:
        with self.mutated(mutant):
            caught = self._tested(mutant) or self._applied(mutant)
            if not caught and (findings := unwaived(check(self.infra))):
                caught = {"checkov": str(findings[0])}
        return Verdict(mutant, caught)

    def _applied(self, mutant: Mutant) -> dict[str, str]:
        try:
            stack = apply(self.infra, mutant.environment, by=self.by)
        except TerraformFailed as refused:
            return {"terraform": _last_words(str(refused))}
        caught = {}
        if promises := broken(stack):
            caught["promises"] = promises[0]
        if wrong := [e for e in expectations(stack) if not e.met]:
            caught["roles"] = f"{wrong[0].what}: {'must' if wrong[0].allowed else 'must not'}"
        return caught

    def _tested(self, mutant: Mutant) -> dict[str, str]:
        if not (self.infra / mutant.tests).exists():
            return {}
        done = self.by(self.infra, "test", "-no-color", f"-filter={mutant.tests}")
        return {"tests": _last_words(done.stdout + done.stderr)} if done.returncode else {}


def _last_words(text: str) -> str:
    """The first error of what Terraform printed, in one line."""
    _, _, error = text.partition("Error: ")
    return " ".join(error.split())[:300]


def judge_all(mutants: list[Mutant]) -> list[Verdict]:
    """Raises Unchanged before anything is run if a mutant changes nothing."""
    for mutant in mutants:
        mutant.apply_to((INFRA / mutant.file).read_text())
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="memlm-infra-"))
        workshops: queue.Queue[Workshop] = queue.Queue()
        for number in range(AT_ONCE):
            workshops.put(Workshop(Path(folder) / str(number), stack.enter_context(quick_terraform())))

        def judge(mutant: Mutant) -> Verdict:
            workshop = workshops.get()
            try:
                return workshop.judge(mutant)
            finally:
                workshops.put(workshop)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(judge, mutants))


def _run() -> Outcome:
    if terraform().real:
        raise Unavailable("applying with the real provider would make real machines; unset MEMLM_REAL_AWS_PROVIDER")
    verdicts = judge_all(MUTANTS)
    caught = [verdict for verdict in verdicts if verdict.caught_by]
    by = Counter(catcher for verdict in caught for catcher in verdict.caught_by)
    return Outcome(
        ok=len(caught) == len(verdicts) >= MUTANTS_AT_LEAST,
        measured=f"{len(caught)} of {len(verdicts)} caught",
        details={
            "survived": [verdict.mutant.name for verdict in verdicts if not verdict.caught_by],
            "by": dict(by),
            "caught": {verdict.mutant.name: verdict.caught_by for verdict in caught},
        },
    )


ROWS = [Row(name="mutants_caught", bar="all of at least 25 mistakes in the HCL are found", run=_run, seconds=240)]
