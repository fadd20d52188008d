output "commands" {
  description = "What to type, by cluster: see docs/aws.md."
  value       = module.platform.commands
}

output "mlflow" {
  description = "MLflow's address for pipelines and browsers, and the command that shows the administrator's password."
  value       = module.platform.mlflow
}

output "corpus_uri" {
  description = "Where corpus shards are put."
  value       = module.platform.corpus_uri
}

output "operator_policy_arns" {
  description = "Policy of people who submit jobs, for each cluster."
  value       = module.platform.operator_policy_arns
}

output "usd_per_hour" {
  description = "List prices, us-east-1, on demand, as of 2026-11; check them."
  value       = module.platform.usd_per_hour
}

output "nodes" {
  description = "Ray's node types, cluster.yaml and boot scripts of each cluster as plain text. No secrets."
  value       = module.platform.nodes
}
