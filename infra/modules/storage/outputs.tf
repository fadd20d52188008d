output "buckets" {
  description = "Buckets by content (corpus, runs, artifacts, logs): name and ARN."
  value       = { for name, bucket in aws_s3_bucket.this : name => { name = bucket.bucket, arn = bucket.arn } }

  # Modules that use a bucket may rely on its policy being in place.
  depends_on = [aws_s3_bucket_policy.this]
}

output "key_arns" {
  description = "KMS keys by class of data (corpus, runs, artifacts, logs, secrets, volumes)."
  value       = { for name, key in aws_kms_key.this : name => key.arn }
}
