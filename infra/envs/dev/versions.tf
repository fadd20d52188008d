terraform {
  required_version = ">= 1.11, < 2.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }

  # bucket, region and kms_key_id are given once: terraform init -backend-config=backend.hcl
  # The lock file makes a second apply that begins while one is running fail at once.
  backend "s3" {
    key          = "memlm/dev/terraform.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region              = var.region
  allowed_account_ids = var.account_ids

  default_tags {
    tags = { project = "memlm", environment = "dev", stack = "memlm-dev" }
  }
}
