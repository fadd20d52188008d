output "name" {
  description = "The cluster."
  value       = var.name
}

output "nodes" {
  description = "Nodes: Ray's node types, cluster.yaml and boot scripts as plain text, and the launch templates' names. No secrets."
  value = {
    node_types            = module.nodes.node_types
    cluster_yaml          = module.nodes.cluster_yaml
    head_user_data        = module.nodes.head_user_data
    worker_user_data      = module.nodes.worker_user_data
    launch_template_names = { for name, template in aws_launch_template.worker : name => template.name }
  }
}

output "usd_per_hour" {
  description = "On-demand list prices of the head, of a node of each type, and of all at their limits."
  value       = module.nodes.usd_per_hour
}

output "token_secret_name" {
  description = "Secrets Manager name of the token."
  value       = aws_secretsmanager_secret.token.name
}

output "head_group_name" {
  description = "Auto-scaling group of the head."
  value       = aws_autoscaling_group.head.name
}

output "security_group_id" {
  description = "Of the nodes."
  value       = aws_security_group.nodes.id
}

output "role_arns" {
  description = "Roles of the head and of the workers."
  value       = { head = aws_iam_role.head.arn, worker = aws_iam_role.worker.arn }
}

output "operator_policy_arn" {
  description = "Policy for people who submit jobs."
  value       = aws_iam_policy.operator.arn
}

output "storage_uri" {
  description = "Value of the pipelines' --storage on this cluster."
  value       = "s3://${var.storage.buckets["runs"].name}/${var.prefix}"
}
