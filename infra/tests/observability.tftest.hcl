# Alarms and the budget: events, and the people who are notified.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name               = "memlm-test"
  stack              = "memlm-test"
  logs_key_arn       = "key-logs"
  alert_emails       = ["a@example.com", "b@example.com"]
  monthly_budget_usd = 500
  head_groups        = { main = "memlm-test-main-head" }
  tracking           = { database = "memlm-test-mlflow", storage_gib = 20, load_balancer = "app/memlm/1", target_group = "targetgroup/memlm/1" }
}

run "told" {
  module {
    source = "./modules/observability"
  }

  assert {
    condition     = keys(aws_cloudwatch_metric_alarm.this) == ["gpu-fault", "no-head-main", "tracking-disk", "tracking-down"]
    error_message = "There is an alarm for a faulty GPU, each cluster without a head, and MLflow's server and disk."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_actions == toset([aws_sns_topic.alerts.arn])])
    error_message = "An alarm is heard by nobody."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["no-head-main"].dimensions.AutoScalingGroupName == "memlm-test-main-head" && aws_cloudwatch_metric_alarm.this["no-head-main"].treat_missing_data == "breaching"
    error_message = "A head that says nothing is none."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["gpu-fault"].metric_name == aws_cloudwatch_log_metric_filter.gpu_faults.metric_transformation[0].name && aws_cloudwatch_metric_alarm.this["gpu-fault"].namespace == aws_cloudwatch_log_metric_filter.gpu_faults.metric_transformation[0].namespace && aws_cloudwatch_log_metric_filter.gpu_faults.pattern == "\"NVRM: Xid\""
    error_message = "A GPU's Xid in the log must sound the alarm."
  }

  assert {
    condition     = aws_budgets_budget.monthly.limit_amount == "500" && tolist(one(aws_budgets_budget.monthly.cost_filter).values) == tolist(["user:stack$memlm-test"])
    error_message = "The budget must count what has the environment's tag."
  }

  assert {
    condition     = contains([for notification in aws_budgets_budget.monthly.notification : notification.notification_type], "FORECASTED") && alltrue([for notification in aws_budgets_budget.monthly.notification : notification.subscriber_sns_topic_arns == toset([aws_sns_topic.alerts.arn])])
    error_message = "People must be told before the budget is spent."
  }

  assert {
    condition     = keys(aws_sns_topic_subscription.email) == ["a@example.com", "b@example.com"]
    error_message = "Everybody who is named is told."
  }

  assert {
    condition     = aws_cloudwatch_log_group.nodes.kms_key_id == "key-logs" && aws_sns_topic.alerts.kms_master_key_id == "key-logs" && aws_cloudwatch_log_group.nodes.retention_in_days == 365
    error_message = "Logs and alarms must be encrypted, and logs kept for a year."
  }

  assert {
    condition     = jsondecode(aws_sns_topic_policy.alerts.policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012"
    error_message = "Only this account sounds its alarms."
  }
}

run "nobody_to_tell" {
  command = plan

  module {
    source = "./modules/observability"
  }

  variables {
    alert_emails = []
  }

  expect_failures = [var.alert_emails]
}

run "free_of_charge" {
  command = plan

  module {
    source = "./modules/observability"
  }

  variables {
    monthly_budget_usd = 0
  }

  expect_failures = [var.monthly_budget_usd]
}
