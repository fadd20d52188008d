variable "region" {
  description = "AWS region in which the image is built and used."
  type        = string
  default     = "us-east-1"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be a region's code such as us-east-1, not a zone's."
  }
}

variable "recipe_version" {
  description = "Version of this recipe; raise it to build another image."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", var.recipe_version))
    error_message = "recipe_version must be three numbers, such as 1.0.0."
  }
}

variable "parent_ami_id" {
  description = "Deep Learning Base OSS Nvidia Driver GPU AMI (Amazon Linux 2023). The current one: aws ssm get-parameter --name /aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.parent_ami_id))
    error_message = "parent_ami_id must be an image's id (ami-...), never a name or an alias that may come to mean another image."
  }
}

variable "subnet_id" {
  description = "Subnet in which the image is built. It needs a way out to a package index, so never take a cluster's, which have none."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^subnet-[0-9a-f]{8,17}$", var.subnet_id))
    error_message = "subnet_id must be a subnet's id (subnet-...)."
  }
}

variable "rds_bundle" {
  description = "File with the certificates of RDS (global-bundle.pem from RDS's trust store), and the sha256 that it had when you looked at it."
  type        = object({ path = string, sha256 = string })
  nullable    = false

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.rds_bundle.sha256))
    error_message = "rds_bundle.sha256 must be 64 hexadecimal digits."
  }

  validation {
    condition     = try(filesha256(var.rds_bundle.path) == var.rds_bundle.sha256, false)
    error_message = "rds_bundle.path is not there, or is not the file whose sha256 is named."
  }
}
