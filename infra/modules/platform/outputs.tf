locals {
  # One port of the operator's own machine for each cluster, so that several can be open at once.
  local_ports = { for index, name in keys(var.clusters) : name => 8265 + index }

  # The head lives in a group of one, so its id is asked for each time.
  head_ids = {
    for name, cluster in module.ray_cluster : name =>
    "$(aws autoscaling describe-auto-scaling-groups --region ${local.region} --auto-scaling-group-names ${cluster.head_group_name} --query 'AutoScalingGroups[0].Instances[0].InstanceId' --output text)"
  }

  has_gpu = { for name, cluster in module.ray_cluster : name => anytrue([for type in cluster.nodes.node_types : contains(keys(type.resources), "GPU")]) }

  # Interface endpoints at 0.01 USD an hour and zone; load balancer, database, MLflow's machine and disks: list prices, us-east-1, as of 2026-11.
  fixed_usd_per_hour = {
    endpoints = 0.01 * module.network.num_interface_endpoints
    balancer  = 0.0225
    mlflow    = lookup({ "m7i.large" = 0.1008, "m7i.xlarge" = 0.2016 }, var.mlflow.instance_type, 0.1008)
    database  = lookup({ "db.t4g.small" = 0.032, "db.m7g.large" = 0.168 }, var.mlflow.database.instance_class, 0.168) * (var.mlflow.database.multi_az ? 2 : 1)
    keys      = 6 / 730
  }
}

output "commands" {
  description = "Commands for each cluster, in this order: `connect` in a terminal of its own, `mlflow` in another, `environment` and then `python infra/jobs/submit.py` where jobs are submitted."
  value = {
    for name, cluster in module.ray_cluster : name => {
      connect = "aws ssm start-session --region ${local.region} --target \"${local.head_ids[name]}\" --document-name AWS-StartPortForwardingSession --parameters portNumber=8265,localPortNumber=${local.local_ports[name]}"
      mlflow  = "aws ssm start-session --region ${local.region} --target \"${local.head_ids[name]}\" --document-name AWS-StartPortForwardingSessionToRemoteHost --parameters host=${var.mlflow.hostname},portNumber=443,localPortNumber=8443"
      environment = join("\n", [
        "export RAY_ADDRESS=http://127.0.0.1:${local.local_ports[name]} RAY_AUTH_MODE=token",
        "export RAY_AUTH_TOKEN=\"$(aws secretsmanager get-secret-value --region ${local.region} --secret-id ${cluster.token_secret_name} --query SecretString --output text)\"",
        "export MEMLM_STORAGE=${cluster.storage_uri} MEMLM_TRACKING=${module.mlflow.tracking.uri} MEMLM_USE_GPU=${local.has_gpu[name] ? "True" : "False"}",
      ])
    }
  }
}

output "mlflow" {
  description = "MLflow's address for pipelines and for a browser (while the command `mlflow` runs, and with the line in /etc/hosts), and the command that shows the administrator's password."
  value = {
    uri            = module.mlflow.tracking.uri
    browser        = "https://${var.mlflow.hostname}:8443"
    hosts_line     = "127.0.0.1 ${var.mlflow.hostname}"
    admin_password = "aws secretsmanager get-secret-value --region ${local.region} --secret-id ${module.mlflow.admin_secret_name} --query SecretString --output text"
  }
}

output "corpus_uri" {
  description = "Address of the corpus shards, for `corpus.path`."
  value       = "s3://${module.storage.buckets["corpus"].name}"
}

output "operator_policy_arns" {
  description = "Policy of people who submit jobs, for each cluster."
  value       = { for name, cluster in module.ray_cluster : name => cluster.operator_policy_arn }
}

output "usd_per_hour" {
  description = "On-demand list prices in us-east-1 as of 2026-11 (check them): machines that run without any work, a node of each type, and the most that the limits allow. S3, traffic, disks and logs are extra."
  value = {
    without_work = floor(0.5 + 100 * sum(concat(values(local.fixed_usd_per_hour), [for cluster in module.ray_cluster : cluster.usd_per_hour.head]))) / 100
    node_types   = { for name, cluster in module.ray_cluster : name => cluster.usd_per_hour.node_types }
    at_most      = floor(0.5 + 100 * sum(concat(values(local.fixed_usd_per_hour), [for cluster in module.ray_cluster : cluster.usd_per_hour.at_most]))) / 100
  }
}

output "nodes" {
  description = "Ray's node types, cluster.yaml and boot scripts of each cluster as plain text. No secrets."
  value       = { for name, cluster in module.ray_cluster : name => cluster.nodes }
}
