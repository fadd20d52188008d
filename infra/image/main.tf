# Builds the machine image by EC2 Image Builder: install.sh, run once on a machine that is gone afterwards.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_subnet" "build" {
  id = var.subnet_id
}

locals {
  name      = "memlm-image"
  partition = data.aws_partition.current.partition
  files = {
    "install.sh"        = "${path.module}/install.sh"
    "requirements.lock" = "${path.module}/requirements.lock"
    "rds-bundle.pem"    = var.rds_bundle.path
  }

  component = yamlencode({
    name          = local.name
    schemaVersion = "1.0"
    phases = [{
      name = "build"
      steps = [
        {
          name   = "Fetch"
          action = "S3Download"
          inputs = [for name in keys(local.files) : { source = "s3://${aws_s3_bucket.recipe.bucket}/${var.recipe_version}/${name}", destination = "/tmp/image/${name}" }]
        },
        {
          name   = "Verify"
          action = "ExecuteBash"
          inputs = { commands = [for name, file in local.files : "echo '${filesha256(file)}  /tmp/image/${name}' | sha256sum --check --strict"] }
        },
        {
          name   = "Install"
          action = "ExecuteBash"
          inputs = { commands = ["bash /tmp/image/install.sh /tmp/image/requirements.lock /tmp/image/rds-bundle.pem", "rm -rf /tmp/image"] }
        },
      ]
    }]
  })
}

# --- What the recipe is made of ---

resource "aws_s3_bucket" "recipe" {
  #checkov:skip=CKV_AWS_18: read by one machine a build, whose log says what it read
  #checkov:skip=CKV_AWS_144: made anew from this folder in seconds
  #checkov:skip=CKV_AWS_145: public package names and digests, no data
  #checkov:skip=CKV2_AWS_61: a few hundred kilobytes for each version of the recipe
  #checkov:skip=CKV2_AWS_62: nobody waits for what is put there
  bucket        = "${local.name}-${data.aws_caller_identity.current.account_id}-${var.region}"
  force_destroy = true
}

resource "aws_s3_bucket_public_access_block" "recipe" {
  bucket                  = aws_s3_bucket.recipe.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "recipe" {
  bucket = aws_s3_bucket.recipe.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_object" "recipe" {
  for_each = local.files

  bucket      = aws_s3_bucket.recipe.bucket
  key         = "${var.recipe_version}/${each.key}"
  source      = each.value
  source_hash = filesha256(each.value)
}

# --- The machine that builds ---

resource "aws_iam_role" "builder" {
  name        = "${local.name}-builder"
  description = "Builds the machine image"

  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "ec2.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy_attachment" "builder" {
  for_each = toset(["AmazonSSMManagedInstanceCore", "EC2InstanceProfileForImageBuilder"])

  role       = aws_iam_role.builder.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

resource "aws_iam_role_policy" "builder" {
  name = "read-recipe"
  role = aws_iam_role.builder.id

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Sid = "ReadRecipe", Effect = "Allow", Action = ["s3:GetObject"], Resource = ["${aws_s3_bucket.recipe.arn}/*"] }]
  })
}

resource "aws_iam_instance_profile" "builder" {
  name = "${local.name}-builder"
  role = aws_iam_role.builder.name
}

resource "aws_security_group" "builder" {
  name        = "${local.name}-builder"
  description = "The machine that builds the image: nothing in, HTTPS out"
  vpc_id      = data.aws_subnet.build.vpc_id

  tags = { Name = "${local.name}-builder" }
}

resource "aws_vpc_security_group_egress_rule" "builder_https" {
  security_group_id = aws_security_group.builder.id
  description       = "Package index and AWS services"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_imagebuilder_infrastructure_configuration" "this" {
  name                          = local.name
  description                   = "A machine for the length of a build"
  instance_profile_name         = aws_iam_instance_profile.builder.name
  instance_types                = ["m7i.2xlarge", "m6i.2xlarge"]
  subnet_id                     = var.subnet_id
  security_group_ids            = [aws_security_group.builder.id]
  terminate_instance_on_failure = true

  instance_metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
}

# --- The image ---

resource "aws_imagebuilder_component" "this" {
  #checkov:skip=CKV_AWS_180: the recipe is public, a key of ours would hide nothing
  name     = local.name
  platform = "Linux"
  version  = var.recipe_version
  data     = local.component

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [aws_s3_object.recipe]
}

resource "aws_imagebuilder_image_recipe" "this" {
  #checkov:skip=CKV_AWS_200: public packages alone; disks are encrypted with a key of ours as machines are launched
  name         = local.name
  description  = "memlm's locked packages on ${var.parent_ami_id}"
  parent_image = var.parent_ami_id
  version      = var.recipe_version

  component {
    component_arn = aws_imagebuilder_component.this.arn
  }

  block_device_mapping {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = 80
      delete_on_termination = "true"
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_imagebuilder_image" "this" {
  image_recipe_arn                 = aws_imagebuilder_image_recipe.this.arn
  infrastructure_configuration_arn = aws_imagebuilder_infrastructure_configuration.this.arn
  enhanced_image_metadata_enabled  = true

  timeouts {
    create = "120m"
  }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [aws_iam_role_policy.builder, aws_iam_role_policy_attachment.builder, aws_vpc_security_group_egress_rule.builder_https]
}
