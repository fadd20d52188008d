# The paper's scale: pretraining on reserved 8-GPU machines with EFA, everything else on spot, in clusters that share storage and MLflow.
module "platform" {
  source = "../../modules/platform"

  environment        = "prod"
  cidr_block         = var.cidr_block
  availability_zones = var.availability_zones
  ami_id             = var.ami_id
  protected          = true
  monthly_budget_usd = var.monthly_budget_usd
  alert_emails       = var.alert_emails
  ray_tokens         = var.ray_tokens
  mlflow_passwords   = var.mlflow_passwords
  secrets_version    = var.secrets_version

  mlflow = {
    hostname        = var.mlflow_hostname
    certificate_arn = var.mlflow_certificate_arn
    instance_type   = "m7i.xlarge"
    database        = { instance_class = "db.m7g.large", storage_gib = 100, multi_az = true, backup_days = 30 }
  }

  clusters = {
    pretrain = {
      head = { instance_type = "m7i.2xlarge", volume_gib = 200 }
      pools = {
        train = {
          market                  = var.pretrain_pool.market
          instance_types          = [var.pretrain_pool.instance_type]
          max_nodes               = var.pretrain_pool.num_nodes
          availability_zones      = [var.pretrain_pool.availability_zone]
          capacity_reservation_id = var.pretrain_pool.capacity_reservation_id
          volume_gib              = 2000
        }
      }
      idle_timeout_minutes = 30
    }

    sweep = {
      head = { instance_type = "m7i.2xlarge", volume_gib = 200 }
      pools = {
        cpu = { market = "spot", max_nodes = 32, instance_types = ["m7i.4xlarge", "m6i.4xlarge", "m7a.4xlarge"] }
        gpu = { market = "spot", max_nodes = 32, instance_types = ["g6.2xlarge", "g5.2xlarge", "g6e.2xlarge"] }
      }
    }
  }
}
