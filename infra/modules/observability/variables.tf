variable "name" {
  description = "First part of the names of alarms, topic and log group."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 40 lower-case letters, digits or hyphens, beginning with a letter."
  }
}

variable "logs_key_arn" {
  description = "KMS key of log group and topic."
  type        = string
  nullable    = false
}

variable "retention_days" {
  description = "Days that nodes' logs are kept."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827], var.retention_days)
    error_message = "retention_days must be one that CloudWatch knows: 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096 or 1827."
  }
}

variable "alert_emails" {
  description = "Mail addresses for alarms and the budget. Each gets a mail that asks for confirmation."
  type        = set(string)
  nullable    = false

  validation {
    condition     = length(var.alert_emails) > 0 && length(var.alert_emails) <= 10
    error_message = "alert_emails must name 1 to 10 addresses: a budget that nobody hears of is none."
  }

  validation {
    condition     = alltrue([for address in var.alert_emails : can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", address))])
    error_message = "alert_emails must be mail addresses."
  }
}

variable "monthly_budget_usd" {
  description = "Monthly cost in USD of everything with the tag `stack = <stack>` above which a notification is sent."
  type        = number
  nullable    = false

  validation {
    condition     = var.monthly_budget_usd >= 1
    error_message = "monthly_budget_usd must be at least 1."
  }
}

variable "stack" {
  description = "Value of the cost allocation tag `stack`, by which the budget counts this environment alone, since environments share one bill."
  type        = string
  nullable    = false
}

variable "head_groups" {
  description = "Auto-scaling groups of the heads by cluster."
  type        = map(string)
  nullable    = false
}

variable "tracking" {
  description = "MLflow's database, load balancer and target group; see the mlflow module's output `watched`."
  type = object({
    database      = string
    storage_gib   = number
    load_balancer = string
    target_group  = string
  })
  nullable = false
}
