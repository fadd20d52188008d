# Launch templates, network rules and roles of a cluster.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name   = "memlm-test"
  ami_id = "ami-0123456789abcdef0"
  head   = { instance_type = "m7i.xlarge" }
  pools = {
    sweep = { instance_types = ["g6.xlarge", "g5.xlarge", "g6e.xlarge"], market = "spot", max_nodes = 4 }
    train = { instance_types = ["p4d.24xlarge"], market = "on_demand", max_nodes = 2, availability_zones = ["us-east-1b"] }
    block = { instance_types = ["p5.48xlarge"], market = "capacity_block", max_nodes = 2, availability_zones = ["us-east-1a"], capacity_reservation_id = "cr-0123456789abcdef0" }
  }
  network = {
    vpc_id                      = "vpc-1"
    subnet_ids                  = { us-east-1a = "subnet-a", us-east-1b = "subnet-b" }
    endpoints_security_group_id = "sg-endpoints"
    s3_prefix_list_id           = "pl-s3"
  }
  storage = {
    buckets  = { corpus = { name = "corpus", arn = "arn:aws:s3:::corpus" }, runs = { name = "runs", arn = "arn:aws:s3:::runs" } }
    key_arns = { corpus = "key-corpus", runs = "key-runs", secrets = "key-secrets", volumes = "key-volumes" }
  }
  prefix    = "memlm"
  tracking  = { uri = "https://mlflow.test", secret_name = "mlflow/pipelines", secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:mlflow/pipelines", security_group_id = "sg-mlflow" }
  log_group = { name = "/memlm-test/nodes", arn = "arn:aws:logs:us-east-1:123456789012:log-group:/memlm-test/nodes" }
  ray_token = "0123456789abcdef0123456789abcdef"
}

# Before anything is applied.
run "a_state_knows_its_heads_at_its_first_plan" {
  command = plan

  module {
    source = "./modules/ray_cluster"
  }

  assert {
    condition     = terraform_data.state.input != "" && one([for tag in aws_autoscaling_group.head.tag : tag.value if tag.key == "memlm-state"]) == terraform_data.state.input
    error_message = "A head must bear the mark of its state, and a plan must know it."
  }

  assert {
    condition     = data.aws_instances.own_heads.instance_tags == tomap({ ray-cluster-name = "memlm-test", ray-node-type = "head", memlm-state = terraform_data.state.input })
    error_message = "A head without this state's mark is a stranger."
  }

  assert {
    condition     = data.aws_instances.heads.instance_tags == tomap({ ray-cluster-name = "memlm-test", ray-node-type = "head" })
    error_message = "Any head of this name is in the way, whosever it is."
  }
}

run "machines" {
  module {
    source = "./modules/ray_cluster"
  }

  assert {
    condition     = alltrue([for template in concat([aws_launch_template.head], values(aws_launch_template.worker)) : template.metadata_options[0].http_tokens == "required" && template.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "Metadata must be had by IMDSv2, from the machine itself alone."
  }

  assert {
    condition     = alltrue([for template in concat([aws_launch_template.head], values(aws_launch_template.worker)) : template.metadata_options[0].instance_metadata_tags == "enabled"])
    error_message = "Workers read the head's address from their tags."
  }

  assert {
    condition     = alltrue([for template in concat([aws_launch_template.head], values(aws_launch_template.worker)) : alltrue([for device in template.block_device_mappings : device.ebs[0].encrypted == "true" && device.ebs[0].kms_key_id == "key-volumes"])])
    error_message = "Disks must be encrypted with their own key."
  }

  assert {
    condition     = alltrue([for template in concat([aws_launch_template.head], values(aws_launch_template.worker)) : template.key_name == null || template.key_name == ""])
    error_message = "No machine takes an SSH key."
  }

  assert {
    condition     = alltrue([for template in concat([aws_launch_template.head], values(aws_launch_template.worker)) : template.instance_initiated_shutdown_behavior == "terminate"])
    error_message = "A machine that shuts itself down must be gone."
  }

  assert {
    condition     = alltrue([for template in values(aws_launch_template.worker) : alltrue([for card in template.network_interfaces : card.associate_public_ip_address == "false" && tolist(card.security_groups) == tolist([aws_security_group.nodes.id])])])
    error_message = "No network card takes a public address, and all are in the nodes' group."
  }

  assert {
    condition     = length(aws_launch_template.worker["train-p4d-24xlarge"].network_interfaces) == 4 && alltrue([for card in aws_launch_template.worker["train-p4d-24xlarge"].network_interfaces : card.subnet_id == "subnet-b" && startswith(card.interface_type, "efa")])
    error_message = "A machine with EFA has all of its cards in the subnet of its zone."
  }

  assert {
    condition     = keys(aws_placement_group.efa) == ["train-p4d-24xlarge"] && aws_placement_group.efa["train-p4d-24xlarge"].strategy == "cluster" && aws_launch_template.worker["train-p4d-24xlarge"].placement[0].group_name == "memlm-test-train-p4d-24xlarge"
    error_message = "Machines with EFA that are not reserved stand in a placement group."
  }

  assert {
    condition     = { for name, template in aws_launch_template.worker : name => try(template.instance_market_options[0].market_type, "on-demand") } == { block-p5-48xlarge = "capacity-block", sweep-g5-xlarge = "spot", sweep-g6-xlarge = "spot", sweep-g6e-xlarge = "spot", train-p4d-24xlarge = "on-demand" }
    error_message = "Each pool is bought where it says."
  }

  assert {
    condition     = aws_launch_template.worker["sweep-g6-xlarge"].instance_market_options[0].spot_options[0].spot_instance_type == "one-time"
    error_message = "A spot request must not outlive what asked for it."
  }

  assert {
    condition     = aws_launch_template.worker["block-p5-48xlarge"].capacity_reservation_specification[0].capacity_reservation_target[0].capacity_reservation_id == "cr-0123456789abcdef0"
    error_message = "A reserved pool must use its reservation."
  }

  assert {
    condition     = alltrue([for name, template in aws_launch_template.worker : base64decode(template.user_data) == output.nodes.worker_user_data[name]]) && base64decode(aws_launch_template.head.user_data) == output.nodes.head_user_data
    error_message = "Machines must boot with the script of their type."
  }

  assert {
    condition     = { for name, template in aws_launch_template.worker : name => template.name } == output.nodes.launch_template_names && alltrue([for name, type in yamldecode(output.nodes.cluster_yaml).available_node_types : name == "head" ? true : type.node_config.LaunchTemplate.LaunchTemplateName == output.nodes.launch_template_names[name]])
    error_message = "cluster.yaml must name the launch templates that there are."
  }
}

run "head" {
  module {
    source = "./modules/ray_cluster"
  }

  assert {
    condition     = aws_autoscaling_group.head.min_size == 1 && aws_autoscaling_group.head.max_size == 1 && aws_autoscaling_group.head.desired_capacity == 1
    error_message = "There must be one head, neither none nor two."
  }

  assert {
    condition     = { for tag in aws_autoscaling_group.head.tag : tag.key => tag.value if startswith(tag.key, "ray-") } == { ray-cluster-name = "memlm-test", ray-node-type = "head", ray-user-node-type = "head", ray-node-status = "up-to-date" }
    error_message = "Ray tells its head by these tags."
  }

  assert {
    condition     = alltrue([for tag in aws_autoscaling_group.head.tag : tag.propagate_at_launch])
    error_message = "Tags must reach the machine."
  }

  assert {
    condition     = sort(aws_autoscaling_group.head.vpc_zone_identifier) == tolist(["subnet-a", "subnet-b"])
    error_message = "A head can be started in any zone."
  }

  assert {
    condition     = aws_secretsmanager_secret.token.name == "memlm-test/ray-token" && aws_secretsmanager_secret.token.kms_key_id == "key-secrets" && aws_secretsmanager_secret_version.token.secret_string == null
    error_message = "The token must be in Secrets Manager, under the secrets' key, and not in the state."
  }
}

run "network_rules" {
  module {
    source = "./modules/ray_cluster"
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.from_nodes.ip_protocol == "-1" && aws_vpc_security_group_ingress_rule.from_nodes.referenced_security_group_id == aws_security_group.nodes.id
    error_message = "Nodes must be reached by each other, for Ray and EFA, and by nobody else."
  }

  assert {
    condition     = aws_vpc_security_group_egress_rule.to_nodes.ip_protocol == "-1" && aws_vpc_security_group_egress_rule.to_nodes.referenced_security_group_id == aws_security_group.nodes.id && aws_vpc_security_group_egress_rule.to_nodes.security_group_id == aws_security_group.nodes.id
    error_message = "EFA needs all traffic within the group allowed on its way out too."
  }

  assert {
    condition     = length(aws_security_group.nodes.ingress) == 0 && length(aws_security_group.nodes.egress) == 0
    error_message = "Rules stand apart from the group."
  }

  assert {
    condition = alltrue([
      for rule in [aws_vpc_security_group_egress_rule.to_endpoints, aws_vpc_security_group_egress_rule.to_s3, aws_vpc_security_group_egress_rule.to_tracking[0]] :
      rule.from_port == 443 && rule.to_port == 443 && rule.ip_protocol == "tcp" && rule.cidr_ipv4 == null
    ])
    error_message = "Out of the cluster there is HTTPS to named places alone."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.tracking_from_nodes[0].security_group_id == "sg-mlflow" && aws_vpc_security_group_ingress_rule.tracking_from_nodes[0].from_port == 443
    error_message = "MLflow must be reached by HTTPS."
  }
}

run "roles" {
  module {
    source = "./modules/ray_cluster"
  }

  assert {
    condition = toset(flatten([for statement in jsondecode(aws_iam_role_policy.worker.policy).Statement : statement.Action])) == toset([
      "s3:GetObject", "s3:ListBucket", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts", "s3:DeleteObject", "s3:ListBucketMultipartUploads",
      "kms:Decrypt", "kms:GenerateDataKey", "secretsmanager:GetSecretValue", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents",
    ])
    error_message = "A worker reads and writes data, reads its secrets and writes logs: nothing else."
  }

  assert {
    condition     = alltrue([for statement in jsondecode(aws_iam_role_policy.worker.policy).Statement : !contains(statement.Resource, "*")])
    error_message = "No right of a worker is to everything."
  }

  assert {
    condition     = alltrue([for statement in jsondecode(aws_iam_role_policy.worker.policy).Statement : !contains(statement.Action, "s3:DeleteObject") || statement.Sid == "DeleteWhatPasses" && alltrue([for arn in statement.Resource : startswith(arn, "arn:aws:s3:::runs/memlm/") && !endswith(arn, "/memlm/*")])])
    error_message = "Pipelines delete what they made on their way, and nothing else."
  }

  assert {
    condition     = alltrue([for statement in jsondecode(aws_iam_role_policy.head.policy).Statement : !contains(statement.Resource, "*") || contains(["SeeInstances", "SessionManager"], statement.Sid)])
    error_message = "Only actions that know no resources may be allowed on all of them."
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.head.policy).Statement : statement.Condition.StringEquals["aws:RequestTag/ray-cluster-name"] if statement.Sid == "LaunchOwnWorkers"] == ["memlm-test"]
    error_message = "The head launches machines of its own cluster alone."
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.head.policy).Statement : statement.Condition.StringEquals["aws:ResourceTag/ray-cluster-name"] if contains(statement.Action, "ec2:TerminateInstances")] == ["memlm-test"]
    error_message = "The head ends machines of its own cluster alone."
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.head.policy).Statement : statement.Resource if contains(statement.Action, "iam:PassRole")] == [[aws_iam_role.worker.arn]]
    error_message = "The head gives away the workers' role alone."
  }

  assert {
    condition     = toset(flatten([for statement in jsondecode(aws_iam_role_policy.head.policy).Statement : statement.Condition.ArnEquals["ec2:LaunchTemplate"] if statement.Sid == "LaunchOwnWorkers"])) == toset([for template in aws_launch_template.worker : template.arn])
    error_message = "The head launches from the workers' templates alone."
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_policy.operator.policy).Statement :
      try(statement.Condition.StringEquals == { "ssm:resourceTag/ray-cluster-name" = "memlm-test", "ssm:resourceTag/ray-node-type" = "head" }, false)
      || alltrue([for arn in statement.Resource : startswith(arn, "arn:aws:ssm:us-east-1::document/AWS-StartPortForwardingSession")])
      if contains(statement.Action, "ssm:StartSession")
    ])
    error_message = "People forward ports of the head alone."
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_policy.operator.policy).Statement : try(statement.Condition.BoolIfExists["ssm:SessionDocumentAccessCheck"], "") if contains(statement.Action, "ssm:StartSession")] == ["true", "true"]
    error_message = "People open no shell: without this check, a session that names no document is one."
  }

  assert {
    condition     = alltrue([for role in [aws_iam_role.head, aws_iam_role.worker] : jsondecode(role.assume_role_policy).Statement[0].Principal == { Service = "ec2.amazonaws.com" } && length(jsondecode(role.assume_role_policy).Statement) == 1])
    error_message = "Roles are for machines alone."
  }
}

# --- Bad input ---

run "type_not_offered" {
  command = plan

  module {
    source = "./modules/ray_cluster"
  }

  variables {
    pools = { sweep = { instance_types = ["g6.xlarge", "g5.xlarge", "c7i.8xlarge"], market = "spot", max_nodes = 4 } }
  }

  expect_failures = [terraform_data.preconditions]
}

run "name_taken" {
  command = plan

  module {
    source = "./modules/ray_cluster"
  }

  override_data {
    target = data.aws_instances.heads
    values = { ids = ["i-0123456789abcdef0"] }
  }

  override_data {
    target = data.aws_instances.own_heads
    values = { ids = [] }
  }

  expect_failures = [terraform_data.preconditions]
}

run "own_head_is_no_stranger" {
  command = plan

  module {
    source = "./modules/ray_cluster"
  }

  override_data {
    target = data.aws_instances.heads
    values = { ids = ["i-0123456789abcdef0"] }
  }

  override_data {
    target = data.aws_instances.own_heads
    values = { ids = ["i-0123456789abcdef0"] }
  }

  assert {
    condition     = terraform_data.preconditions.input == "memlm-test"
    error_message = "A cluster must be able to be applied while its own head runs."
  }
}

run "token_too_short" {
  command = plan

  module {
    source = "./modules/ray_cluster"
  }

  variables {
    ray_token = "secret"
  }

  expect_failures = [var.ray_token]
}

run "image_by_name" {
  command = plan

  module {
    source = "./modules/ray_cluster"
  }

  variables {
    ami_id = "memlm-latest"
  }

  expect_failures = [var.ami_id]
}

run "prefix_that_climbs" {
  command = plan

  module {
    source = "./modules/ray_cluster"
  }

  variables {
    prefix = "../other"
  }

  expect_failures = [var.prefix]
}
