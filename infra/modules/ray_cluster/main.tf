# A Ray cluster without SSH: a head in an auto-scaling group of one, which launches workers from launch templates as work asks for them.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  # Ray's own tags, by which its autoscaler tells its nodes; `memlm-state` is ours.
  head_tags = merge(var.tags, {
    Name               = "${var.name}-head"
    memlm-state        = terraform_data.state.input
    ray-cluster-name   = var.name
    ray-node-type      = "head"
    ray-user-node-type = "head"
    ray-node-status    = "up-to-date"
  })
}

module "nodes" {
  source = "./nodes"

  name                 = var.name
  region               = local.region
  head                 = var.head
  pools                = var.pools
  subnet_ids           = var.network.subnet_ids
  token_secret_name    = aws_secretsmanager_secret.token.name
  tracking             = var.tracking == null ? null : { uri = var.tracking.uri, secret_name = var.tracking.secret_name }
  log_group_name       = var.log_group.name
  idle_timeout_minutes = var.idle_timeout_minutes
  machine              = var.machine
}

# --- Looked up before anything is created ---

data "aws_ec2_instance_type_offerings" "by_zone" {
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = distinct(concat([var.head.instance_type], flatten([for pool in var.pools : pool.instance_types])))
  }
}

# What tells the heads of this state from those of any other. Known at the first plan already, unlike an id, and kept ever after.
resource "terraform_data" "state" {
  input = plantimestamp()

  lifecycle {
    ignore_changes = [input]
  }
}

# Heads that run under this name: all of them, and this state's.
data "aws_instances" "heads" {
  instance_state_names = ["pending", "running"]
  instance_tags        = { ray-cluster-name = var.name, ray-node-type = "head" }
}

data "aws_instances" "own_heads" {
  instance_state_names = ["pending", "running"]
  instance_tags        = { ray-cluster-name = var.name, ray-node-type = "head", memlm-state = terraform_data.state.input }
}

locals {
  offered = toset([
    for index, type in data.aws_ec2_instance_type_offerings.by_zone.instance_types :
    "${type} in ${data.aws_ec2_instance_type_offerings.by_zone.locations[index]}"
  ])

  wanted = toset(concat(
    [for zone in keys(var.network.subnet_ids) : "${var.head.instance_type} in ${zone}"],
    flatten([for pool in var.pools : [for pair in setproduct(pool.instance_types, coalesce(pool.availability_zones, keys(var.network.subnet_ids))) : "${pair[0]} in ${pair[1]}"]]),
  ))

  not_offered = setsubtract(local.wanted, local.offered)
  strangers   = setsubtract(data.aws_instances.heads.ids, data.aws_instances.own_heads.ids)
}

resource "terraform_data" "preconditions" {
  input = var.name

  lifecycle {
    precondition {
      condition     = length(local.not_offered) == 0
      error_message = "EC2 does not offer ${join(", ", local.not_offered)}; take another region, other zones (pools[*].availability_zones) or other instance types."
    }

    precondition {
      condition     = length(local.strangers) == 0
      error_message = "A cluster ${var.name} that this state does not know is running (${join(", ", local.strangers)}), and its autoscaler would take this one's nodes for its own; choose another name, or end it first. After a move to another backend: terraform init -migrate-state."
    }
  }
}

# --- The token ---

resource "aws_secretsmanager_secret" "token" {
  name        = "${var.name}/ray-token"
  description = "Every call to the Ray cluster ${var.name} must carry it."
  kms_key_id  = var.storage.key_arns["secrets"]

  # Without protection its name must be free again at once.
  recovery_window_in_days = var.protected ? 30 : 0

  # Create nothing if the cluster's name is taken or no zone has its machines.
  depends_on = [terraform_data.preconditions]
}

resource "aws_secretsmanager_secret_version" "token" {
  secret_id                = aws_secretsmanager_secret.token.id
  secret_string_wo         = var.ray_token
  secret_string_wo_version = var.ray_token_version
}

# --- Network rules ---

resource "aws_security_group" "nodes" {
  name        = "${var.name}-nodes"
  description = "Nodes of the Ray cluster ${var.name}"
  vpc_id      = var.network.vpc_id

  tags = { Name = "${var.name}-nodes" }
}

# Ray's processes listen on ports of their own choice, and EFA needs all traffic within the group allowed both ways.
resource "aws_vpc_security_group_ingress_rule" "from_nodes" {
  security_group_id            = aws_security_group.nodes.id
  description                  = "All traffic among the nodes"
  referenced_security_group_id = aws_security_group.nodes.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "to_nodes" {
  security_group_id            = aws_security_group.nodes.id
  description                  = "All traffic among the nodes"
  referenced_security_group_id = aws_security_group.nodes.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "to_endpoints" {
  security_group_id            = aws_security_group.nodes.id
  description                  = "AWS services"
  referenced_security_group_id = var.network.endpoints_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

resource "aws_vpc_security_group_egress_rule" "to_s3" {
  security_group_id = aws_security_group.nodes.id
  description       = "S3"
  prefix_list_id    = var.network.s3_prefix_list_id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "to_tracking" {
  count = var.tracking == null ? 0 : 1

  security_group_id            = aws_security_group.nodes.id
  description                  = "MLflow"
  referenced_security_group_id = var.tracking.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

resource "aws_vpc_security_group_ingress_rule" "tracking_from_nodes" {
  count = var.tracking == null ? 0 : 1

  security_group_id            = var.tracking.security_group_id
  description                  = "Ray cluster ${var.name}"
  referenced_security_group_id = aws_security_group.nodes.id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

# --- The head ---

resource "aws_launch_template" "head" {
  name                                 = "${var.name}-head"
  description                          = "Head of the Ray cluster ${var.name}"
  image_id                             = var.ami_id
  instance_type                        = var.head.instance_type
  user_data                            = base64encode(module.nodes.head_user_data)
  vpc_security_group_ids               = [aws_security_group.nodes.id]
  instance_initiated_shutdown_behavior = "terminate"
  update_default_version               = true
  ebs_optimized                        = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.head.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "enabled"
  }

  monitoring {
    enabled = true
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = var.head.volume_gib
      encrypted             = true
      kms_key_id            = var.storage.key_arns["volumes"]
      delete_on_termination = true
    }
  }

  tag_specifications {
    resource_type = "volume"
    tags          = merge(var.tags, { Name = "${var.name}-head", ray-cluster-name = var.name })
  }
}

# Keeps one head running. A new launch template version is used by the next head: a running one is not taken from its jobs.
resource "aws_autoscaling_group" "head" {
  name                      = "${var.name}-head"
  min_size                  = 1
  max_size                  = 1
  desired_capacity          = 1
  vpc_zone_identifier       = values(var.network.subnet_ids)
  health_check_type         = "EC2"
  health_check_grace_period = 300
  wait_for_capacity_timeout = "0"
  metrics_granularity       = "1Minute"
  enabled_metrics           = ["GroupInServiceInstances"]

  launch_template {
    id      = aws_launch_template.head.id
    version = aws_launch_template.head.latest_version
  }

  dynamic "tag" {
    for_each = local.head_tags

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  # A head that boots must find the token, what it may do, and its way to AWS, to other nodes and to MLflow.
  depends_on = [
    aws_secretsmanager_secret_version.token, aws_iam_role_policy.head, aws_launch_template.worker,
    aws_vpc_security_group_egress_rule.to_endpoints, aws_vpc_security_group_egress_rule.to_s3,
    aws_vpc_security_group_egress_rule.to_nodes, aws_vpc_security_group_ingress_rule.from_nodes,
    aws_vpc_security_group_egress_rule.to_tracking, aws_vpc_security_group_ingress_rule.tracking_from_nodes,
  ]
}

# --- The workers: templates alone, launched by Ray ---

resource "aws_placement_group" "efa" {
  for_each = { for name, type in module.nodes.node_types : name => type if type.in_placement_group }

  name     = "${var.name}-${each.key}"
  strategy = "cluster"
}

resource "aws_launch_template" "worker" {
  for_each = module.nodes.node_types

  name                                 = "${var.name}-${each.key}"
  description                          = "Worker ${each.key} of the Ray cluster ${var.name}"
  image_id                             = var.ami_id
  instance_type                        = each.value.instance_type
  user_data                            = base64encode(module.nodes.worker_user_data[each.key])
  vpc_security_group_ids               = each.value.efa_cards > 0 ? null : [aws_security_group.nodes.id]
  instance_initiated_shutdown_behavior = "terminate"
  update_default_version               = true
  ebs_optimized                        = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.worker.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "enabled"
  }

  monitoring {
    enabled = true
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.volume_gib
      encrypted             = true
      kms_key_id            = var.storage.key_arns["volumes"]
      delete_on_termination = true
    }
  }

  dynamic "network_interfaces" {
    for_each = module.nodes.efa_interfaces[each.key]

    content {
      network_card_index          = network_interfaces.value.network_card_index
      device_index                = network_interfaces.value.device_index
      interface_type              = network_interfaces.value.interface_type
      subnet_id                   = var.network.subnet_ids[each.value.availability_zones[0]]
      security_groups             = [aws_security_group.nodes.id]
      associate_public_ip_address = "false"
      delete_on_termination       = "true"
    }
  }

  dynamic "placement" {
    for_each = each.value.in_placement_group ? [aws_placement_group.efa[each.key].name] : []

    content {
      group_name = placement.value
    }
  }

  dynamic "instance_market_options" {
    for_each = each.value.market == "spot" ? [1] : []

    content {
      market_type = "spot"

      # Ray itself requests a replacement for a node that was taken; a persistent request would start nodes that Ray does not know.
      spot_options {
        spot_instance_type             = "one-time"
        instance_interruption_behavior = "terminate"
      }
    }
  }

  dynamic "instance_market_options" {
    for_each = each.value.market == "capacity_block" ? [1] : []

    content {
      market_type = "capacity-block"
    }
  }

  dynamic "capacity_reservation_specification" {
    for_each = each.value.capacity_reservation_id == null ? [] : [each.value.capacity_reservation_id]

    content {
      capacity_reservation_target {
        capacity_reservation_id = capacity_reservation_specification.value
      }
    }
  }

  # Ray adds its own.
  tag_specifications {
    resource_type = "instance"
    tags          = merge(var.tags, { ray-cluster-name = var.name })
  }

  tag_specifications {
    resource_type = "volume"
    tags          = merge(var.tags, { Name = "${var.name}-${each.key}", ray-cluster-name = var.name })
  }
}
