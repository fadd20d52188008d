# MLflow's server on one machine of a group of one, its database on RDS, its artifacts in S3. The way in is a load balancer inside the
# network, with TLS, and its users must sign in.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  subnet_ids    = values(var.network.subnet_ids)
  database_user = "mlflow"
  database_uri  = "postgresql+psycopg://${local.database_user}@${aws_db_instance.this.address}:${aws_db_instance.this.port}/mlflow?sslmode=verify-full&sslrootcert=${var.machine.rds_bundle}"

  user_data = templatefile("${path.module}/templates/server.sh.tftpl", {
    region                = local.region
    machine               = var.machine
    hostname              = var.hostname
    database_host         = aws_db_instance.this.address
    database_user         = local.database_user
    database_uri          = local.database_uri
    master_secret_arn     = aws_db_instance.this.master_user_secret[0].secret_arn
    artifacts_uri         = "s3://${var.storage.buckets["artifacts"].name}/mlflow"
    admin_secret_name     = aws_secretsmanager_secret.password["admin"].name
    pipelines_secret_name = aws_secretsmanager_secret.password["pipelines"].name
    iam_auth              = trimspace(file("${path.module}/templates/iam_auth.py"))
    prepare_database      = trimspace(file("${path.module}/templates/prepare_database.py"))
    prepare_users         = trimspace(file("${path.module}/templates/prepare_users.py"))
    passwords_version     = var.passwords_version
    log_agent_config = jsonencode({
      agent = { run_as_user = "root" }
      logs = { logs_collected = { files = { collect_list = [
        for file in ["/var/log/messages", "/var/log/cloud-init-output.log"] :
        { file_path = file, log_group_name = var.log_group.name, log_stream_name = "{instance_id}${file}" }
      ] } } }
    })
  })
}

# --- Passwords ---

resource "aws_secretsmanager_secret" "password" {
  for_each = toset(["admin", "pipelines"])

  name        = "${var.name}/${each.key}"
  description = "Password of MLflow's user ${each.key}"
  kms_key_id  = var.storage.key_arns["secrets"]

  # Without protection its name must be free again at once.
  recovery_window_in_days = var.protected ? 30 : 0
}

resource "aws_secretsmanager_secret_version" "password" {
  for_each = aws_secretsmanager_secret.password

  secret_id                = each.value.id
  secret_string_wo         = var.passwords[each.key]
  secret_string_wo_version = var.passwords_version
}

# --- Network rules: load balancer -> server -> database ---

resource "aws_security_group" "balancer" {
  name        = "${var.name}-balancer"
  description = "Load balancer of MLflow; Ray clusters add their own way in"
  vpc_id      = var.network.vpc_id

  tags = { Name = "${var.name}-balancer" }
}

resource "aws_security_group" "server" {
  name        = "${var.name}-server"
  description = "Server of MLflow"
  vpc_id      = var.network.vpc_id

  tags = { Name = "${var.name}-server" }
}

resource "aws_security_group" "database" {
  name        = "${var.name}-database"
  description = "Database of MLflow"
  vpc_id      = var.network.vpc_id

  tags = { Name = "${var.name}-database" }
}

resource "aws_vpc_security_group_egress_rule" "balancer_to_server" {
  security_group_id            = aws_security_group.balancer.id
  description                  = "Server of MLflow"
  referenced_security_group_id = aws_security_group.server.id
  ip_protocol                  = "tcp"
  from_port                    = 5000
  to_port                      = 5000
}

resource "aws_vpc_security_group_ingress_rule" "server_from_balancer" {
  security_group_id            = aws_security_group.server.id
  description                  = "The load balancer"
  referenced_security_group_id = aws_security_group.balancer.id
  ip_protocol                  = "tcp"
  from_port                    = 5000
  to_port                      = 5000
}

resource "aws_vpc_security_group_egress_rule" "server_to_database" {
  security_group_id            = aws_security_group.server.id
  description                  = "The database"
  referenced_security_group_id = aws_security_group.database.id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_vpc_security_group_egress_rule" "server_to_endpoints" {
  security_group_id            = aws_security_group.server.id
  description                  = "AWS services"
  referenced_security_group_id = var.network.endpoints_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

resource "aws_vpc_security_group_egress_rule" "server_to_s3" {
  security_group_id = aws_security_group.server.id
  description       = "S3"
  prefix_list_id    = var.network.s3_prefix_list_id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_ingress_rule" "database_from_server" {
  security_group_id            = aws_security_group.database.id
  description                  = "Server of MLflow"
  referenced_security_group_id = aws_security_group.server.id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

# --- The database ---

resource "aws_db_subnet_group" "this" {
  name        = var.name
  description = "MLflow's database"
  subnet_ids  = local.subnet_ids
}

resource "aws_db_parameter_group" "this" {
  name        = var.name
  description = "MLflow's database: TLS only, changes and slow statements logged"
  family      = "postgres17"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  parameter {
    name  = "log_statement"
    value = "ddl"
  }

  parameter {
    name  = "log_min_duration_statement"
    value = "1000"
  }
}

# RDS would make them itself, without a key, for ever, and left behind by `terraform destroy`.
resource "aws_cloudwatch_log_group" "database" {
  for_each = toset(["postgresql", "upgrade"])

  name              = "/aws/rds/instance/${var.name}/${each.key}"
  retention_in_days = 365
  kms_key_id        = var.storage.key_arns["logs"]
}

resource "aws_db_instance" "this" {
  identifier     = var.name
  engine         = "postgres"
  engine_version = "17"
  instance_class = var.database.instance_class
  db_name        = "mlflow"
  username       = "master"

  # RDS makes the master's password and keeps it in Secrets Manager. MLflow signs in by IAM.
  manage_master_user_password         = true
  master_user_secret_kms_key_id       = var.storage.key_arns["secrets"]
  iam_database_authentication_enabled = true

  allocated_storage     = var.database.storage_gib
  max_allocated_storage = 4 * var.database.storage_gib
  storage_type          = "gp3"
  storage_encrypted     = true
  kms_key_id            = var.storage.key_arns["artifacts"]

  multi_az               = var.database.multi_az
  db_subnet_group_name   = aws_db_subnet_group.this.name
  parameter_group_name   = aws_db_parameter_group.this.name
  vpc_security_group_ids = [aws_security_group.database.id]
  publicly_accessible    = false
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  backup_retention_period   = var.database.backup_days
  copy_tags_to_snapshot     = true
  delete_automated_backups  = !var.protected
  deletion_protection       = var.protected
  skip_final_snapshot       = !var.protected
  final_snapshot_identifier = "${var.name}-final"

  auto_minor_version_upgrade      = true
  enabled_cloudwatch_logs_exports = keys(aws_cloudwatch_log_group.database)
  performance_insights_enabled    = true
  performance_insights_kms_key_id = var.storage.key_arns["artifacts"]
  monitoring_interval             = 60
  monitoring_role_arn             = aws_iam_role.monitoring.arn

  depends_on = [aws_cloudwatch_log_group.database, aws_iam_role_policy_attachment.monitoring]
}

resource "aws_iam_role" "monitoring" {
  name        = "${var.name}-monitoring"
  description = "RDS reports the database machine's state to CloudWatch"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "monitoring.rds.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "monitoring" {
  role       = aws_iam_role.monitoring.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

# --- The server ---

resource "aws_iam_role" "server" {
  name        = "${var.name}-server"
  description = "MLflow's server"

  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "ec2.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy" "server" {
  name = "server"
  role = aws_iam_role.server.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "SignInToDatabase"
        Effect   = "Allow"
        Action   = ["rds-db:connect"]
        Resource = ["arn:${local.partition}:rds-db:${local.region}:${local.account}:dbuser:${aws_db_instance.this.resource_id}/${local.database_user}"]
      },
      {
        # The master's, at first boot alone, to make the user that signs in by IAM.
        Sid      = "ReadSecrets"
        Effect   = "Allow"
        Action   = ["secretsmanager:GetSecretValue"]
        Resource = concat([for secret in aws_secretsmanager_secret.password : secret.arn], [aws_db_instance.this.master_user_secret[0].secret_arn])
      },
      {
        Sid       = "SecretsKey"
        Effect    = "Allow"
        Action    = ["kms:Decrypt"]
        Resource  = [var.storage.key_arns["secrets"]]
        Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${local.region}.amazonaws.com" } }
      },
      {
        # Deleting an artifact in MLflow leaves its old version in the bucket.
        Sid      = "KeepArtifacts"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
        Resource = ["${var.storage.buckets["artifacts"].arn}/mlflow/*"]
      },
      {
        Sid      = "ListArtifacts"
        Effect   = "Allow"
        Action   = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
        Resource = [var.storage.buckets["artifacts"].arn]
      },
      {
        Sid       = "ArtifactsKey"
        Effect    = "Allow"
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = [var.storage.key_arns["artifacts"]]
        Condition = { StringEquals = { "kms:ViaService" = "s3.${local.region}.amazonaws.com" } }
      },
      {
        Sid      = "WriteLogs"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
        Resource = ["${var.log_group.arn}:*"]
      },
    ]
  })
}

resource "aws_iam_instance_profile" "server" {
  name = "${var.name}-server"
  role = aws_iam_role.server.name
}

resource "aws_launch_template" "server" {
  name                                 = "${var.name}-server"
  description                          = "MLflow's server"
  image_id                             = var.ami_id
  instance_type                        = var.instance_type
  user_data                            = base64encode(local.user_data)
  vpc_security_group_ids               = [aws_security_group.server.id]
  instance_initiated_shutdown_behavior = "terminate"
  update_default_version               = true
  ebs_optimized                        = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.server.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  monitoring {
    enabled = true
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = 80 # as the image's own disk, and never less
      encrypted             = true
      kms_key_id            = var.storage.key_arns["volumes"]
      delete_on_termination = true
    }
  }

  tag_specifications {
    resource_type = "volume"
    tags          = merge(var.tags, { Name = "${var.name}-server" })
  }
}

resource "aws_autoscaling_group" "server" {
  name                      = "${var.name}-server"
  min_size                  = 1
  max_size                  = 1
  desired_capacity          = 1
  vpc_zone_identifier       = local.subnet_ids
  target_group_arns         = [aws_lb_target_group.server.arn]
  health_check_type         = "ELB"
  health_check_grace_period = 600
  wait_for_capacity_timeout = "0"

  launch_template {
    id      = aws_launch_template.server.id
    version = aws_launch_template.server.latest_version
  }

  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage = 0
    }
  }

  dynamic "tag" {
    for_each = merge(var.tags, { Name = "${var.name}-server" })

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  # A server that boots must find the passwords, what it may do, and its way to AWS and the database.
  depends_on = [
    aws_secretsmanager_secret_version.password, aws_iam_role_policy.server,
    aws_vpc_security_group_egress_rule.server_to_endpoints, aws_vpc_security_group_egress_rule.server_to_s3,
    aws_vpc_security_group_egress_rule.server_to_database, aws_vpc_security_group_ingress_rule.database_from_server,
    aws_vpc_security_group_egress_rule.balancer_to_server, aws_vpc_security_group_ingress_rule.server_from_balancer,
  ]
}

# --- The way in ---

resource "aws_lb" "this" {
  name                       = var.name
  internal                   = true
  load_balancer_type         = "application"
  subnets                    = local.subnet_ids
  security_groups            = [aws_security_group.balancer.id]
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "strictest"
  enable_deletion_protection = var.protected

  access_logs {
    bucket  = var.storage.buckets["logs"].name
    prefix  = "load-balancers/${var.name}"
    enabled = true
  }
}

resource "aws_lb_target_group" "server" {
  name        = var.name
  port        = 5000
  protocol    = "HTTPS"
  target_type = "instance"
  vpc_id      = var.network.vpc_id

  health_check {
    protocol = "HTTPS"
    path     = "/health"
    matcher  = "200"
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.server.arn
  }
}

resource "aws_route53_zone" "this" {
  name    = var.hostname
  comment = "MLflow's name inside the network"

  vpc {
    vpc_id = var.network.vpc_id
  }
}

resource "aws_route53_record" "this" {
  zone_id = aws_route53_zone.this.zone_id
  name    = var.hostname
  type    = "A"

  alias {
    name                   = aws_lb.this.dns_name
    zone_id                = aws_lb.this.zone_id
    evaluate_target_health = false
  }
}
