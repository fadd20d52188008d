# A cluster of small machines, put together from the modules as they are: what differs from dev and prod is how a machine is laid out.

variable "token" {
  type      = string
  ephemeral = true
}

variable "machine" {
  type = any
}

locals {
  zones = ["us-east-1a", "us-east-1b"]
}

module "storage" {
  source = "../../modules/storage"

  name      = "memlm-fake"
  protected = false
}

module "network" {
  source = "../../modules/network"

  name               = "memlm-fake"
  cidr_block         = "10.77.0.0/22"
  availability_zones = local.zones
  logs_bucket_arn    = module.storage.buckets["logs"].arn
}

module "ray_cluster" {
  source = "../../modules/ray_cluster"

  name                 = "memlm-fake"
  ami_id               = "ami-0123456789abcdef0"
  head                 = { instance_type = "m7i.xlarge" }
  idle_timeout_minutes = 0.4
  network              = module.network
  storage              = module.storage
  prefix               = "memlm"
  log_group            = { name = "fake", arn = "arn:aws:logs:us-east-1:123456789012:log-group:fake" }
  ray_token            = var.token
  machine              = var.machine

  pools = {
    cpu = {
      market             = "spot"
      max_nodes          = 2
      instance_types     = ["m7i.large", "m6i.large", "m7a.large"]
      availability_zones = ["us-east-1a"]
    }
  }
}

output "nodes" {
  value = module.ray_cluster.nodes
}

output "storage_uri" {
  value = module.ray_cluster.storage_uri
}

output "token_secret_name" {
  value = module.ray_cluster.token_secret_name
}
