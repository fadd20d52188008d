# Buckets: `corpus` is read by nodes, `runs` is read and written by them, `artifacts` is MLflow's, `logs` takes what AWS reports.

locals {
  data_buckets = toset(["corpus", "runs", "artifacts"])
  buckets      = setunion(local.data_buckets, ["logs"])
  bucket_names = { for name in local.buckets : name => "${var.name}-${name}-${local.account}" }

  # Objects that decide who won, each by a write that names what it found there. See memlm/storage/artifacts.py and leases.py.
  commit_keys = ["*/manifest.json", "*/leases/*"]
}

resource "aws_s3_bucket" "this" {
  for_each = local.buckets

  bucket        = local.bucket_names[each.key]
  force_destroy = !var.protected

  tags = { Name = "${var.name}-${each.key}" }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = local.buckets

  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "data" {
  for_each = local.data_buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this[each.key].arn
    }
  }
}

# S3's access logs and load balancers can write to no bucket with a key of ours.
resource "aws_s3_bucket_server_side_encryption_configuration" "logs" {
  bucket = aws_s3_bucket.this["logs"].id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_logging" "data" {
  for_each = local.data_buckets

  bucket        = aws_s3_bucket.this[each.key].id
  target_bucket = aws_s3_bucket.this["logs"].id
  target_prefix = "access-logs/${each.key}/"
}

resource "aws_s3_bucket_lifecycle_configuration" "data" {
  for_each = local.data_buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  rule {
    id     = "old-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  rule {
    id     = "tiering"
    status = "Enabled"

    filter {
      object_size_greater_than = 131072
    }

    transition {
      days          = 30
      storage_class = "INTELLIGENT_TIERING"
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_lifecycle_configuration" "logs" {
  bucket = aws_s3_bucket.this["logs"].id

  rule {
    id     = "old-logs"
    status = "Enabled"

    filter {}

    expiration {
      days = var.log_days
    }

    noncurrent_version_expiration {
      noncurrent_days = 1
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

# --- Forbidden to everybody, whatever other policies say ---

locals {
  arns = { for name in local.buckets : name => "arn:${local.partition}:s3:::${local.bucket_names[name]}" }

  tls_statements = {
    for name, arn in local.arns : name => [
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [arn, "${arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "NewTlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [arn, "${arn}/*"]
        Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
      },
    ]
  }

  # A write that names no encryption gets the bucket's; one that names another is refused.
  encryption_statements = {
    for name in local.data_buckets : name => [
      {
        Sid       = "KmsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:PutObject"
        Resource  = ["${local.arns[name]}/*"]
        Condition = {
          Null            = { "s3:x-amz-server-side-encryption" = "false" }
          StringNotEquals = { "s3:x-amz-server-side-encryption" = "aws:kms" }
        }
      },
      {
        Sid       = "OwnKeyOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:PutObject"
        Resource  = ["${local.arns[name]}/*"]
        Condition = {
          Null         = { "s3:x-amz-server-side-encryption-aws-kms-key-id" = "false" }
          ArnNotEquals = { "s3:x-amz-server-side-encryption-aws-kms-key-id" = aws_kms_key.this[name].arn }
        }
      },
    ]
  }

  # Of two simultaneous commits one must fail. Parts of a multipart upload create no object and carry no condition, so they are exempt.
  commit_statement = {
    Sid       = "CommitsAreConditional"
    Effect    = "Deny"
    Principal = "*"
    Action    = "s3:PutObject"
    Resource  = [for key in local.commit_keys : "${local.arns["runs"]}/${key}"]
    Condition = {
      Null = { "s3:if-none-match" = "true", "s3:if-match" = "true" }
      Bool = { "s3:ObjectCreationOperation" = "true" }
    }
  }

  # AWS services that report to the logs bucket, each below its own prefix.
  log_writers = {
    AccessLogs       = { service = "logging.s3.amazonaws.com", prefix = "access-logs", from = "arn:${local.partition}:s3:::${var.name}-*" }
    FlowLogs         = { service = "delivery.logs.amazonaws.com", prefix = "flow-logs", from = "arn:${local.partition}:logs:${local.region}:${local.account}:*" }
    LoadBalancerLogs = { service = "logdelivery.elasticloadbalancing.amazonaws.com", prefix = "load-balancers", from = "arn:${local.partition}:elasticloadbalancing:${local.region}:${local.account}:loadbalancer/*" }
  }

  log_statements = concat(
    [
      for sid, writer in local.log_writers : {
        Sid       = sid
        Effect    = "Allow"
        Principal = { Service = writer.service }
        Action    = "s3:PutObject"
        Resource  = ["${local.arns["logs"]}/${writer.prefix}/*"]
        Condition = { ArnLike = { "aws:SourceArn" = writer.from } }
      }
    ],
    [
      {
        Sid       = "FlowLogsLook"
        Effect    = "Allow"
        Principal = { Service = "delivery.logs.amazonaws.com" }
        Action    = "s3:GetBucketAcl"
        Resource  = [local.arns["logs"]]
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      },
    ],
  )

  bucket_policies = {
    for name in local.buckets : name => jsonencode({
      Version = "2012-10-17"
      Statement = concat(
        local.tls_statements[name],
        lookup(local.encryption_statements, name, []),
        [for statement in [local.commit_statement] : statement if name == "runs"],
        [for statement in local.log_statements : statement if name == "logs"],
      )
    })
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id
  policy = local.bucket_policies[each.key]

  depends_on = [aws_s3_bucket_public_access_block.this]
}
