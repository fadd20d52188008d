ami_id                 = "ami-0123456789abcdef0"
mlflow_hostname        = "mlflow.dev.example.com"
mlflow_certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/01234567-89ab-cdef-0123-456789abcdef"
alert_emails           = ["ml-platform@example.com"]
