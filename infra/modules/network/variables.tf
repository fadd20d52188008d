variable "name" {
  description = "First part of the names of the network's parts."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 40 lower-case letters, digits or hyphens, beginning with a letter."
  }
}

variable "cidr_block" {
  description = "Addresses of the network, /16 to /22. Each of four availability zones gets a quarter of them, whether it is used or not."
  type        = string
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.cidr_block)) && try(cidrhost(var.cidr_block, 0) == split("/", var.cidr_block)[0], false)
    error_message = "cidr_block must be an IPv4 network such as 10.20.0.0/16, with no bit set behind its prefix."
  }

  validation {
    condition     = can(cidrnetmask(var.cidr_block)) ? try(tonumber(split("/", var.cidr_block)[1]), 0) >= 16 : true
    error_message = "cidr_block is too large: a VPC takes /16 at most."
  }

  validation {
    condition     = can(cidrnetmask(var.cidr_block)) ? try(tonumber(split("/", var.cidr_block)[1]), 32) <= 22 : true
    error_message = "cidr_block is too small: a quarter of it must hold a zone's nodes, endpoints and load balancer, so take /22 or larger (251 addresses a zone)."
  }

  validation {
    condition     = can(regex("^(10\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|192\\.168\\.)", var.cidr_block))
    error_message = "cidr_block must be private (within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16)."
  }
}

variable "availability_zones" {
  description = "Zones that get a subnet, at least two, because the tracking database and its load balancer need two."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.availability_zones) >= 2 && length(var.availability_zones) <= 4 && length(var.availability_zones) == length(toset(var.availability_zones))
    error_message = "availability_zones must name 2 to 4 zones, each once."
  }

  validation {
    condition     = alltrue([for zone in var.availability_zones : can(regex("^[a-z]{2}(-[a-z]+)+-[0-9][a-z]$", zone))])
    error_message = "availability_zones must be names such as us-east-1a."
  }

  validation {
    condition     = length(toset([for zone in var.availability_zones : substr(zone, 0, max(length(zone) - 1, 0))])) <= 1
    error_message = "availability_zones must all be of one region."
  }
}

variable "interface_services" {
  description = "AWS services that nodes reach through interface endpoints; there is no other way out."
  type        = set(string)
  default     = ["ec2", "ec2messages", "kms", "logs", "monitoring", "secretsmanager", "ssm", "ssmmessages", "sts"]
  nullable    = false

  validation {
    condition     = length(setsubtract(["ec2", "kms", "logs", "secretsmanager", "ssm", "ssmmessages", "sts"], var.interface_services)) == 0
    error_message = "interface_services must hold ec2, kms, logs, secretsmanager, ssm, ssmmessages and sts: without them no node starts, or nobody reaches the head."
  }
}

variable "logs_bucket_arn" {
  description = "Bucket that takes the flow logs."
  type        = string
  nullable    = false
}
