ami_id                 = "ami-0123456789abcdef0"
mlflow_hostname        = "mlflow.prod.example.com"
mlflow_certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/01234567-89ab-cdef-0123-456789abcdef"
alert_emails           = ["ml-platform@example.com"]

pretrain_pool = {
  instance_type           = "p5.48xlarge"
  market                  = "capacity_block"
  num_nodes               = 8
  availability_zone       = "us-east-1a"
  capacity_reservation_id = "cr-0123456789abcdef0"
}
