# A whole environment: one private network, its storage, MLflow, any number of Ray clusters, and alarms.

data "aws_region" "current" {}

locals {
  name   = "${var.project}-${var.environment}"
  region = data.aws_region.current.region
  tags   = { project = var.project, environment = var.environment, stack = local.name }
}

module "storage" {
  source = "../storage"

  name      = local.name
  protected = var.protected
}

module "network" {
  source = "../network"

  name               = local.name
  cidr_block         = var.cidr_block
  availability_zones = var.availability_zones
  logs_bucket_arn    = module.storage.buckets["logs"].arn
}

module "observability" {
  source = "../observability"

  name               = local.name
  stack              = local.tags.stack
  logs_key_arn       = module.storage.key_arns["logs"]
  alert_emails       = var.alert_emails
  monthly_budget_usd = var.monthly_budget_usd
  head_groups        = { for name, cluster in module.ray_cluster : name => cluster.head_group_name }
  tracking           = module.mlflow.watched
}

module "mlflow" {
  source = "../mlflow"

  name              = "${local.name}-mlflow"
  hostname          = var.mlflow.hostname
  certificate_arn   = var.mlflow.certificate_arn
  ami_id            = var.ami_id
  instance_type     = var.mlflow.instance_type
  database          = var.mlflow.database
  protected         = var.protected
  network           = module.network
  storage           = module.storage
  log_group         = module.observability.log_group
  passwords         = var.mlflow_passwords
  passwords_version = var.secrets_version
  tags              = local.tags
}

module "ray_cluster" {
  source   = "../ray_cluster"
  for_each = var.clusters

  name                 = "${local.name}-${each.key}"
  ami_id               = var.ami_id
  head                 = each.value.head
  pools                = each.value.pools
  idle_timeout_minutes = each.value.idle_timeout_minutes
  network              = module.network
  storage              = module.storage
  prefix               = var.project
  protected            = var.protected
  tracking             = module.mlflow.tracking
  log_group            = module.observability.log_group
  ray_token            = var.ray_tokens[each.key]
  ray_token_version    = var.secrets_version
  tags                 = local.tags
}
