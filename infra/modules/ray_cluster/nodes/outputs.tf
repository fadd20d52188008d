output "node_types" {
  description = "Ray's worker node types: pool, instance type, market, limits, zones, resources, EFA cards."
  value       = local.node_types

  precondition {
    condition     = length(local.unknown_types) == 0
    error_message = "Instance types ${join(", ", local.unknown_types)} are not known; take one of ${join(", ", keys(local.instance_types))}, or add a line to modules/ray_cluster/nodes/instances.tf."
  }

  precondition {
    condition     = length(local.unknown_zones) == 0
    error_message = "Availability zones ${join(", ", local.unknown_zones)} have no subnet in this cluster; take some of ${join(", ", local.zones)}."
  }

  precondition {
    condition     = length(local.torn_types) == 0
    error_message = "Node types ${join(", ", local.torn_types)} have EFA, which does not leave an availability zone; name exactly one in the pool's availability_zones, or take types without EFA."
  }
}

output "efa_interfaces" {
  description = "Network interfaces of each node type's launch template, one for each card; none where the type has no EFA."
  value       = local.efa_interfaces
}

output "cluster_yaml" {
  description = "Ray's autoscaling configuration. __HEAD_ADDRESS__ in it is replaced by the head as it boots."
  value       = local.cluster_yaml
}

output "head_user_data" {
  description = "Boot script of the head, plain text."
  value       = local.head_user_data

  precondition {
    condition     = length(local.head_user_data) < 16384
    error_message = "The head's boot script has ${length(local.head_user_data)} bytes and EC2 takes 16384; name fewer pools or instance types."
  }
}

output "worker_user_data" {
  description = "Boot scripts of the workers by node type, plain text."
  value       = local.worker_user_data
}

output "usd_per_hour" {
  description = "On-demand list prices: of the head, of one node of each type, and the most that a cluster at its limits can cost."
  value = {
    head       = try(local.instance_types[var.head.instance_type].usd_per_hour, 0)
    node_types = { for name, type in local.node_types : name => try(local.instance_types[type.instance_type].usd_per_hour, 0) }
    at_most = try(local.instance_types[var.head.instance_type].usd_per_hour, 0) + sum([
      for type in local.node_types : type.max_nodes * try(local.instance_types[type.instance_type].usd_per_hour, 0)
    ])
  }
}
