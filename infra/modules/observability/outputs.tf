output "log_group" {
  description = "Of the nodes' logs."
  value       = { name = aws_cloudwatch_log_group.nodes.name, arn = aws_cloudwatch_log_group.nodes.arn }
}

output "alerts_topic_arn" {
  description = "Where alarms are sent."
  value       = aws_sns_topic.alerts.arn
}
