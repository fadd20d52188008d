output "tracking" {
  description = "MLflow for a Ray cluster: address, secret of its user `pipelines`, security group of its load balancer."
  value = {
    uri               = "https://${var.hostname}"
    secret_name       = aws_secretsmanager_secret.password["pipelines"].name
    secret_arn        = aws_secretsmanager_secret.password["pipelines"].arn
    security_group_id = aws_security_group.balancer.id
  }

  depends_on = [aws_secretsmanager_secret_version.password]
}

output "admin_secret_name" {
  description = "Secrets Manager name of the password of MLflow's user `admin`."
  value       = aws_secretsmanager_secret.password["admin"].name
}

output "watched" {
  description = "Watched parts, for alarms: database, load balancer and target group."
  value = {
    database      = aws_db_instance.this.identifier
    storage_gib   = var.database.storage_gib
    load_balancer = aws_lb.this.arn_suffix
    target_group  = aws_lb_target_group.server.arn_suffix
  }
}

output "user_data" {
  description = "Boot script of the server, plain text. No secrets."
  value       = local.user_data

  precondition {
    condition     = length(local.user_data) < 16384
    error_message = "The server's boot script has ${length(local.user_data)} bytes, and EC2 takes 16384."
  }
}
