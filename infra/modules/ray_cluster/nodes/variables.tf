variable "name" {
  description = "Cluster name: Ray's own tag on every node, and the first part of every name below."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 40 lower-case letters, digits or hyphens, beginning with a letter: it becomes part of IAM role, load balancer and tag names."
  }
}

variable "region" {
  description = "AWS region of the nodes."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be a region's code such as us-east-1, not a zone's."
  }
}

variable "head" {
  description = "The head: its instance type, root volume in GiB, and the CPUs that it offers to tasks (0: drivers only)."
  type = object({
    instance_type = string
    volume_gib    = optional(number, 100)
    num_cpus      = optional(number, 0)
  })
  nullable = false

  validation {
    condition     = var.head.volume_gib >= 80 && var.head.volume_gib <= 16384
    error_message = "head.volume_gib must be 80 to 16384: EC2 makes no disk smaller than the image's."
  }

  validation {
    condition     = var.head.num_cpus >= 0 && floor(var.head.num_cpus) == var.head.num_cpus
    error_message = "head.num_cpus must be a whole number, 0 or more."
  }
}

variable "pools" {
  description = <<-EOT
    Groups of workers by purpose. Each of a pool's instance types becomes a Ray node type "<pool>-<type>"; when a type has no capacity Ray turns to the next.
    - market: "spot" (may be taken away with two minutes' notice), "on_demand" or "capacity_block" (bought in advance).
    - min_nodes, max_nodes: of each type; the first type keeps min_nodes.
    - availability_zones: where they may run; null for every zone of the cluster. A type with EFA needs exactly one.
    - capacity_reservation_id: an on-demand reservation (optional) or a capacity block (required).
  EOT
  type = map(object({
    instance_types          = list(string)
    market                  = string
    max_nodes               = number
    min_nodes               = optional(number, 0)
    availability_zones      = optional(list(string))
    capacity_reservation_id = optional(string)
    volume_gib              = optional(number, 200)
  }))
  nullable = false

  validation {
    condition     = length(var.pools) > 0
    error_message = "pools must name at least one pool: the head alone runs no work."
  }

  validation {
    condition     = alltrue([for name in keys(var.pools) : can(regex("^[a-z][a-z0-9]{1,15}$", name))])
    error_message = "A pool's name must be 2 to 16 lower-case letters and digits, beginning with a letter: it becomes part of node type names."
  }

  validation {
    condition     = alltrue([for pool in var.pools : contains(["spot", "on_demand", "capacity_block"], pool.market)])
    error_message = "pools[*].market must be \"spot\", \"on_demand\" or \"capacity_block\"."
  }

  validation {
    condition     = alltrue([for pool in var.pools : length(pool.instance_types) > 0 && length(pool.instance_types) == length(toset(pool.instance_types))])
    error_message = "pools[*].instance_types must name at least one type, each once."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.market != "spot" || length(pool.instance_types) >= 3])
    error_message = "A spot pool needs at least 3 instance types: when one runs out of spare capacity, the others must carry on."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.min_nodes >= 0 && pool.max_nodes >= 1 && pool.min_nodes <= pool.max_nodes && pool.max_nodes <= 512])
    error_message = "pools[*] must have 0 <= min_nodes <= max_nodes, and max_nodes of 1 to 512."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.availability_zones == null ? true : length(pool.availability_zones) > 0])
    error_message = "pools[*].availability_zones must name at least one zone, or be left out for every zone of the cluster."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.volume_gib >= 80 && pool.volume_gib <= 16384])
    error_message = "pools[*].volume_gib must be 80 to 16384: EC2 makes no disk smaller than the image's."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.capacity_reservation_id == null ? pool.market != "capacity_block" : can(regex("^cr-[0-9a-f]{8,17}$", pool.capacity_reservation_id)) && pool.market != "spot"])
    error_message = "pools[*].capacity_reservation_id must be a reservation's id (cr-...): required for a capacity block, optional for on-demand, never for spot."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.capacity_reservation_id == null || length(pool.instance_types) == 1])
    error_message = "A pool with a capacity_reservation_id must name the one instance type that is reserved."
  }
}

variable "subnet_ids" {
  description = "Private subnets by availability zone."
  type        = map(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) > 0
    error_message = "subnet_ids must name a subnet of at least one availability zone."
  }
}

variable "token_secret_name" {
  description = "Secrets Manager name of the token required in every call to Ray."
  type        = string
  nullable    = false
}

variable "tracking" {
  description = "MLflow: its address, and the Secrets Manager name of the password of its user `pipelines`; null for none."
  type = object({
    uri         = string
    secret_name = string
  })
  default = null

  validation {
    condition     = var.tracking == null ? true : startswith(var.tracking.uri, "https://")
    error_message = "tracking.uri must begin with https://: the password travels with every call."
  }
}

variable "log_group_name" {
  description = "CloudWatch log group of the nodes' logs."
  type        = string
  nullable    = false
}

variable "idle_timeout_minutes" {
  description = "A worker without work for so long is ended."
  type        = number
  default     = 10
  nullable    = false

  validation {
    condition     = var.idle_timeout_minutes > 0 && var.idle_timeout_minutes <= 120
    error_message = "idle_timeout_minutes must be above 0 and at most 120: an idle GPU node costs as much as a busy one."
  }
}

variable "machine" {
  description = <<-EOT
    Paths and users in the machine image, as infra/image makes it.
    - python_prefix: bin/python and bin/ray are below it. user, home: whom Ray runs as. token_path: where the token is kept.
    - log_agent: started once before Ray. power_off: run when Ray is gone, to end the machine.
    - environment: exported before everything else; no secrets, user-data can be read by whoever may describe instances.
  EOT
  type = object({
    python_prefix = optional(string, "/opt/memlm")
    user          = optional(string, "memlm")
    home          = optional(string, "/var/lib/memlm")
    token_path    = optional(string, "/etc/ray/token")
    log_agent     = optional(string, "/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c file:/etc/ray/log-agent.json")
    power_off     = optional(string, "shutdown -h now")
    environment   = optional(map(string), {})
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for path in [var.machine.python_prefix, var.machine.home, var.machine.token_path] : can(regex("^/[A-Za-z0-9._/-]+$", path))])
    error_message = "machine.python_prefix, home and token_path must be absolute paths without blanks."
  }

  validation {
    condition     = alltrue([for name, value in var.machine.environment : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name)) && !strcontains(value, "'")])
    error_message = "machine.environment must hold shell variable names, and values without single quotes."
  }
}
