# What is stored is encrypted with its own key, versioned, reached by TLS alone, and committed by conditional writes.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name = "memlm-test"
}

run "buckets" {
  module {
    source = "./modules/storage"
  }

  assert {
    condition     = { for name, bucket in aws_s3_bucket.this : name => bucket.bucket } == { for name in ["corpus", "runs", "artifacts", "logs"] : name => "memlm-test-${name}-123456789012" }
    error_message = "There are four buckets, each with the account's number in its name."
  }

  assert {
    condition     = alltrue([for name in keys(aws_s3_bucket.this) : aws_s3_bucket_public_access_block.this[name].block_public_acls && aws_s3_bucket_public_access_block.this[name].block_public_policy && aws_s3_bucket_public_access_block.this[name].ignore_public_acls && aws_s3_bucket_public_access_block.this[name].restrict_public_buckets])
    error_message = "A bucket could be made public."
  }

  assert {
    condition     = alltrue([for name in keys(aws_s3_bucket.this) : aws_s3_bucket_versioning.this[name].versioning_configuration[0].status == "Enabled"])
    error_message = "A bucket keeps no versions."
  }

  assert {
    condition     = alltrue([for name in keys(aws_s3_bucket.this) : aws_s3_bucket_ownership_controls.this[name].rule[0].object_ownership == "BucketOwnerEnforced"])
    error_message = "A bucket takes access lists."
  }

  assert {
    condition     = alltrue([for name, bucket in aws_s3_bucket.this : !bucket.force_destroy])
    error_message = "A protected bucket must not go with what it holds."
  }

  assert {
    condition = alltrue([
      for name in ["corpus", "runs", "artifacts"] : one(aws_s3_bucket_server_side_encryption_configuration.data[name].rule).apply_server_side_encryption_by_default[0].kms_master_key_id == aws_kms_key.this[name].arn
    ])
    error_message = "A bucket is not encrypted with the key of its class."
  }

  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.logs.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "AES256"
    error_message = "The logs bucket must be encrypted with S3's own key, which log deliveries can use."
  }

  assert {
    condition     = alltrue([for name in ["corpus", "runs", "artifacts"] : aws_s3_bucket_logging.data[name].target_bucket == aws_s3_bucket.this["logs"].id])
    error_message = "Access to a bucket is not logged."
  }

  assert {
    condition     = alltrue([for configuration in aws_s3_bucket_lifecycle_configuration.data : anytrue([for rule in configuration.rule : try(rule.abort_incomplete_multipart_upload[0].days_after_initiation == 2, false)])])
    error_message = "Uploads that were never finished must go after two days."
  }

  assert {
    condition     = alltrue([for configuration in aws_s3_bucket_lifecycle_configuration.data : anytrue([for rule in configuration.rule : try(rule.noncurrent_version_expiration[0].noncurrent_days == 30, false)])])
    error_message = "Old versions must go after a month."
  }
}

run "keys" {
  module {
    source = "./modules/storage"
  }

  assert {
    condition     = keys(aws_kms_key.this) == ["artifacts", "corpus", "logs", "runs", "secrets", "volumes"]
    error_message = "Each class of data has a key of its own."
  }

  assert {
    condition     = alltrue([for key in aws_kms_key.this : key.enable_key_rotation && key.deletion_window_in_days == 30])
    error_message = "Keys must rotate, and be had back for 30 days."
  }

  assert {
    condition     = alltrue([for key in aws_kms_key.this : alltrue([for statement in jsondecode(key.policy).Statement : statement.Principal != "*" && try(statement.Principal.AWS != "*", true)])])
    error_message = "A key's policy lets everybody in."
  }

  assert {
    condition     = alltrue([for name in ["corpus", "runs", "artifacts", "secrets"] : [for statement in jsondecode(aws_kms_key.this[name].policy).Statement : statement.Principal.AWS] == ["arn:aws:iam::123456789012:root"]])
    error_message = "Keys of data and secrets are opened by this account's IAM policies alone."
  }
}

run "policies" {
  module {
    source = "./modules/storage"
  }

  assert {
    condition = alltrue([for name, policy in aws_s3_bucket_policy.this : anytrue([
      for statement in jsondecode(policy.policy).Statement :
      statement.Effect == "Deny" && statement.Principal == "*" && statement.Action == "s3:*" && try(statement.Condition.Bool["aws:SecureTransport"] == "false", false) && length(statement.Resource) == 2
    ])])
    error_message = "A bucket can be reached without TLS."
  }

  assert {
    condition = alltrue([for name, policy in aws_s3_bucket_policy.this : anytrue([
      for statement in jsondecode(policy.policy).Statement : statement.Effect == "Deny" && try(statement.Condition.NumericLessThan["s3:TlsVersion"] == "1.2", false)
    ])])
    error_message = "A bucket can be reached with an old TLS."
  }

  assert {
    condition = alltrue([for name in ["corpus", "runs", "artifacts"] : length([
      for statement in jsondecode(aws_s3_bucket_policy.this[name].policy).Statement : statement
      if contains(["KmsOnly", "OwnKeyOnly"], statement.Sid) && statement.Effect == "Deny" && statement.Action == "s3:PutObject" && try(alltrue([for value in values(statement.Condition.Null) : value == "false"]), false)
    ]) == 2])
    error_message = "A bucket takes objects with another encryption than its own."
  }

  assert {
    condition = [
      for statement in jsondecode(aws_s3_bucket_policy.this["runs"].policy).Statement : statement.Resource if statement.Sid == "CommitsAreConditional" && statement.Effect == "Deny"
    ] == [["arn:aws:s3:::memlm-test-runs-123456789012/*/manifest.json", "arn:aws:s3:::memlm-test-runs-123456789012/*/leases/*"]]
    error_message = "Manifests and leases must be written conditionally."
  }

  assert {
    condition = [
      for statement in jsondecode(aws_s3_bucket_policy.this["runs"].policy).Statement : statement.Condition if statement.Sid == "CommitsAreConditional"
    ] == [{ Null = { "s3:if-none-match" = "true", "s3:if-match" = "true" }, Bool = { "s3:ObjectCreationOperation" = "true" } }]
    error_message = "Only a write that names neither what is missing nor what it replaces is refused, and parts of an upload never are."
  }

  assert {
    condition     = alltrue([for statement in jsondecode(aws_s3_bucket_policy.this["logs"].policy).Statement : can(statement.Condition) && try(statement.Effect == "Deny" || can(statement.Principal.Service), false)])
    error_message = "The logs bucket is written by AWS services for this account alone."
  }
}

run "unprotected" {
  command = plan

  module {
    source = "./modules/storage"
  }

  variables {
    protected = false
  }

  assert {
    condition     = alltrue([for bucket in aws_s3_bucket.this : bucket.force_destroy])
    error_message = "Without protection nothing must keep the buckets."
  }
}

# --- Bad input ---

run "name_too_long" {
  command = plan

  module {
    source = "./modules/storage"
  }

  variables {
    name = "memlm-with-a-name-that-no-bucket-can-have"
  }

  expect_failures = [var.name]
}

run "versions_for_no_day" {
  command = plan

  module {
    source = "./modules/storage"
  }

  variables {
    noncurrent_days = 0
  }

  expect_failures = [var.noncurrent_days]
}
