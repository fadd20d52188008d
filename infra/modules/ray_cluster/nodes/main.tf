# Nodes of a cluster: no provider and no resource, only the arithmetic from pools to Ray's node types, launch settings and boot scripts.

locals {
  zones = sort(keys(var.subnet_ids))

  # Every (pool, instance type) is one Ray node type with one launch template.
  node_types = merge([
    for pool_name, pool in var.pools : {
      for index, instance_type in pool.instance_types : "${pool_name}-${replace(instance_type, ".", "-")}" => {
        pool                    = pool_name
        instance_type           = instance_type
        market                  = pool.market
        min_nodes               = index == 0 ? pool.min_nodes : 0
        max_nodes               = pool.max_nodes
        volume_gib              = pool.volume_gib
        capacity_reservation_id = pool.capacity_reservation_id
        availability_zones      = coalesce(pool.availability_zones, local.zones)
        efa_cards               = try(local.instance_types[instance_type].efa_cards, 0)
        # What is reserved has a place already, and takes no machine that asks for another.
        in_placement_group = try(local.instance_types[instance_type].efa_cards, 0) > 0 && pool.capacity_reservation_id == null
        resources = merge(
          { CPU = try(local.instance_types[instance_type].vcpus, 0) },
          try(local.instance_types[instance_type].gpus, 0) > 0 ? { GPU = local.instance_types[instance_type].gpus } : {},
        )
      }
    }
  ]...)

  unknown_types = setsubtract(concat([var.head.instance_type], flatten([for pool in var.pools : pool.instance_types])), keys(local.instance_types))
  unknown_zones = setsubtract(flatten([for type in local.node_types : type.availability_zones]), local.zones)
  # EFA does not leave a zone, and a placement group lies in one.
  torn_types = [for name, type in local.node_types : name if type.efa_cards > 0 && length(type.availability_zones) != 1]

  # Card 0 carries IP and EFA, the others EFA alone, so that they take no addresses of the subnet.
  efa_interfaces = {
    for name, type in local.node_types : name => [
      for card in range(type.efa_cards) : {
        network_card_index = card
        device_index       = card == 0 ? 0 : 1
        interface_type     = card == 0 ? "efa" : "efa-only"
      }
    ]
  }

  ray_node_types = {
    for name, type in local.node_types : name => {
      resources   = type.resources
      min_workers = type.min_nodes
      max_workers = type.max_nodes
      node_config = merge(
        {
          LaunchTemplate = { LaunchTemplateName = "${var.name}-${name}", Version = "$Latest" }
          SubnetIds      = [for zone in type.availability_zones : lookup(var.subnet_ids, zone, "")]
          # Read by the worker from its own metadata, so that it needs no right to ask EC2 for anything.
          TagSpecifications = [{ ResourceType = "instance", Tags = [{ Key = "ray-head-address", Value = "__HEAD_ADDRESS__" }] }]
        },
        # With it Ray names no subnet in its call, which the launch template's network cards already do.
        type.efa_cards > 0 ? { NetworkInterfaces = [] } : {},
      )
    }
  }

  # The complete form, as Ray itself would have prepared it: nothing of it is filled in or carried out over SSH.
  cluster_config = {
    cluster_name         = var.name
    max_workers          = sum([for type in local.node_types : type.max_nodes])
    upscaling_speed      = 10
    idle_timeout_minutes = var.idle_timeout_minutes
    provider = {
      type                        = "aws"
      region                      = var.region
      use_internal_ips            = true
      cache_stopped_nodes         = false
      disable_node_updaters       = true
      disable_launch_config_check = true
    }
    auth           = { ssh_user = "none" }
    head_node_type = "head"
    available_node_types = merge(
      { head = { resources = { CPU = var.head.num_cpus }, min_workers = 0, max_workers = 0, node_config = {} } },
      local.ray_node_types,
    )
    docker                        = {}
    file_mounts                   = {}
    file_mounts_sync_continuously = false
    cluster_synced_files          = []
    rsync_exclude                 = []
    rsync_filter                  = []
    initialization_commands       = []
    setup_commands                = []
    head_setup_commands           = []
    worker_setup_commands         = []
    head_start_ray_commands       = []
    worker_start_ray_commands     = []
  }

  cluster_yaml = yamlencode(local.cluster_config)

  log_agent_config = {
    agent = { run_as_user = "root" }
    logs = { logs_collected = { files = { collect_list = [
      for file in ["/var/log/messages", "/var/log/cloud-init-output.log", "/tmp/ray/session_latest/logs/monitor.log", "/tmp/ray/session_latest/logs/gcs_server.out", "/tmp/ray/session_latest/logs/raylet.out"] :
      { file_path = file, log_group_name = var.log_group_name, log_stream_name = "{instance_id}${file}" }
    ] } } }
  }

  boot = {
    region            = var.region
    machine           = var.machine
    token_secret_name = var.token_secret_name
    tracking          = var.tracking
    log_agent_config  = jsonencode(local.log_agent_config)
  }

  head_user_data = templatefile("${path.module}/templates/node.sh.tftpl", merge(local.boot, {
    is_head      = true
    is_spot      = false
    has_efa      = false
    node_type    = "head"
    resources    = jsonencode({ CPU = var.head.num_cpus })
    cluster_yaml = local.cluster_yaml
  }))

  worker_user_data = {
    for name, type in local.node_types : name => templatefile("${path.module}/templates/node.sh.tftpl", merge(local.boot, {
      is_head      = false
      is_spot      = type.market == "spot"
      has_efa      = type.efa_cards > 0
      node_type    = name
      resources    = jsonencode(type.resources)
      cluster_yaml = ""
    }))
  }
}
