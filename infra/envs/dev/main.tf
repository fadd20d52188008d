# To try things: one cluster, single GPUs on spot that go when idle, nothing that keeps `terraform destroy` from taking everything.
module "platform" {
  source = "../../modules/platform"

  environment        = "dev"
  cidr_block         = var.cidr_block
  availability_zones = var.availability_zones
  ami_id             = var.ami_id
  protected          = false
  monthly_budget_usd = var.monthly_budget_usd
  alert_emails       = var.alert_emails
  ray_tokens         = var.ray_tokens
  mlflow_passwords   = var.mlflow_passwords
  secrets_version    = var.secrets_version

  mlflow = {
    hostname        = var.mlflow_hostname
    certificate_arn = var.mlflow_certificate_arn
  }

  clusters = {
    main = {
      head = { instance_type = "m7i.xlarge" }
      pools = {
        gpu = { market = "spot", max_nodes = 4, instance_types = ["g6.xlarge", "g5.xlarge", "g6e.xlarge"] }
      }
    }
  }
}
