# From pools to node types, network cards, cluster.yaml and boot scripts: arithmetic, so it needs no provider.

variables {
  name   = "memlm-test"
  region = "us-east-1"
  head   = { instance_type = "m7i.xlarge" }
  pools = {
    sweep = { instance_types = ["g6.xlarge", "g5.xlarge", "g6e.xlarge"], market = "spot", max_nodes = 4, min_nodes = 1 }
    train = { instance_types = ["p4d.24xlarge"], market = "on_demand", max_nodes = 2, availability_zones = ["us-east-1b"] }
  }
  subnet_ids        = { us-east-1a = "subnet-a", us-east-1b = "subnet-b" }
  token_secret_name = "memlm-test/ray-token"
  tracking          = { uri = "https://mlflow.test", secret_name = "memlm-test-mlflow/pipelines" }
  log_group_name    = "/memlm-test/nodes"
}

run "node_types" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  assert {
    condition     = keys(output.node_types) == ["sweep-g5-xlarge", "sweep-g6-xlarge", "sweep-g6e-xlarge", "train-p4d-24xlarge"]
    error_message = "Each instance type of each pool is a node type."
  }

  assert {
    condition     = output.node_types["sweep-g6-xlarge"].min_nodes == 1 && output.node_types["sweep-g5-xlarge"].min_nodes == 0
    error_message = "Only a pool's first type keeps its least number of nodes."
  }

  assert {
    condition     = output.node_types["train-p4d-24xlarge"].resources == { CPU = 96, GPU = 8 }
    error_message = "A node must offer the CPUs and GPUs that it has."
  }

  assert {
    condition     = output.node_types["sweep-g6-xlarge"].availability_zones == tolist(["us-east-1a", "us-east-1b"]) && output.node_types["train-p4d-24xlarge"].availability_zones == tolist(["us-east-1b"])
    error_message = "A pool runs in its own zones, or in all."
  }

  assert {
    condition     = output.usd_per_hour.head == 0.2016 && abs(output.usd_per_hour.at_most - (0.2016 + 4 * (0.8048 + 1.006 + 1.861) + 2 * 21.95764)) < 0.0001
    error_message = "What a cluster costs at its limits is a sum over all nodes that it may have."
  }
}

run "network_cards" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  assert {
    condition     = length(output.efa_interfaces["train-p4d-24xlarge"]) == 4 && length(output.efa_interfaces["sweep-g6-xlarge"]) == 0
    error_message = "A p4d.24xlarge has four network cards with EFA, a g6.xlarge none."
  }

  assert {
    condition     = [for card in output.efa_interfaces["train-p4d-24xlarge"] : card.interface_type] == ["efa", "efa-only", "efa-only", "efa-only"]
    error_message = "The first card carries IP too, the others EFA alone."
  }

  assert {
    condition     = [for card in output.efa_interfaces["train-p4d-24xlarge"] : [card.network_card_index, card.device_index]] == [[0, 0], [1, 1], [2, 1], [3, 1]]
    error_message = "Each card has its own index, and device 0 is on card 0 alone."
  }

  assert {
    condition     = output.node_types["train-p4d-24xlarge"].in_placement_group && !output.node_types["sweep-g6-xlarge"].in_placement_group
    error_message = "Nodes with EFA stand close together, others anywhere."
  }
}

run "cluster_yaml" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  assert {
    condition     = yamldecode(output.cluster_yaml).provider == { type = "aws", region = "us-east-1", use_internal_ips = true, cache_stopped_nodes = false, disable_node_updaters = true, disable_launch_config_check = true }
    error_message = "Ray must launch nodes on inner addresses and never reach for them by SSH."
  }

  assert {
    condition     = alltrue([for key in ["initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"] : length(yamldecode(output.cluster_yaml)[key]) == 0])
    error_message = "Nothing must be carried out over SSH."
  }

  assert {
    condition     = { for name, type in yamldecode(output.cluster_yaml).available_node_types : name => type.max_workers } == { head = 0, sweep-g6-xlarge = 4, sweep-g5-xlarge = 4, sweep-g6e-xlarge = 4, train-p4d-24xlarge = 2 } && yamldecode(output.cluster_yaml).max_workers == 14
    error_message = "Ray must know each type's limit and their sum."
  }

  assert {
    condition     = yamldecode(output.cluster_yaml).available_node_types.sweep-g6-xlarge.node_config.LaunchTemplate == { LaunchTemplateName = "memlm-test-sweep-g6-xlarge", Version = "$Latest" }
    error_message = "A node type is launched from the launch template of its name."
  }

  assert {
    condition     = yamldecode(output.cluster_yaml).available_node_types.train-p4d-24xlarge.node_config.NetworkInterfaces == [] && !can(yamldecode(output.cluster_yaml).available_node_types.sweep-g6-xlarge.node_config.NetworkInterfaces)
    error_message = "Where the template's network cards name their subnet, Ray must name none."
  }

  assert {
    condition     = yamldecode(output.cluster_yaml).available_node_types.sweep-g6-xlarge.node_config.SubnetIds == ["subnet-a", "subnet-b"] && yamldecode(output.cluster_yaml).available_node_types.train-p4d-24xlarge.node_config.SubnetIds == ["subnet-b"]
    error_message = "A node type is launched in the subnets of its zones."
  }

  assert {
    condition = alltrue([
      for name, type in yamldecode(output.cluster_yaml).available_node_types :
      type.node_config.TagSpecifications == [{ ResourceType = "instance", Tags = [{ Key = "ray-head-address", Value = "__HEAD_ADDRESS__" }] }] if name != "head"
    ])
    error_message = "Workers learn the head's address from a tag."
  }
}

run "boot_scripts" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  assert {
    condition     = strcontains(output.head_user_data, "--dashboard-host=127.0.0.1 ") && !strcontains(output.head_user_data, "0.0.0.0")
    error_message = "The dashboard must listen on loopback alone."
  }

  assert {
    condition     = alltrue([for script in concat([output.head_user_data], values(output.worker_user_data)) : strcontains(script, "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH='/etc/ray/token'") && !strcontains(script, "RAY_AUTH_TOKEN=")])
    error_message = "Every node must ask for the token, and have it in a file alone."
  }

  assert {
    condition     = alltrue([for script in concat([output.head_user_data], values(output.worker_user_data)) : strcontains(script, "install -m 0600 -o 'memlm' -g 'memlm' /dev/null '/etc/ray/token'")])
    error_message = "The token's file must be Ray's user's alone."
  }

  assert {
    condition     = alltrue([for script in concat([output.head_user_data], values(output.worker_user_data)) : strcontains(script, "X-aws-ec2-metadata-token: $token")])
    error_message = "Metadata must be asked for by IMDSv2."
  }

  assert {
    condition     = alltrue([for script in concat([output.head_user_data], values(output.worker_user_data)) : strcontains(script, "as_ray ray start ")])
    error_message = "Ray must not run as root."
  }

  assert {
    condition     = alltrue([for name, script in output.worker_user_data : strcontains(script, "RAY_NODE_TYPE_NAME='${name}'") && strcontains(script, "RAY_OVERRIDE_RESOURCES='${jsonencode(output.node_types[name].resources)}'")])
    error_message = "A worker must tell Ray its node type and resources."
  }

  assert {
    condition     = alltrue([for name, script in output.worker_user_data : strcontains(script, "drain-node") == startswith(name, "sweep")])
    error_message = "Spot nodes, and they alone, must heed the notice of their end."
  }

  assert {
    condition     = strcontains(output.worker_user_data["train-p4d-24xlarge"], "FI_PROVIDER=efa NCCL_SOCKET_IFNAME=^lo,docker") && !strcontains(output.worker_user_data["sweep-g6-xlarge"], "FI_PROVIDER")
    error_message = "NCCL must use EFA where there is one."
  }

  assert {
    condition     = strcontains(output.head_user_data, trimspace(output.cluster_yaml)) && length(output.head_user_data) < 16384
    error_message = "The head must be given cluster.yaml, within what EC2 takes."
  }
}

run "reserved" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = { train = { instance_types = ["p5.48xlarge"], market = "capacity_block", max_nodes = 8, availability_zones = ["us-east-1a"], capacity_reservation_id = "cr-0123456789abcdef0" } }
  }

  assert {
    condition     = length(output.efa_interfaces["train-p5-48xlarge"]) == 32 && !output.node_types["train-p5-48xlarge"].in_placement_group
    error_message = "A capacity block's machines have EFA, and a place already."
  }
}

# --- Bad input ---

run "unknown_instance_type" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    head = { instance_type = "m9x.mega" }
  }

  expect_failures = [output.node_types]
}

run "head_smaller_than_the_image" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    head = { instance_type = "m7i.xlarge", volume_gib = 79 }
  }

  expect_failures = [var.head]
}

run "worker_smaller_than_the_image" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = { cpu = { instance_types = ["m7i.xlarge"], market = "on_demand", max_nodes = 1, volume_gib = 79 } }
  }

  expect_failures = [var.pools]
}

run "zone_without_subnet" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = { sweep = { instance_types = ["g6.xlarge", "g5.xlarge", "g6e.xlarge"], market = "spot", max_nodes = 4, availability_zones = ["us-east-1f"] } }
  }

  expect_failures = [output.node_types]
}

run "efa_over_two_zones" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = { train = { instance_types = ["p4d.24xlarge"], market = "on_demand", max_nodes = 2 } }
  }

  expect_failures = [output.node_types]
}

run "spot_efa_over_two_zones" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = { sweep = { instance_types = ["g6.48xlarge", "g5.48xlarge", "g6e.48xlarge"], market = "spot", max_nodes = 2, availability_zones = ["us-east-1a", "us-east-1b"] } }
  }

  expect_failures = [output.node_types]
}

run "spot_of_two_types" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = { sweep = { instance_types = ["g6.xlarge", "g5.xlarge"], market = "spot", max_nodes = 4 } }
  }

  expect_failures = [var.pools]
}

run "unknown_market" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = { sweep = { instance_types = ["g6.xlarge"], market = "flea", max_nodes = 4 } }
  }

  expect_failures = [var.pools]
}

run "block_without_reservation" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = { train = { instance_types = ["p5.48xlarge"], market = "capacity_block", max_nodes = 8, availability_zones = ["us-east-1a"] } }
  }

  expect_failures = [var.pools]
}

run "more_at_least_than_at_most" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = { cpu = { instance_types = ["m7i.xlarge"], market = "on_demand", max_nodes = 1, min_nodes = 2 } }
  }

  expect_failures = [var.pools]
}

run "no_pool" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    pools = {}
  }

  expect_failures = [var.pools]
}

run "tracking_without_tls" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    tracking = { uri = "http://mlflow.test", secret_name = "x" }
  }

  expect_failures = [var.tracking]
}

run "name_in_capitals" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    name = "MemLM"
  }

  expect_failures = [var.name]
}

run "shell_in_environment" {
  command = plan

  module {
    source = "./modules/ray_cluster/nodes"
  }

  variables {
    machine = { environment = { A = "'; rm -rf /" } }
  }

  expect_failures = [var.machine]
}
