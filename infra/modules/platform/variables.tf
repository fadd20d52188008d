variable "project" {
  description = "First part of every name, value of the tag `project`, and prefix of all runs in the bucket `runs`."
  type        = string
  default     = "memlm"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,11}$", var.project))
    error_message = "project must be 2 to 12 lower-case letters or digits, beginning with a letter: it begins names that may have 32 characters."
  }
}

variable "environment" {
  description = "Second part of every name: dev, prod, ..."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,7}$", var.environment))
    error_message = "environment must be 2 to 8 lower-case letters or digits, beginning with a letter: it is part of names that may have 32 characters."
  }
}

variable "cidr_block" {
  description = "Addresses of the network; see the network module."
  type        = string
  nullable    = false

  # A node has one address: EFA's other cards take none. 5 of a subnet are AWS's, 32 are left to heads, endpoints, load balancer and database.
  validation {
    condition = try(alltrue([
      for zone in var.availability_zones : pow(2, 30 - tonumber(split("/", var.cidr_block)[1])) - 5 - 32 >= sum(concat([0], flatten([
        for cluster in var.clusters : [
          for pool in cluster.pools : pool.max_nodes * length(pool.instance_types) if contains(coalesce(pool.availability_zones, var.availability_zones), zone)
        ]
      ])))
    ]), true)
    error_message = "cidr_block is too small: a quarter of it, less 37 addresses, must hold all nodes that clusters[*].pools[*] may have in one zone (max_nodes of each instance type)."
  }
}

variable "availability_zones" {
  description = "Zones of the network; see the network module."
  type        = list(string)
  nullable    = false
}

variable "ami_id" {
  description = "Machine image of all machines, made by infra/image."
  type        = string
  nullable    = false
}

variable "clusters" {
  description = <<-EOT
    Ray clusters by name. Ray gives a job whatever node fits, so work that must not share nodes, such as pretraining on reserved machines and
    sweeps on spot ones, has clusters of its own. See ray_cluster/nodes/variables.tf for what a head and pools may be.
  EOT
  type = map(object({
    head = object({
      instance_type = string
      volume_gib    = optional(number, 100)
      num_cpus      = optional(number, 0)
    })
    pools = map(object({
      instance_types          = list(string)
      market                  = string
      max_nodes               = number
      min_nodes               = optional(number, 0)
      availability_zones      = optional(list(string))
      capacity_reservation_id = optional(string)
      volume_gib              = optional(number, 200)
    }))
    idle_timeout_minutes = optional(number, 10)
  }))
  nullable = false

  validation {
    condition     = length(var.clusters) > 0 && alltrue([for name in keys(var.clusters) : can(regex("^[a-z][a-z0-9]{1,11}$", name))])
    error_message = "clusters must name at least one, each by 2 to 12 lower-case letters or digits, beginning with a letter."
  }

  validation {
    condition     = !contains(keys(var.clusters), "mlflow")
    error_message = "A cluster must not be called mlflow: the tracking server has that name."
  }
}

variable "mlflow" {
  description = "The tracking server: its name inside the network, the certificate of that name, machine and database; see the mlflow module."
  type = object({
    hostname        = string
    certificate_arn = string
    instance_type   = optional(string, "m7i.large")
    database = optional(object({
      instance_class = optional(string, "db.t4g.small")
      storage_gib    = optional(number, 20)
      multi_az       = optional(bool, false)
      backup_days    = optional(number, 7)
    }), {})
  })
  nullable = false
}

variable "protected" {
  description = "Whether buckets, database and load balancer survive `terraform destroy`."
  type        = bool
  nullable    = false
}

variable "monthly_budget_usd" {
  description = "Monthly cost in USD above which a notification is sent."
  type        = number
  nullable    = false
}

variable "alert_emails" {
  description = "Recipients of alarms and budget notifications."
  type        = set(string)
  nullable    = false
}

variable "ray_tokens" {
  description = "Token of each cluster, required in every call to it. Tokens go to Secrets Manager, and never into state or plan."
  type        = map(string)
  ephemeral   = true
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.clusters), keys(var.ray_tokens))) == 0
    error_message = "ray_tokens must hold a token for every cluster; make one by: openssl rand -hex 32."
  }

  validation {
    condition     = alltrue([for token in values(var.ray_tokens) : length(token) >= 32])
    error_message = "ray_tokens must have 32 characters or more each; make one by: openssl rand -hex 32."
  }

  validation {
    condition     = length(toset(values(var.ray_tokens))) == length(var.ray_tokens)
    error_message = "ray_tokens must differ from each other: the token of one cluster must not open another."
  }
}

variable "mlflow_passwords" {
  description = "Passwords of MLflow's users `admin` (people) and `pipelines` (jobs). They go to Secrets Manager, and never into state or plan."
  type        = object({ admin = string, pipelines = string })
  ephemeral   = true
  nullable    = false
}

variable "secrets_version" {
  description = "Version of tokens and passwords; raise it to replace them."
  type        = number
  default     = 1
  nullable    = false
}
