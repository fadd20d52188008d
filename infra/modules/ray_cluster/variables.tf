# name, head, pools, idle_timeout_minutes and machine are checked in nodes/variables.tf, to which they are passed unchanged.

variable "name" {
  description = "Cluster name, unique in the account and region."
  type        = string
  nullable    = false
}

variable "ami_id" {
  description = "Machine image of all nodes, made by infra/image."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "ami_id must be an image's id (ami-...), never a name or an alias that may come to mean another image."
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
}

variable "pools" {
  description = "Groups of workers by purpose; see nodes/variables.tf."
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
}

variable "idle_timeout_minutes" {
  description = "A worker without work for so long is ended."
  type        = number
  default     = 10
  nullable    = false
}

variable "machine" {
  description = "Paths and users in the machine image; see nodes/variables.tf."
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
}

variable "network" {
  description = "Network of the nodes: the network module's outputs."
  type = object({
    vpc_id                      = string
    subnet_ids                  = map(string)
    endpoints_security_group_id = string
    s3_prefix_list_id           = string
  })
  nullable = false
}

variable "storage" {
  description = "The storage module's outputs."
  type = object({
    buckets  = map(object({ name = string, arn = string }))
    key_arns = map(string)
  })
  nullable = false
}

variable "prefix" {
  description = "Prefix in the bucket `runs` below which this cluster's nodes may read and write."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._-]*$", var.prefix))
    error_message = "prefix must be one name of letters, digits, dots, hyphens or underscores, without a slash."
  }
}

variable "tracking" {
  description = "MLflow: address, secret of its user `pipelines`, security group of its load balancer; null for none."
  type = object({
    uri               = string
    secret_name       = string
    secret_arn        = string
    security_group_id = string
  })
  default = null
}

variable "log_group" {
  description = "CloudWatch log group of the nodes' logs."
  type        = object({ name = string, arn = string })
  nullable    = false
}

variable "protected" {
  description = "Whether the token can be restored for 30 days after `terraform destroy`."
  type        = bool
  default     = true
  nullable    = false
}

variable "ray_token" {
  description = "Token required in every call to Ray. It goes to Secrets Manager, and never into state or plan."
  type        = string
  ephemeral   = true
  nullable    = false

  validation {
    condition     = length(var.ray_token) >= 32
    error_message = "ray_token must have 32 characters or more; make one by: openssl rand -hex 32."
  }
}

variable "ray_token_version" {
  description = "Version of the token; raise it to replace the token."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.ray_token_version >= 1 && floor(var.ray_token_version) == var.ray_token_version
    error_message = "ray_token_version must be a whole number, 1 or more."
  }
}

variable "tags" {
  description = "Tags of machines and disks that are launched from templates, which the provider's default tags do not reach."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for key in keys(var.tags) : can(regex("^[A-Za-z0-9+=._:@-]+$", key))])
    error_message = "tags must have keys of letters, digits and + = . _ : @ -: machines read their tags from their metadata, whose addresses hold no blank or slash."
  }
}
