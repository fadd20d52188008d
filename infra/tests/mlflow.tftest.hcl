# MLflow: users must sign in, over TLS, and its database is reached by IAM.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name            = "memlm-test-mlflow"
  hostname        = "mlflow.test.example.com"
  certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/0"
  ami_id          = "ami-0123456789abcdef0"
  network = {
    vpc_id                      = "vpc-1"
    subnet_ids                  = { us-east-1a = "subnet-a", us-east-1b = "subnet-b" }
    endpoints_security_group_id = "sg-endpoints"
    s3_prefix_list_id           = "pl-s3"
  }
  storage = {
    buckets  = { artifacts = { name = "artifacts", arn = "arn:aws:s3:::artifacts" }, logs = { name = "logs", arn = "arn:aws:s3:::logs" } }
    key_arns = { artifacts = "key-artifacts", logs = "key-logs", secrets = "key-secrets", volumes = "key-volumes" }
  }
  log_group = { name = "/memlm-test/nodes", arn = "arn:aws:logs:us-east-1:123456789012:log-group:/memlm-test/nodes" }
  passwords = { admin = "0123456789abcdef", pipelines = "fedcba9876543210" }
}

run "database" {
  module {
    source = "./modules/mlflow"
  }

  assert {
    condition     = aws_db_instance.this.storage_encrypted && aws_db_instance.this.kms_key_id == "key-artifacts"
    error_message = "The database must be encrypted with its own key."
  }

  assert {
    condition     = aws_db_instance.this.iam_database_authentication_enabled && aws_db_instance.this.manage_master_user_password && aws_db_instance.this.password == null
    error_message = "The database is reached by IAM, and its master's password is RDS's to make."
  }

  assert {
    condition     = !aws_db_instance.this.publicly_accessible && aws_db_instance.this.vpc_security_group_ids == toset([aws_security_group.database.id])
    error_message = "The database must be reached from inside alone."
  }

  assert {
    condition     = aws_db_instance.this.deletion_protection && !aws_db_instance.this.skip_final_snapshot && aws_db_instance.this.backup_retention_period >= 7
    error_message = "What runs were compared must not be lost."
  }

  assert {
    condition     = anytrue([for parameter in aws_db_parameter_group.this.parameter : parameter.name == "rds.force_ssl" && parameter.value == "1"])
    error_message = "The database must refuse what is not TLS."
  }
}

run "database_logs" {
  module {
    source = "./modules/mlflow"
  }

  assert {
    condition     = toset([for group in aws_cloudwatch_log_group.database : group.name]) == toset([for log in aws_db_instance.this.enabled_cloudwatch_logs_exports : "/aws/rds/instance/memlm-test-mlflow/${log}"])
    error_message = "A log group that RDS makes itself has no key of ours, keeps all for ever, and outlives the database."
  }

  assert {
    condition     = alltrue([for group in aws_cloudwatch_log_group.database : group.kms_key_id == "key-logs" && group.retention_in_days == 365])
    error_message = "The database's logs must be encrypted, and kept for a year."
  }
}

run "way_in" {
  module {
    source = "./modules/mlflow"
  }

  assert {
    condition     = aws_lb.this.internal && aws_lb.this.drop_invalid_header_fields && aws_lb.this.enable_deletion_protection
    error_message = "The load balancer must be inside the network, and take nothing malformed."
  }

  assert {
    condition     = aws_lb_listener.https.protocol == "HTTPS" && startswith(aws_lb_listener.https.ssl_policy, "ELBSecurityPolicy-TLS13") && aws_lb_listener.https.certificate_arn == var.certificate_arn
    error_message = "MLflow is served by TLS alone, of a version of today."
  }

  assert {
    condition     = aws_lb_target_group.server.protocol == "HTTPS"
    error_message = "From the load balancer to the server it is TLS too."
  }

  assert {
    condition     = aws_lb.this.access_logs[0].enabled && aws_lb.this.access_logs[0].bucket == "logs"
    error_message = "Who asks MLflow for what must be logged."
  }

  assert {
    condition = alltrue([
      for rule in [aws_vpc_security_group_ingress_rule.server_from_balancer, aws_vpc_security_group_ingress_rule.database_from_server] :
      rule.cidr_ipv4 == null && rule.cidr_ipv6 == null && rule.from_port == rule.to_port
    ])
    error_message = "Server and database are each reached by one group at one port."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.database_from_server.referenced_security_group_id == aws_security_group.server.id && aws_vpc_security_group_ingress_rule.server_from_balancer.referenced_security_group_id == aws_security_group.balancer.id
    error_message = "The database is reached by the server alone, and that by the load balancer alone."
  }

  assert {
    condition     = one(aws_route53_zone.this.vpc).vpc_id == "vpc-1" && aws_route53_record.this.name == var.hostname
    error_message = "MLflow's name must be known inside the network alone."
  }
}

run "server" {
  module {
    source = "./modules/mlflow"
  }

  assert {
    condition     = aws_launch_template.server.metadata_options[0].http_tokens == "required" && aws_launch_template.server.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "Metadata must be had by IMDSv2, from the machine itself alone."
  }

  assert {
    condition     = alltrue([for device in aws_launch_template.server.block_device_mappings : device.ebs[0].encrypted == "true"])
    error_message = "The server's disk must be encrypted."
  }

  assert {
    condition     = alltrue([for device in aws_launch_template.server.block_device_mappings : device.ebs[0].volume_size >= 80])
    error_message = "The server's disk must hold the image's."
  }

  assert {
    condition     = strcontains(output.user_data, "--app-name basic-auth") && strcontains(output.user_data, "--allowed-hosts 'mlflow.test.example.com,")
    error_message = "Who comes must sign in, and ask for the server by its name."
  }

  assert {
    condition     = strcontains(output.user_data, "mlflow@db.internal:5432/mlflow?sslmode=verify-full&sslrootcert=") && strcontains(output.user_data, "--artifacts-destination 's3://artifacts/mlflow'")
    error_message = "The server keeps runs in the database, whose certificate it checks, and artifacts in S3."
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.server.policy).Statement : statement.Resource if contains(statement.Action, "rds-db:connect")] == [["arn:aws:rds-db:us-east-1:123456789012:dbuser:db-ABC/mlflow"]]
    error_message = "The server signs in to its own database, as one user."
  }

  assert {
    condition     = alltrue([for statement in jsondecode(aws_iam_role_policy.server.policy).Statement : !contains(statement.Resource, "*")])
    error_message = "No right of the server is to everything."
  }

  assert {
    condition     = strcontains(output.user_data, "Version 1 of the passwords") && one(aws_autoscaling_group.server.instance_refresh).strategy == "Rolling"
    error_message = "Other passwords must come with another machine: their version stands in its boot script, and the group changes its machine for it."
  }

  assert {
    condition     = alltrue([for version in aws_secretsmanager_secret_version.password : version.secret_string == null]) && alltrue([for secret in aws_secretsmanager_secret.password : secret.kms_key_id == "key-secrets"])
    error_message = "Passwords must be in Secrets Manager, under the secrets' key, and not in the state."
  }
}

# --- Bad input ---

run "no_certificate" {
  command = plan

  module {
    source = "./modules/mlflow"
  }

  variables {
    certificate_arn = "none"
  }

  expect_failures = [var.certificate_arn]
}

run "same_passwords" {
  command = plan

  module {
    source = "./modules/mlflow"
  }

  variables {
    passwords = { admin = "0123456789abcdef", pipelines = "0123456789abcdef" }
  }

  expect_failures = [var.passwords]
}

run "short_password" {
  command = plan

  module {
    source = "./modules/mlflow"
  }

  variables {
    passwords = { admin = "password1234", pipelines = "0123456789abcdef" }
  }

  expect_failures = [var.passwords]
}

run "few_backups" {
  command = plan

  module {
    source = "./modules/mlflow"
  }

  variables {
    database = { backup_days = 1 }
  }

  expect_failures = [var.database]
}
