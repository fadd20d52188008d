variable "name" {
  description = "First part of the buckets' and keys' names."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,28}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 30 lower-case letters, digits or hyphens, beginning with a letter: a bucket's name, with the account's number behind it, has 63 at most."
  }
}

variable "protected" {
  description = "Whether buckets that hold something survive `terraform destroy`."
  type        = bool
  default     = true
  nullable    = false
}

variable "noncurrent_days" {
  description = "Days for which overwritten and deleted objects can be restored."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.noncurrent_days >= 1 && var.noncurrent_days <= 365 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days must be a whole number of 1 to 365."
  }
}

variable "log_days" {
  description = "Days that access and flow logs are kept."
  type        = number
  default     = 90
  nullable    = false

  validation {
    condition     = var.log_days >= 7 && var.log_days <= 3653 && floor(var.log_days) == var.log_days
    error_message = "log_days must be a whole number of 7 to 3653."
  }
}
