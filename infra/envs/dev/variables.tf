variable "region" {
  description = "AWS region of everything."
  type        = string
  default     = "us-east-1"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be a region's code such as us-east-1, not a zone's."
  }
}

variable "account_ids" {
  description = "Accounts in which this may be applied; null for any."
  type        = list(string)
  default     = null

  validation {
    condition     = var.account_ids == null ? true : alltrue([for id in var.account_ids : can(regex("^[0-9]{12}$", id))])
    error_message = "account_ids must be account numbers of 12 digits."
  }
}

variable "availability_zones" {
  description = "Zones of the network, two to four of the region."
  type        = list(string)
  default     = ["us-east-1a", "us-east-1b"]
  nullable    = false

  validation {
    condition     = alltrue([for zone in var.availability_zones : startswith(zone, var.region)])
    error_message = "availability_zones must be zones of the region ${var.region}."
  }
}

variable "cidr_block" {
  description = "Addresses of the network."
  type        = string
  default     = "10.20.0.0/18"
  nullable    = false
}

variable "ami_id" {
  description = "Machine image made by infra/image."
  type        = string
  nullable    = false
}

variable "mlflow_hostname" {
  description = "Name of the tracking server."
  type        = string
  nullable    = false
}

variable "mlflow_certificate_arn" {
  description = "ACM certificate of that name."
  type        = string
  nullable    = false
}

variable "alert_emails" {
  description = "Recipients of alarms and budget notifications."
  type        = set(string)
  nullable    = false
}

variable "monthly_budget_usd" {
  description = "Monthly cost in USD above which a notification is sent."
  type        = number
  default     = 1000
  nullable    = false
}

variable "ray_tokens" {
  description = "Token of each cluster, required in every call to it: TF_VAR_ray_tokens='{\"main\":\"...\"}'."
  type        = map(string)
  ephemeral   = true
  nullable    = false
}

variable "mlflow_passwords" {
  description = "Passwords of MLflow's users: TF_VAR_mlflow_passwords='{\"admin\":\"...\",\"pipelines\":\"...\"}'."
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
