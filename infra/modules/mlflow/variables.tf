variable "name" {
  description = "First part of the names of the server's parts."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 24 lower-case letters, digits or hyphens, beginning with a letter: a load balancer's name has 32 at most."
  }
}

variable "hostname" {
  description = "Name under which browsers and pipelines reach MLflow; it resolves inside the network alone."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.hostname))
    error_message = "hostname must be a full name in lower case, such as mlflow.dev.example.com, and the certificate's."
  }
}

variable "certificate_arn" {
  description = "ACM certificate of the hostname, which clients trust without further setup."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+$", var.certificate_arn))
    error_message = "certificate_arn must be the ARN of an ACM certificate; MLflow is not served without TLS."
  }
}

variable "ami_id" {
  description = "Machine image, the same as the nodes'."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "ami_id must be an image's id (ami-...), never a name or an alias that may come to mean another image."
  }
}

variable "instance_type" {
  description = "Of the server."
  type        = string
  default     = "m7i.large"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9]+$", var.instance_type))
    error_message = "instance_type must be an EC2 instance type such as m7i.large."
  }
}

variable "database" {
  description = "PostgreSQL: instance class, GiB of storage, a standby in a second zone, days of backups."
  type = object({
    instance_class = optional(string, "db.t4g.small")
    storage_gib    = optional(number, 20)
    multi_az       = optional(bool, false)
    backup_days    = optional(number, 7)
  })
  default  = {}
  nullable = false

  validation {
    condition     = startswith(var.database.instance_class, "db.") && var.database.storage_gib >= 20 && var.database.storage_gib <= 65536
    error_message = "database.instance_class must be an RDS class such as db.t4g.small, and storage_gib 20 to 65536."
  }

  validation {
    condition     = var.database.backup_days >= 7 && var.database.backup_days <= 35
    error_message = "database.backup_days must be 7 to 35: the record of past runs cannot be made again."
  }
}

variable "protected" {
  description = "Whether database and load balancer survive `terraform destroy`."
  type        = bool
  default     = true
  nullable    = false
}

variable "network" {
  description = "Network of the server: the network module's outputs."
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

variable "log_group" {
  description = "CloudWatch log group of the server's logs."
  type        = object({ name = string, arn = string })
  nullable    = false
}

variable "passwords" {
  description = "Passwords of MLflow's users `admin` (people) and `pipelines` (jobs). They go to Secrets Manager, and never into state or plan."
  type        = object({ admin = string, pipelines = string })
  ephemeral   = true
  nullable    = false

  validation {
    condition     = length(var.passwords.admin) >= 16 && length(var.passwords.pipelines) >= 16
    error_message = "passwords.admin and passwords.pipelines must have 16 characters or more each; make one by: openssl rand -hex 16."
  }

  validation {
    condition     = can(regex("^[A-Za-z0-9._~-]+$", var.passwords.admin)) && can(regex("^[A-Za-z0-9._~-]+$", var.passwords.pipelines))
    error_message = "passwords must hold letters, digits and . _ ~ - alone: they are kept in ini files, where others have a meaning."
  }

  validation {
    condition     = var.passwords.admin != var.passwords.pipelines
    error_message = "passwords.admin and passwords.pipelines must differ: jobs must not be able to act as the administrator."
  }
}

variable "passwords_version" {
  description = "Version of the passwords; raise it to replace them."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.passwords_version >= 1 && floor(var.passwords_version) == var.passwords_version
    error_message = "passwords_version must be a whole number, 1 or more."
  }
}

variable "machine" {
  description = "Paths and users in the machine image, as infra/image makes it."
  type = object({
    python_prefix = optional(string, "/opt/memlm")
    user          = optional(string, "memlm")
    home          = optional(string, "/var/lib/memlm")
    rds_bundle    = optional(string, "/opt/memlm/rds-bundle.pem")
    log_agent     = optional(string, "/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c file:/etc/mlflow/log-agent.json")
    etc           = optional(string, "/etc/mlflow")
  })
  default  = {}
  nullable = false
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
