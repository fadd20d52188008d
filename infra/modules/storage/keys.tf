# A key for each class of data, so that rights to one open no other.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  keys = {
    corpus    = "corpus shards"
    runs      = "runs: blocks, checkpoints, counts, learned models"
    artifacts = "MLflow's artifacts and database"
    logs      = "log groups and alarms"
    secrets   = "tokens and passwords"
    volumes   = "disks of the nodes"
  }

  key_uses = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]

  # The right to use a key comes from IAM policies of this account, but for services that use it in their own name.
  account_statement = {
    Sid       = "IamPoliciesOfThisAccount"
    Effect    = "Allow"
    Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
    Action    = ["kms:*"]
    Resource  = ["*"]
  }

  # The head is launched by its auto-scaling group and spot workers by EC2's spot service, whose roles have to open the disks.
  launchers = { AWS = [
    for role in ["autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling", "spot.amazonaws.com/AWSServiceRoleForEC2Spot"] :
    "arn:${local.partition}:iam::${local.account}:role/aws-service-role/${role}"
  ] }

  service_statements = {
    logs = [
      {
        Sid       = "LogGroups"
        Effect    = "Allow"
        Principal = { Service = "logs.${local.region}.amazonaws.com" }
        Action    = local.key_uses
        Resource  = ["*"]
        Condition = { ArnLike = { "kms:EncryptionContext:aws:logs:arn" = "arn:${local.partition}:logs:${local.region}:${local.account}:*" } }
      },
      {
        Sid       = "Alarms"
        Effect    = "Allow"
        Principal = { Service = ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"] }
        Action    = local.key_uses
        Resource  = ["*"]
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      },
    ]
    volumes = [
      { Sid = "OpenDisks", Effect = "Allow", Principal = local.launchers, Action = local.key_uses, Resource = ["*"] },
      {
        Sid       = "AttachDisks"
        Effect    = "Allow"
        Principal = local.launchers
        Action    = ["kms:CreateGrant"]
        Resource  = ["*"]
        Condition = { Bool = { "kms:GrantIsForAWSResource" = "true" } }
      },
    ]
  }

  key_policies = {
    for name in keys(local.keys) : name => jsonencode({
      Version   = "2012-10-17"
      Statement = concat([local.account_statement], try(local.service_statements[name], []))
    })
  }
}

resource "aws_kms_key" "this" {
  for_each = local.keys

  description             = "${var.name}: ${each.value}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = local.key_policies[each.key]

  tags = { Name = "${var.name}-${each.key}" }
}

resource "aws_kms_alias" "this" {
  for_each = local.keys

  name          = "alias/${var.name}-${each.key}"
  target_key_id = aws_kms_key.this[each.key].key_id
}
