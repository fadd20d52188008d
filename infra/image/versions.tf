terraform {
  required_version = ">= 1.11, < 2.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }

  # bucket, region and kms_key_id are given once: terraform init -backend-config=backend.hcl
  backend "s3" {
    key          = "memlm/image/terraform.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = "memlm", environment = "image" }
  }
}
