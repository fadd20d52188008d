# Each alarm calls for action by a person.

locals {
  alarms = merge(
    {
      gpu-fault = {
        description = "A GPU reported an Xid error; see the nodes' log group for which, and whether its node must go."
        namespace   = local.gpu_faults.namespace
        metric      = local.gpu_faults.name
        statistic   = "Sum"
        comparison  = "GreaterThanThreshold"
        threshold   = 0
        periods     = 1
        missing     = "notBreaching"
        dimensions  = {}
      }
      tracking-down = {
        description = "MLflow's server does not answer."
        namespace   = "AWS/ApplicationELB"
        metric      = "HealthyHostCount"
        statistic   = "Minimum"
        comparison  = "LessThanThreshold"
        threshold   = 1
        periods     = 3
        missing     = "breaching"
        dimensions  = { LoadBalancer = var.tracking.load_balancer, TargetGroup = var.tracking.target_group }
      }
      tracking-disk = {
        description = "MLflow's database has less than a tenth of its disk left."
        namespace   = "AWS/RDS"
        metric      = "FreeStorageSpace"
        statistic   = "Minimum"
        comparison  = "LessThanThreshold"
        threshold   = var.tracking.storage_gib * pow(1024, 3) / 10
        periods     = 1
        missing     = "notBreaching"
        dimensions  = { DBInstanceIdentifier = var.tracking.database }
      }
    },
    {
      for cluster, group in var.head_groups : "no-head-${cluster}" => {
        description = "The Ray cluster ${cluster} has had no head for a quarter of an hour; its image or its boot script may be at fault."
        namespace   = "AWS/AutoScaling"
        metric      = "GroupInServiceInstances"
        statistic   = "Minimum"
        comparison  = "LessThanThreshold"
        threshold   = 1
        periods     = 3
        missing     = "breaching"
        dimensions  = { AutoScalingGroupName = group }
      }
    },
  )

  gpu_faults = { namespace = "${var.name}/nodes", name = "GpuFaults" }
}

# The NVIDIA driver writes "NVRM: Xid (PCI:...): <number>, ..." to the kernel's log for every fault of a GPU.
resource "aws_cloudwatch_log_metric_filter" "gpu_faults" {
  name           = "${var.name}-gpu-faults"
  log_group_name = aws_cloudwatch_log_group.nodes.name
  pattern        = "\"NVRM: Xid\""

  metric_transformation {
    namespace = local.gpu_faults.namespace
    name      = local.gpu_faults.name
    value     = "1"
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  period              = 300
  evaluation_periods  = each.value.periods
  treat_missing_data  = each.value.missing
  alarm_actions       = [aws_sns_topic.alerts.arn]
  ok_actions          = [aws_sns_topic.alerts.arn]
}
