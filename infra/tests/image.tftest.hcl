# The machine image is built from files of known digests, by a machine that nobody reaches.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  recipe_version = "1.0.0"
  parent_ami_id  = "ami-0123456789abcdef0"
  subnet_id      = "subnet-0123456789abcdef0"
  rds_bundle     = { path = "image/requirements.in", sha256 = filesha256("image/requirements.in") }
}

run "built" {
  module {
    source = "./image"
  }

  assert {
    condition = toset([for line in flatten([for step in yamldecode(aws_imagebuilder_component.this.data).phases[0].steps : step.inputs.commands if step.name == "Verify"]) : line]) == toset([
      for name, file in { "install.sh" = "image/install.sh", "requirements.lock" = "image/requirements.lock", "rds-bundle.pem" = "image/requirements.in" } :
      "echo '${filesha256(file)}  /tmp/image/${name}' | sha256sum --check --strict"
    ])
    error_message = "Every file must be checked against its digest before it is used."
  }

  assert {
    condition     = [for step in yamldecode(aws_imagebuilder_component.this.data).phases[0].steps : step.name] == ["Fetch", "Verify", "Install"]
    error_message = "What is fetched must be checked before it is run."
  }

  assert {
    condition     = one(aws_imagebuilder_infrastructure_configuration.this.instance_metadata_options).http_tokens == "required" && aws_imagebuilder_infrastructure_configuration.this.terminate_instance_on_failure
    error_message = "The building machine must have IMDSv2, and be gone afterwards however it ended."
  }

  assert {
    condition     = length(aws_security_group.builder.ingress) == 0 && aws_vpc_security_group_egress_rule.builder_https.from_port == 443 && aws_vpc_security_group_egress_rule.builder_https.to_port == 443
    error_message = "The building machine fetches by HTTPS, and nobody reaches it."
  }

  assert {
    condition     = alltrue([for text in [aws_security_group.builder.description, aws_vpc_security_group_egress_rule.builder_https.description] : can(regex("^[a-zA-Z0-9. _:/()#,@+=&;{}!$*\\[\\]-]{1,255}$", text))])
    error_message = "EC2 takes these characters alone in descriptions of security groups and rules."
  }

  assert {
    condition     = one(one(aws_imagebuilder_image_recipe.this.block_device_mapping).ebs).volume_size == 80
    error_message = "No machine's disk may be smaller than the image's: with this size goes the least one of nodes/variables.tf, and MLflow's."
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.recipe.block_public_policy && aws_s3_bucket_public_access_block.recipe.restrict_public_buckets && aws_s3_bucket_versioning.recipe.versioning_configuration[0].status == "Enabled"
    error_message = "What an image is built from must not be public, and must keep its versions."
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.builder.policy).Statement : statement.Action] == [["s3:GetObject"]]
    error_message = "The building machine reads the recipe, and writes nothing of ours."
  }
}

run "known" {
  module {
    source = "./image"
  }

  assert {
    condition     = output.ami_id == "ami-0fedcba9876543210"
    error_message = "The image's id must be told."
  }
}

# --- Bad input ---

run "bundle_of_another_digest" {
  command = plan

  module {
    source = "./image"
  }

  variables {
    rds_bundle = { path = "image/requirements.in", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }
  }

  expect_failures = [var.rds_bundle]
}

run "parent_by_name" {
  command = plan

  module {
    source = "./image"
  }

  variables {
    parent_ami_id = "latest"
  }

  expect_failures = [var.parent_ami_id]
}
